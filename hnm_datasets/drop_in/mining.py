"""A drop-in replacement for `mine_hard_negatives` of sentence-transformers."""

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
from hnm_datasets.loaders.pairs import MERGED, from_pairs
from hnm_datasets.models.embeddings import embeddings_folder
from hnm_datasets.models.handles import load_model
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.runtime.interrupts import interruptible
from hnm_datasets.runtime.notices import one_call
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
#: Queries per batch when writing texts. Much larger batches are slower, because the process allocates new memory.
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

    The parameters and rows are those of `sentence_transformers.util.mine_hard_negatives` (6.2). The function chains
    `from_pairs`, `DenseNegatives`, `RankWindow`, the margins, a sampler and a shape. Use these steps directly to mine
    from other sources, to keep ids and ranks, or to see how many candidates each step leaves.

    Intentional differences from the original:

    - Texts are compared in normalized form. A passage that differs from a positive or from the query only in case,
      white space or Unicode form is never a negative. Among passages that differ only in this way, the best one is the
      only candidate, even if a margin or limit drops it afterwards. Anchors that differ only in this way are one
      question, and their positives are never negatives of each other.
    - `range_min` skips ranks of the retriever's full list. The original skips candidates that remain after the margins.
      `range_max` is the highest rank, plus the largest number of positives, as in the original.
    - A cross-encoder, if given, is always used: its scores order the candidates, and the margins, limits and
      `output_scores` use them. The original ignores it without a margin or limit.
    - `sampling_strategy="random"` depends on `seed` and the query, so runs are reproducible.
    - `keep_columns` keeps the dataset's other columns, with the values of the anchor's first pair.
    - Vectors are always cached on disk by weights, prompt and text; the same call after training encodes again.
    - An unknown column name raises an error instead of selecting the first column.
    - The printed percentage of a limit refers to the candidates that reached this limit, without positives. The
      original also counts positives and padding, and its `min_score` counts all candidates dropped before. The median
      is the mean of the two middle scores.

    Args:
        dataset: One (anchor, positive) pair per row, in any format that `from_pairs` supports. Several rows with the
            same anchor give it several positives.
        model: A `SentenceTransformer`, its path or Hub id. Vectors are scaled to length 1.
        anchor_column_name: The column of queries; None uses the first column.
        positive_column_name: The column of relevant texts; None uses the second column.
        corpus: Additional texts to mine from; None mines only from the positives.
        cross_encoder: A `CrossEncoder`, its path or Hub id, to rescore the candidates.
        range_min: The number of ranks to skip from the top.
        range_max: The last rank to consider; None uses `range_min` + `num_negatives` (ten times that with a margin,
            `max_score` or cross-encoder) + the largest number of positives.
        max_score: The highest score of a negative.
        min_score: The lowest score of a negative.
        absolute_margin: A negative must score at least this much below the lowest-scored positive.
        relative_margin: A negative must score below the lowest-scored positive by at least this fraction of the
            positive score's magnitude; 0.05 is the best value of NV-Retriever (https://arxiv.org/abs/2407.15831).
        num_negatives: Negatives per query.
        sampling_strategy: `"top"` takes the hardest candidates, `"random"` samples from all remaining candidates.
        query_prompt_name: The name of one of the model's prompts, for the anchors.
        query_prompt: The text before each anchor; takes precedence over `query_prompt_name`.
        corpus_prompt_name: The name of one of the model's prompts, for the passages.
        corpus_prompt: The text before each passage; takes precedence over `corpus_prompt_name`.
        include_positives: Keep the positives among the candidates, for reranking sets; implies the format `"n-tuple"`.
        output_format: `"triplet"`, `"n-tuple"`, `"labeled-pair"` or `"labeled-list"`.
        output_scores: Also write scores: a column `scores` of the positive and the negatives, or scores instead of
            labels.
        batch_size: Texts per forward pass, see `Corpus.embed`.
        faiss_batch_size: Queries that are mined at a time.
        use_faiss: Ignored: the search is always exact and in blocks.
        use_multi_process: Encode the passages in several processes: True for one per GPU, or four on the CPU; or a list
            of devices.
        verbose: Print statistics: the numbers of queries and positives, a table of the scores, the number of candidates
            dropped by each limit, and the number of missing rows.
        cache_folder: The folder for cached vectors; None uses the `datasets` cache directory.
        seed: The random seed for `"random"`.
        keep_columns: Keep the dataset's other columns.

    Returns:
        A dataset with the columns `(anchor, positive, negative)` for triplets, `(anchor, positive, negative_1, …)` for
        n-tuples, and `(anchor, positive, label)` and `(anchor, [positive, …], [label, …])` for the labeled formats. The
        anchor and positive columns have the same names as in the dataset.

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
            logger.warning("%s: include_positives=True keeps the ranking and uses output_format='n-tuple'.", name)
            output_format = "n-tuple"
    if range_min:
        warn_of_order(range_min, limits, rescored=cross_encoder is not None)
    pairs = len(dataset)
    if keep_columns:
        check_kept_columns(dataset, anchor, positive)
    else:
        dataset = dataset.select_columns([anchor, positive])

    with cache_root_at(None if cache_folder is None else Path(cache_folder)), interruptible(_explain_interrupt):
        # `report_queries` prints the number of queries, as in sentence-transformers.
        with one_call(MERGED):
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
        loaded = load_model(model, None, owner="mine_hard_negatives")
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
        "mine_hard_negatives was interrupted. Finished vectors and model scores are in the cache folder. Repeat the "
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
    """Return the largest number of pairs per anchor or of known positives per question."""
    pairs = int(pd.Series(anchors.to_pandas()).value_counts().iloc[0])
    if KNOWN_POSITIVE_IDS not in rows.column_names:
        return pairs
    known, own = (rows.with_format("arrow")[:][name] for name in (KNOWN_POSITIVE_IDS, POSITIVE_IDS))
    return max(pairs, int(pc.max(pc.add(pc.list_value_length(known), pc.list_value_length(own))).as_py()))


@contextlib.contextmanager
def _unlogged_missing() -> Iterator[None]:
    """Suppress the shape's warnings about missing negatives; the report at the end counts them."""
    shape_logger = logging.getLogger(Shape.__module__)
    level = shape_logger.level
    shape_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        shape_logger.setLevel(level)
