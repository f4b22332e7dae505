"""Mining in one call, for people who come from sentence-transformers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hnm_datasets import checks
from hnm_datasets.columns import KNOWN_POSITIVE_IDS, POSITIVE_IDS
from hnm_datasets.drop_in.chain import COUNTS, Chain, Mined, TableStep
from hnm_datasets.drop_in.options import (
    check_kept_columns,
    check_range,
    check_scores,
    chosen_columns,
    chosen_devices,
    chosen_prompt,
    warn_of_order,
    warn_of_positives,
)
from hnm_datasets.drop_in.report import (
    counts_of,
    report_cache,
    report_missing,
    report_queries,
    report_scores,
    report_skipped,
    say,
)
from hnm_datasets.drop_in.rows import Renamed, hide_positives, shape_of, show_positives
from hnm_datasets.indexes.dense import DenseIndex
from hnm_datasets.loaders.pairs import from_pairs
from hnm_datasets.models.embeddings import embeddings_folder
from hnm_datasets.models.handles import load_model
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.runtime.interrupts import interruptible
from hnm_datasets.runtime.timing import clock
from hnm_datasets.storage.folders import cache_root, cache_root_at
from hnm_datasets.transforms.filters.limits import RankWindow, ScoreBand
from hnm_datasets.transforms.filters.margins import AbsoluteMargin, RelativeMargin
from hnm_datasets.transforms.miners.dense import DenseNegatives
from hnm_datasets.transforms.samplers.sample import SampleNegatives, TopNegatives
from hnm_datasets.transforms.samplers.sort import SortNegatives
from hnm_datasets.transforms.scorers.bi_encoder import BiEncoderScores
from hnm_datasets.transforms.scorers.cross_encoder import CrossEncoderScores
from hnm_datasets.transforms.shapes.base import Shape

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

logger = logging.getLogger(__name__)

_FORMATS = ("triplet", "n-tuple", "labeled-pair", "labeled-list")
_STRATEGIES = ("top", "random")
#: Queries whose texts are in memory at once: far more would take longer, for memory that is new to the process.
_WRITTEN = 4096


def mine_hard_negatives(
    dataset: Rows,
    model: SentenceTransformer | str,
    anchor_column_name: str | None = None,
    positive_column_name: str | None = None,
    corpus: list[str] | None = None,
    cross_encoder: CrossEncoder | str | None = None,
    range_min: int = 0,
    range_max: int | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    num_negatives: int = 3,
    sampling_strategy: str = "top",
    query_prompt_name: str | None = None,
    query_prompt: str | None = None,
    corpus_prompt_name: str | None = None,
    corpus_prompt: str | None = None,
    include_positives: bool = False,
    output_format: str = "triplet",
    output_scores: bool = False,
    batch_size: int = 32,
    faiss_batch_size: int = 16384,
    use_faiss: bool = False,
    use_multi_process: list[str] | bool = False,
    verbose: bool = True,
    cache_folder: str | None = None,
    *,
    seed: int = 0,
    keep_columns: bool = False,
) -> Dataset:
    """Add hard negatives to a dataset of (anchor, positive) pairs in one call.

    Takes the parameters and gives the rows of `sentence_transformers.util.mine_hard_negatives` (6.2), by chaining
    `from_pairs`, `DenseNegatives`, `RankWindow`, the margins, a sampler and a shape. Use those steps themselves to mine
    from other sources, keep ids and ranks, or see what each step leaves.

    What differs, on purpose:

    - A positive is known by its normalized text: a passage that differs from it only in case, white space or Unicode
      form is no negative. Nor is the query's own text, and of such variants of one text only the best is a candidate,
      also if a margin or limit then drops it. Anchors that differ only so are one question, and the positives of one
      are no negatives of the other.
    - `range_min` skips ranks of the retriever's list, before anything was removed; there, it skips candidates that are
      left after the margins. `range_max` is, as there, the highest rank, plus the largest number of positives.
    - A cross-encoder is used whenever it is given: its scores order the candidates, and the margins, limits
      and `output_scores` use them. There, it does nothing without a margin or limit.
    - `sampling_strategy="random"` draws by `seed` and query, so that a run can be repeated.
    - `keep_columns` keeps the dataset's other columns, as they are in the anchor's first pair.
    - The vectors are always kept on disk by weights, prompt and text; the same call after training encodes again.
    - A column name that does not exist is an error and not the first column.
    - The printed share of a limit is of the candidates that reached it, without positives. There, positives and padding
      count too, and `min_score` counts all that was dropped before it. The median is the mean of the two middle scores.

    Args:
        dataset: One (anchor, positive) pair per row, in any form that `from_pairs` takes; several rows of one anchor
            are its positives.
        model: A `SentenceTransformer`, its path or Hub id. Vectors are scaled to length 1.
        anchor_column_name: The column of queries; None: the first.
        positive_column_name: The column of relevant texts; None: the second.
        corpus: Further texts to mine from; None: only the positives.
        cross_encoder: A `CrossEncoder`, its path or Hub id, that scores the candidates again.
        range_min: Skip that many ranks from the top.
        range_max: The last rank to consider; None: `range_min` + `num_negatives` (ten times that with a margin,
            `max_score` or cross-encoder) + the largest number of positives.
        max_score: The highest score of a negative.
        min_score: The lowest score of a negative.
        absolute_margin: A negative scores at least that much below the lowest-scored positive.
        relative_margin: A negative scores at least that share of its magnitude below the lowest-scored positive; 0.05
            is the best of NV-Retriever (https://arxiv.org/abs/2407.15831).
        num_negatives: Negatives per query.
        sampling_strategy: `"top"` takes the hardest, `"random"` draws among all that are left.
        query_prompt_name: The name of one of the model's prompts for the anchors.
        query_prompt: The text before each anchor; takes precedence over `query_prompt_name`.
        corpus_prompt_name: The name of one of the model's prompts for the passages.
        corpus_prompt: The text before each passage; takes precedence over `corpus_prompt_name`.
        include_positives: Leave the positives among the candidates, for reranking sets; the format is then `"n-tuple"`.
        output_format: `"triplet"`, `"n-tuple"`, `"labeled-pair"` or `"labeled-list"`.
        output_scores: Write the scores too: `scores` of the positive and the negatives, or in place of the labels.
        batch_size: Texts per forward pass, see `Corpus.embed`.
        faiss_batch_size: Queries that are mined at a time.
        use_faiss: Ignored: the search is exact and in blocks either way.
        use_multi_process: Encode the passages in several processes: one per GPU, or four on the CPU; or a list of
            devices.
        verbose: Print the statistics: queries and positives, a table of the scores, how many candidates each limit
            dropped, and how many rows are missing.
        cache_folder: Where vectors are kept; None: in the `datasets` cache directory.
        seed: For `"random"`.
        keep_columns: Keep the dataset's other columns.

    Returns:
        A dataset with the columns `(anchor, positive, negative)` for triplets, `(anchor, positive, negative_1, …)` for
        n-tuples, `(anchor, positive, label)` and `(anchor, [positive, …], [label, …])` for the labeled formats, under
        the dataset's own names for anchor and positive.

    Raises:
        KeyError: A column or prompt does not exist.
        ValueError: The dataset is empty, an option is out of range, or the ranks leave too few candidates.

    Example:
        >>> import numpy as np
        >>> from sentence_transformers import SentenceTransformer
        >>> from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> words = ["plates", "waves", "move", "roll", "why", "do", "[UNK]"]
        >>> places = {word: place for place, word in enumerate(words)}
        >>> tokenizer = Tokenizer(models.WordLevel(places, unk_token="[UNK]"))
        >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> weights = np.eye(len(words), dtype=np.float32)
        >>> model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)])
        >>> pairs = {"question": ["why do plates move", "why do waves roll"], "answer": ["plates move", "waves roll"]}
        >>> mine_hard_negatives(Dataset.from_dict(pairs), model, num_negatives=1, verbose=False)[0]
        {'question': 'why do plates move', 'answer': 'plates move', 'negative': 'waves roll'}
    """
    name = "mine_hard_negatives"
    dataset = dataset_of(dataset, name, "dataset")
    anchor, positive = chosen_columns(dataset, anchor_column_name, positive_column_name)
    num_negatives = checks.whole_number(name, "num_negatives", num_negatives, low=1)
    range_min = checks.whole_number(name, "range_min", range_min, low=0)
    faiss_batch_size = checks.whole_number(name, "faiss_batch_size", faiss_batch_size, low=1)
    checks.one_of(name, "sampling_strategy", sampling_strategy, _STRATEGIES)
    checks.one_of(name, "output_format", output_format, _FORMATS)
    check_scores(min_score, max_score)
    given = {"absolute_margin": absolute_margin, "relative_margin": relative_margin}
    given |= {"max_score": max_score, "min_score": min_score}
    limits = {limit: value for limit, value in given.items() if value is not None}
    if include_positives:
        warn_of_positives(range_min, range_max, limits, sampling_strategy)
        if output_format != "n-tuple":
            logger.warning("%s: include_positives=True keeps the order of the ranking, in the format 'n-tuple'.", name)
            output_format = "n-tuple"
    if range_min:
        warn_of_order(range_min, limits, rescored=cross_encoder is not None)
    pairs = len(dataset)
    if keep_columns:
        check_kept_columns(dataset, anchor, positive)
    else:
        dataset = dataset.select_columns([anchor, positive])

    with cache_root_at(None if cache_folder is None else Path(cache_folder)), interruptible(_explain_interrupt):
        passages, rows = from_pairs(dataset, anchor, positive, passages=corpus)
        most_positives = _most_positives(dataset.with_format("arrow")[:][anchor], rows)
        if range_max is None:
            selective = cross_encoder is not None or not limits.keys() <= {"min_score"}
            range_max = range_min + num_negatives * (10 if selective else 1) + most_positives
            if verbose:
                say(f"Setting range_max to {range_max} based on the provided parameters.")
        check_range(num_negatives, range_min, range_max)
        if verbose:
            report_queries(rows, pairs)
        loaded = load_model(model, None)
        with clock() as spent:
            embeddings = passages.embed(
                loaded,
                prompt=chosen_prompt(loaded.model, corpus_prompt, corpus_prompt_name),
                batch_size=batch_size,
                normalize=True,
                devices=chosen_devices(use_multi_process),
            )
        if verbose and cache_folder is not None:
            folder = embeddings_folder(embeddings.fingerprint)
            report_cache("corpus", folder, embeddings.vectors.shape, encoded="encode" in spent)
        search: dict[str, Any] = {
            "model": loaded,
            "query_prompt": chosen_prompt(loaded.model, query_prompt, query_prompt_name),
            "batch_size": batch_size,
        }
        depth = range_max + most_positives
        miner = DenseNegatives(passages, **search, k=depth, index=DenseIndex(embeddings))
        steps: list[TableStep] = [miner, RankWindow(range_min + 1, depth)]
        by = "score"
        if include_positives:
            by = "bi_encoder"
            scores = BiEncoderScores(passages, **search, name=by, embeddings=embeddings)
            steps = [hide_positives, *steps, show_positives, scores]
        if cross_encoder is not None:
            by = "teacher"
            steps += [CrossEncoderScores(passages, cross_encoder, batch_size=batch_size), SortNegatives(by)]
        sampler = (
            TopNegatives(num_negatives) if sampling_strategy == "top" else SampleNegatives(num_negatives, seed=seed)
        )
        of = by if output_scores else False
        shape = shape_of(passages, output_format, num_negatives, of, with_positives=include_positives)
        with clock() as spent:
            mined = rows.with_format("arrow").map(
                Mined(tuple(steps), tuple(_filter(limit, value, by) for limit, value in limits.items()), sampler, by),
                batched=True,
                batch_size=faiss_batch_size,
                desc="Mining hard negatives",
            )
        if verbose:
            if cache_folder is not None:
                folder = cache_root() / "vectors" / miner.model.fingerprint
                report_cache("query", folder, None, encoded="encode" in spent)
            say("Negative candidates mined, preparing dataset...")
        with _unlogged_missing():
            made = mined.remove_columns(COUNTS).map(
                Chain((shape, Renamed(output_format, anchor, positive, num_negatives, output_scores))),
                batched=True,
                batch_size=min(faiss_batch_size, _WRITTEN),
                desc="Writing texts",
            )
    if verbose:
        positives, possible = counts_of(rows, output_format, num_negatives)
        say(f"Mined {len(made):,} rows for {len(rows):,} queries with {positives:,} positives.")
        report_scores(mined, by, num_negatives if output_format == "n-tuple" else None)
        report_skipped(mined, limits)
        ways = ["range_max", *(["range_min"] if range_min else []), *limits]
        report_missing(possible - len(made), possible, ways)
    return made.with_format(None)


def _explain_interrupt() -> str:
    return (
        "mine_hard_negatives was interrupted. Vectors and scores of models are kept in the cache folder. Repeat the "
        "call to resume."
    )


def _filter(limit: str, value: float, by: str) -> TableStep:
    """Return the step of a limit."""
    if limit == "absolute_margin":
        return AbsoluteMargin(value, by=by, against="min")
    if limit == "relative_margin":
        return RelativeMargin(value, by=by, against="min")
    return ScoreBand(max=value, by=by) if limit == "max_score" else ScoreBand(min=value, by=by)


def _most_positives(anchors: pa.ChunkedArray, rows: Dataset) -> int:
    """Return the largest number of pairs of one anchor, or of known positives of one question."""
    pairs = int(pd.Series(anchors.to_pandas()).value_counts().iloc[0])
    if KNOWN_POSITIVE_IDS not in rows.column_names:
        return pairs
    known, own = (rows.with_format("arrow")[:][name] for name in (KNOWN_POSITIVE_IDS, POSITIVE_IDS))
    return max(pairs, int(pc.max(pc.add(pc.list_value_length(known), pc.list_value_length(own))).as_py()))


@contextlib.contextmanager
def _unlogged_missing() -> Iterator[None]:
    """Keep the shape from logging missing negatives for each batch; the report at the end counts them."""
    shape_logger = logging.getLogger(Shape.__module__)
    level = shape_logger.level
    shape_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        shape_logger.setLevel(level)
