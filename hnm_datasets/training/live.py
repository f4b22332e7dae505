"""Rows for training, with negatives drawn in each epoch, which may be exchanged while the training runs."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, NEGATIVE_SOURCE, POSITIVE_IDS, QUERY, score_column
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.mining.report import MiningReport
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.runtime.notices import tell_once
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.training.generations import tell_dropped, tell_missing
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
    """Make rows for the trainer: `anchor`, `positive`, `negative_1` to `negative_n` and a `label` for the loss.

    Texts are looked up when a batch is asked for, so nothing is copied. Each epoch draws n of a row's candidates. The
    draw depends only on the seed, the row and the epoch, so a training can be repeated and resumed. The label
    carries the known positives of each question to `HardNegativesRankingLoss`; losses that take no labels, such as
    `MultipleNegativesRankingLoss`, ignore it.

    Rows with the same question, which are those whose texts differ in nothing but Unicode form, case and white space,
    know each other's positives; so do rows with `known_positive_ids`.

    Candidates that are known positives of their question, or copies of one, are left out, whoever mined them.

    A row with fewer candidates than n stays: it is filled up with random passages, which the label marks as padding, so
    that `HardNegativesRankingLoss` leaves them out. How many are left out or padding is logged as a warning.

    The rows work with workers of the dataloader, with prompts, as parts of a `DatasetDict`, and with
    `BatchSamplers.NO_DUPLICATES` (and its hashed form, which looks at the negatives of the first epoch). Put
    `FollowEpochs` or `RefreshNegatives` among the trainer's callbacks: they set the epoch of the rows. The trainer
    itself sets it only for a single dataset, in one process, that is not resumed. Formats, exports and changes of
    columns need texts that are written: `rows_of_epoch` makes a plain dataset of an epoch.

    The trainers of other models take the rows too. For a sparse model, `SpladeLoss` around
    `HardNegativesRankingLoss(model, scale=1.0, similarity_fct=dot_score)` leaves known positives out. The stock
    `MultipleNegativesRankingLoss` of cross-encoders, sparse and multi-vector models ignores the label: it counts a
    passage of another row as a negative also where it is a known positive, and trains on padding.
    `BatchSamplers.NO_DUPLICATES` at least keeps equal texts out of a batch. Losses of cross-encoders that learn from
    labels, such as `LambdaLoss`, refuse live rows: make theirs with `ToLabeledLists`.

    Args:
        rows: Mined rows: a `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists; or queries
            without `negative_ids`, if `RefreshNegatives` is to mine for them.
        corpus: The passages.
        n: Negatives per row.
        positives: A row for `"each"` positive of a query, or for its `"first"` alone.
        teacher: Let the label carry this teacher's scores, for `HardNegativesRankingLoss(distill_weight=...)`;
            `"score"` for the retriever's.
        max_positives: How many positives a question may have; None: the most that one has now. Give room if
            `RefreshNegatives` runs a step that promotes candidates to positives.
        seed: Another seed draws others.
        quota: How many of the n are drawn of each source, by the names in `negative_source`, such as `{"dense": 2,
            "bm25": 1, "random": 1}` of rows that `FuseNegatives` mined; or a list of such, one for each epoch, of which
            the last holds for all after it (a curriculum). What two sources found counts for the first; where a source
            has too few, any other candidates make up for it.

    Columns read:
        `query`, `positive_ids`; `negative_ids` and `known_positive_ids`, if there; `query_id` for the draw, if there;
        the teacher's scores; with `quota` `negative_source`.

    Returns:
        One row per query and positive; a query without a positive has none.

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
    for start, table in zip(range(0, len(rows), _BATCH), tables.iter(_BATCH), strict=True):
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
    most = longest if max_positives is None else checks.whole_number(_NAME, "max_positives", max_positives, low=1)
    if most < longest:
        raise ValueError(f"{_NAME}: a query has {longest} positives, more than max_positives={most}.")
    parts = checked_quota(_NAME, quota, n)
    source = LiveTexts(corpus, n, teacher, most, seed, np.concatenate(keys), rows, questions, parts)
    mined = NEGATIVE_IDS in rows.column_names
    source.write(
        0,
        (_with_empty(table, mined, teacher, bool(parts)) for table in tables.iter(_BATCH)),
        cache_root() / "live" / source.rows_name,
    )
    queries_of, positives_of = (np.concatenate(pairs[name]) for name in ("anchor", "positive"))
    if mined:
        _report(source, queries_of)
    live = LiveNegatives(live_table(queries_of, positives_of, n))
    live.set_transform(source)
    return live


def _report(source: LiveTexts, queries_of: NDArray[np.int64]) -> None:
    """Refuse rows without any candidate, and tell what is left out and what is padding.

    Args:
        source: Where the texts come from.
        queries_of: The query of each live row. Shape (M,).
    """
    generation, n = source.generation(), source.n
    dropped, _ = generation.dropped
    tell_dropped(_NAME, generation)
    tell_missing(_NAME, generation, source.sources)
    lengths = generation.negatives.lengths[queries_of]
    if not lengths.any():
        known = f" {dropped:,} candidates were known positives of their question and are left out." if dropped else ""
        emptied = _emptied_by(source.rows)
        step = emptied or (
            "A filter whose limit does not suit the scores drops all candidates, such as RelativeMargin, "
            "AbsoluteMargin, TeacherThreshold, ScoreBand or RankWindow: look at the lengths of 'negative_ids' after "
            "each step."
        )
        raise ValueError(
            f"{_NAME}: no row has a candidate left, so that all negatives would be padding.{known} {step} Widen the "
            f"filter, mine with a larger k, or mine with another model. If RefreshNegatives is to mine, remove the "
            f"column 'negative_ids'."
        )
    missing = np.maximum(n - lengths, 0)
    if missing.any():
        tell_once(
            logger,
            f"{_NAME}: padding",
            "%s: %.1f%% of the negatives drawn are padding, because %d of %d rows have fewer than n=%d candidates. "
            "HardNegativesRankingLoss leaves padding out; other losses train on it. Mine with a larger k, widen the "
            "filters, or ask for fewer (n=).",
            _NAME,
            100 * missing.sum() / (n * len(lengths)),
            int((missing > 0).sum()),
            len(lengths),
            n,
        )


def _emptied_by(rows: Dataset) -> str | None:
    """Say which step of `mine` dropped all candidates, if rows remember one."""
    report = MiningReport.of(rows)
    steps = () if report is None else report.steps
    found = next((step for step in steps if step.candidates_in and not step.candidates_out), None)
    return None if found is None else f"{found.name} dropped all {found.candidates_in:,} candidates."


def _most_positives(own_lists: list[Ragged[NDArray[np.int64]]], questions: Questions | None, corpus: Corpus) -> int:
    """Return how many positives the question with the most of them has."""
    lengths = np.concatenate([own.lengths for own in own_lists])
    if questions is not None:
        own = Ragged(offsets_of(lengths), np.concatenate([own.values for own in own_lists]))
        lengths = questions.pooled(own, corpus.copy_codes).lengths
    return int(lengths.max())


def _with_empty(table: pa.Table, mined: bool, teacher: str | None, has_sources: bool) -> pa.Table:
    """Add empty lists of candidates to rows that were not mined yet."""
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
            # No negative, no distillation: what the positives' scores are does not matter yet.
            lengths = table[POSITIVE_IDS].combine_chunks().value_lengths().fill_null(0).to_numpy()
        values = pa.array(np.zeros(lengths.sum(), dtype=np.float32))
        table = table.append_column(name, list_array(offsets_of(lengths), values))
    return table


def _empty_lists(size: int, of: pa.DataType) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.zeros(size + 1, dtype=np.int32)), pa.array([], of))
