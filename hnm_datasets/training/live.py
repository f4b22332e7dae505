"""Training rows that draw new negatives in each epoch; `RefreshNegatives` can replace the negatives during training."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, NEGATIVE_SOURCE, POSITIVE_IDS, QUERY, score_column
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.mining.report import emptied_by
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.runtime.bars import iter_with_bar
from hnm_datasets.runtime.notices import tell_once
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.training.generations import warn_of_dropped, warn_of_missing
from hnm_datasets.training.live_rows import LiveNegatives
from hnm_datasets.training.live_table import live_table
from hnm_datasets.training.live_texts import LiveTexts
from hnm_datasets.training.questions import Questions
from hnm_datasets.training.quota import Quota, checked_quota
from hnm_datasets.transforms.shapes.positives import choose_positives

logger = logging.getLogger(__name__)

_POSITIVES = ("each", "first")
_BATCH = 1000
_NAME = "live_negatives"


def live_negatives(
    rows: Rows,
    corpus: Corpus,
    n: int = 1,
    *,
    positives: str = "each",
    teacher: str | None = None,
    max_positives: int | None = None,
    seed: int = 0,
    quota: Quota | None = None,
) -> LiveNegatives:
    """Create rows for the trainer: `anchor`, `positive`, `negative_1` to `negative_n`, and a `label` for the loss.

    Texts are looked up when a batch is read, so nothing is copied. Each epoch draws n of a row's candidates. The draw
    depends only on the seed, the row and the epoch, so training is reproducible and can be resumed. The label passes
    the known positives of each question to `HardNegativesRankingLoss`. Losses that do not use labels, such as
    `MultipleNegativesRankingLoss`, ignore it.

    Rows with the same question share their positives. Two questions are the same if their texts differ only in Unicode
    form, case and white space. The ids in `known_positive_ids` count as positives too.

    Candidates that are known positives of their question, or copies of one, are dropped, whichever step mined them.

    A row with fewer than n candidates is filled up with random passages. The label marks these as padding, so
    `HardNegativesRankingLoss` ignores them. A warning reports the numbers of dropped candidates and of padding.

    The rows work with dataloader workers, with prompts, in a `DatasetDict`, and with `BatchSamplers.NO_DUPLICATES`
    (whose hashed variant checks only the negatives of the first epoch). Pass `FollowEpochs` or `RefreshNegatives` as a
    callback to the trainer: they set the epoch of the rows. The trainer itself sets the epoch only for a single dataset
    in one process, and not in a resumed training. Formats, exports and column changes are not possible, because the
    table holds no texts; use `rows_of_epoch` to create a plain dataset of an epoch.

    The trainers of other model types accept the rows too. For a sparse model, wrap
    `HardNegativesRankingLoss(model, scale=1.0, similarity_fct=dot_score)` in `SpladeLoss` to mask known positives. The
    `MultipleNegativesRankingLoss` of cross-encoders, sparse and multi-vector models ignores the label: it uses known
    positives of other rows as negatives, and trains on padding. `BatchSamplers.NO_DUPLICATES` at least avoids equal
    texts in a batch. Cross-encoder losses that learn from labels, such as `LambdaLoss`, do not accept live rows; create
    their rows with `ToLabeledLists`.

    Args:
        rows: Mined rows: a `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists. Rows without
            `negative_ids` are allowed if `RefreshNegatives` mines their negatives.
        corpus: The passages.
        n: Negatives per row.
        positives: `"each"`: one row per positive of a query; `"first"`: one row per query, with its first positive.
        teacher: Include the scores of this teacher in the label, for `HardNegativesRankingLoss(distill_weight=...)`;
            `"score"`: the scores of the retriever.
        max_positives: The maximum number of positives of a question; None: the largest number in the rows. Set it
            higher if `RefreshNegatives` runs a step that promotes candidates to positives.
        seed: Seed for drawing the negatives.
        quota: The number of negatives to draw from each source, by its name in `negative_source`, such as
            `{"dense": 2, "bm25": 1, "random": 1}` for rows mined with `FuseNegatives`. The numbers must add up to n.
            A list of such dicts gives one per epoch (a curriculum); later epochs use the last one. A candidate that two
            sources found counts for the first. If a source has too few candidates, any others are drawn instead.

    Columns read:
        `query`, `positive_ids`; if present, `negative_ids`, `known_positive_ids`, and `query_id` (for the draw); the
        teacher's scores; with `quota`, `negative_source`.

    Returns:
        One row per query and positive. Queries without a positive have no row.

    Raises:
        KeyError: A column is missing, or an id is not in the corpus.
        ValueError: No query has a positive, no row has a candidate left, or an option is out of range.

    Example:
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=4), batched=True)
        >>> row = live_negatives(mined, corpus, n=2)[0]
        >>> list(row), row["anchor"]
        (['anchor', 'positive', 'negative_1', 'negative_2', 'label'], 'what causes earthquakes?')
    """
    check_corpus(_NAME, corpus)
    rows = dataset_of(rows, _NAME)
    n = checks.whole_number(_NAME, "n", n, low=1)
    seed = checks.whole_number(_NAME, "seed", seed, low=0)
    checks.one_of(_NAME, "positives", positives, _POSITIVES)
    tables = rows.with_format("arrow")
    pairs: dict[str, list[NDArray[np.int64]]] = {"anchor": [], "positive": []}
    keys, own_lists = [], []
    batches = iter_with_bar(tables, _BATCH, "Reading positives", "queries")
    for start, table in zip(range(0, len(rows), _BATCH), batches, strict=True):
        batch = Batch(table, step=_NAME)
        batch.strings(QUERY)
        own = batch.id_lists(POSITIVE_IDS)
        keys.append(batch.row_keys())
        examples = choose_positives(own.offsets, positives, np.empty(0, dtype=np.uint64), seed)
        there = examples.positives >= 0
        found = batch.rows_in(POSITIVE_IDS, corpus).values
        own_lists.append(Ragged(own.offsets, found))
        pairs["anchor"].append(examples.owners[there] + start)
        pairs["positive"].append(found[examples.positives[there]])
    if not sum(map(len, pairs["positive"])):
        raise ValueError(f"{_NAME}: no row has a positive. Add them with attach_positives, from qrels.")
    questions = Questions.read(rows, corpus, _NAME, _BATCH)
    longest = _most_positives(own_lists, questions, corpus)
    room = longest if max_positives is None else checks.whole_number(_NAME, "max_positives", max_positives, low=1)
    if room < longest:
        raise ValueError(f"{_NAME}: a query has {longest} positives, more than max_positives={room}.")
    parts = checked_quota(_NAME, quota, n)
    source = LiveTexts(corpus, n, teacher, room, seed, np.concatenate(keys), rows, questions, parts)
    mined = NEGATIVE_IDS in rows.column_names
    source.write(
        0,
        (
            _with_empty(table, mined, teacher, bool(parts))
            for table in iter_with_bar(tables, _BATCH, "Reading negatives", "queries")
        ),
        cache_root() / "live" / source.rows_name,
    )
    queries_of, positives_of = (np.concatenate(pairs[name]) for name in ("anchor", "positive"))
    if mined:
        _report(source, queries_of, positives)
    live = LiveNegatives(live_table(queries_of, positives_of, n))
    live.set_transform(source)
    return live


def _report(source: LiveTexts, queries_of: NDArray[np.int64], positives: str) -> None:
    """Raise if no row has a candidate, and warn about dropped candidates and padding.

    Args:
        source: The transform of the live rows.
        queries_of: The query of each live row. Shape (M,).
        positives: The option of `live_negatives`.
    """
    generation, n = source.generation(), source.n
    dropped, _ = generation.dropped
    warn_of_dropped(_NAME, generation)
    warn_of_missing(_NAME, generation, source.sources)
    lengths = generation.negatives.lengths[queries_of]
    if not lengths.any():
        known = f" {dropped:,} candidates were dropped as known positives of their question." if dropped else ""
        emptied = emptied_by(source.rows)
        step = emptied or (
            "A filter such as RelativeMargin, AbsoluteMargin, TeacherThreshold, ScoreBand or RankWindow drops all "
            "candidates if its limit does not fit the scores: check the lengths of 'negative_ids' after each step."
        )
        raise ValueError(
            f"{_NAME}: no row has a candidate left, so all negatives would be padding.{known} {step} Widen the "
            f"filter, mine with a larger k, or mine with another model. If RefreshNegatives should mine the negatives, "
            f"remove the column 'negative_ids'."
        )
    missing = np.maximum(n - lengths, 0)
    if missing.any():
        tell_once(
            logger,
            f"{_NAME}: padding",
            "%s: %.1f%% of the negatives drawn are padding, because %d of %d rows%s have fewer than n=%d candidates. "
            "HardNegativesRankingLoss ignores padding; other losses train on it. Mine with a larger k, widen the "
            "filters, or choose a smaller n.",
            _NAME,
            100 * missing.sum() / (n * len(lengths)),
            int((missing > 0).sum()),
            len(lengths),
            " (one per positive)" if positives == "each" else "",
            n,
        )


def _most_positives(own_lists: list[Ragged[NDArray[np.int64]]], questions: Questions | None, corpus: Corpus) -> int:
    """Return the largest number of positives of a question."""
    lengths = np.concatenate([own.lengths for own in own_lists])
    if questions is not None:
        own = Ragged(offsets_of(lengths), np.concatenate([own.values for own in own_lists]))
        lengths = questions.pooled(own, corpus.copy_codes).lengths
    return int(lengths.max())


def _with_empty(table: pa.Table, mined: bool, teacher: str | None, has_sources: bool) -> pa.Table:
    """Add empty lists of candidates to rows that are not mined yet."""
    if mined:
        return table
    if has_sources:
        table = table.append_column(NEGATIVE_SOURCE, _empty_lists(len(table), pa.string()))
    table = table.append_column(NEGATIVE_IDS, _empty_lists(len(table), pa.string()))
    if teacher is None:
        return table
    for part in ("positive", "negative"):
        name = score_column(teacher, of=part)
        if name in table.column_names:
            table = table.drop_columns([name])
        lengths = np.zeros(len(table), dtype=np.int64)
        if part == "positive":
            # Without negatives there is no distillation, so the scores of the positives are not used yet.
            lengths = table[POSITIVE_IDS].combine_chunks().value_lengths().fill_null(0).to_numpy()
        values = pa.array(np.zeros(lengths.sum(), dtype=np.float32))
        table = table.append_column(name, list_array(offsets_of(lengths), values))
    return table


def _empty_lists(size: int, of: pa.DataType) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.zeros(size + 1, dtype=np.int32)), pa.array([], of))
