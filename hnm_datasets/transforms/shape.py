"""Shaping: mined rows become the rows that a trainer takes, with texts in place of ids.

A shape step changes the number of rows, which `Dataset.map` handles badly: a column that stays is beside the wrong rows
when the totals happen to agree. So in `Dataset.map` a shape step also repeats the batch's other columns for each row it
makes and takes the lists away that it has used up; `remove_columns=` works as usual.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.columns import NEGATIVE_IDS, NEGATIVE_SCORES, POSITIVE_IDS, POSITIVE_SCORES, QUERY, QUERY_ID, Batch
from hnm_datasets.corpus import Corpus
from hnm_datasets.ragged import first_positions, list_array, offsets_of
from hnm_datasets.transforms import kernels
from hnm_datasets.transforms.base import Transform

logger = logging.getLogger(__name__)

_MISSING = ("drop", "keep", "pad", "error")


class Examples(NamedTuple):
    """What M rows to make are made of.

    Attributes:
        owners: The row of the batch that each example comes from. Shape (M,).
        positives: Its positive, as a flat place in `positive_ids`; -1 for none. Shape (M,).
    """

    owners: NDArray[np.int64]
    positives: NDArray[np.int64]


def choose_positives(offsets: NDArray[np.int64], how: str, keys: NDArray[np.uint64], seed: int) -> Examples:
    """Choose one positive per example; a row without a positive gives one example without.

    Args:
        offsets: Where each row's positives begin and end. Shape (B + 1,).
        how: `"each"`, `"first"` or `"random"`.
        keys: 64 bits that identify each row, for `"random"`. Shape (B,).
        seed: For `"random"`.
    """
    lengths = np.diff(offsets)
    if how == "each":
        counts = np.maximum(lengths, 1)
        owners = np.repeat(np.arange(len(lengths)), counts)
        places = first_positions(offsets, counts)
        return Examples(owners, np.where(lengths[owners] > 0, places, -1))
    places = offsets[:-1].copy()
    if how == "random":
        mask = np.empty(offsets[-1], dtype=bool)
        kernels.sample_mask(offsets, np.zeros(len(mask)), keys, seed, 1, mask)
        places[lengths > 0] = np.flatnonzero(mask)
    return Examples(np.arange(len(lengths)), np.where(lengths > 0, places, -1))


@dataclass(frozen=True)
class Shape(Transform):
    """A step that turns mined rows into rows for a trainer. Subclasses fill in `_shape`."""

    input_columns: ClassVar[tuple[str, ...]] = (QUERY, POSITIVE_IDS, NEGATIVE_IDS)

    corpus: Corpus
    n: int | None = None
    positives: str = "each"
    missing: str = "drop"
    with_ids: bool = False
    with_scores: bool = False
    seed: int = 0

    _positives: ClassVar[tuple[str, ...]] = ("each", "first", "random")

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.corpus, Corpus):
            raise TypeError(
                f"{name}: corpus must be a Corpus, got {type(self.corpus).__name__}. See Corpus.from_dataset."
            )
        if self.n is not None:
            self._set(n=checks.whole_number(name, "n", self.n, low=1))
        self._set(
            positives=checks.one_of(name, "positives", self.positives, self._positives),
            missing=checks.one_of(name, "missing", self.missing, _MISSING),
            with_ids=checks.yes_or_no(name, "with_ids", self.with_ids),
            with_scores=checks.yes_or_no(name, "with_scores", self.with_scores),
            seed=checks.whole_number(name, "seed", self.seed, low=0),
        )

    def __call__(self, rows: Any) -> Any:
        """Answer one batch of rows; see `Transform.__call__`. The number of rows changes."""
        batch = Batch(rows, step=type(self).__name__)
        for name in self.input_columns:
            batch.require(name)
        owners, columns = self._shape(_Parts(self, batch))
        taken = [name for name in columns if batch.has(name)]
        if taken:
            raise ValueError(
                f"{batch.step} writes the columns {list(columns)}, and the rows have {taken} already. Rename or remove "
                f"them first."
            )
        return _reshaped(batch, owners, columns)

    def _apply(self, batch: Batch) -> Mapping[str, pa.Array]:
        return self._shape(_Parts(self, batch))[1]

    @abstractmethod
    def _shape(self, parts: _Parts) -> tuple[NDArray[np.int64], dict[str, pa.Array]]:
        """Return the batch's row that each new row comes from, and the new columns."""


def _reshaped(batch: Batch, owners: NDArray[np.int64], columns: dict[str, pa.Array]) -> Any:
    rows: Any = batch.rows
    used = {name for name in batch.names if name.startswith(("negative_", "positive_"))} | {QUERY}
    others = [name for name in batch.names if name not in used]
    if isinstance(rows, pa.Table):
        return pa.table({name: batch.column(name).take(pa.array(owners)) for name in others} | columns)
    if isinstance(rows, pd.DataFrame):
        repeated = rows[others].iloc[owners].reset_index(drop=True)
        return Batch(repeated, batch.step).answer(columns)
    if hasattr(rows, "keys_to_format"):
        # What is changed in this batch in place is what `map` merges, and from which it takes `remove_columns` away.
        for name in others:
            rows[name] = batch.column(name).take(pa.array(owners))
        for name in used:
            del rows[name]
        return batch.as_mapping(columns)
    new = batch.as_mapping(columns)
    as_many = len(owners) == len(batch) and not np.array_equal(owners, np.arange(len(batch)))
    if as_many and isinstance(rows, dict) and all(isinstance(values, list) for values in rows.values()):
        # A stream compares only the numbers of rows, and here they agree although the rows do not. Handing back the
        # batch itself, with all its columns repeated, keeps them beside their rows and lets `remove_columns` work.
        for name in batch.names:
            rows[name] = [rows[name][owner] for owner in owners.tolist()]
        rows.update(new)
        return rows
    return new


class _Parts:
    """The parts of a batch that shapes are made of."""

    def __init__(self, step: Shape, batch: Batch) -> None:
        self.step, self.batch = step, batch
        self.queries = batch.strings(QUERY)
        self.positive_ids = batch.string_lists(POSITIVE_IDS)
        self.negative_ids = batch.candidates()[NEGATIVE_IDS]
        self.scores: dict[str, pa.Array] = {}
        if step.with_scores:
            for part, name, ids in (
                ("positive", POSITIVE_SCORES, self.positive_ids),
                ("negative", NEGATIVE_SCORES, self.negative_ids),
            ):
                scores = batch.number_lists(name)
                batch.check_aligned(f"{part}_ids", ids, name, scores)
                self.scores[part] = pa.array(scores.values).cast(pa.float32())

    def examples(self) -> Examples:
        """Choose the positives as the step says."""
        keys = self.batch.row_keys() if self.step.positives == "random" else np.empty(0, dtype=np.uint64)
        return choose_positives(self.positive_ids.offsets, self.step.positives, keys, self.step.seed)

    def available(self, wanted: int | None) -> NDArray[np.int64]:
        """Return how many negatives each row of the batch gives, at most `wanted`. Shape (B,)."""
        lengths = self.negative_ids.lengths
        return lengths if wanted is None else np.minimum(lengths, wanted)

    def check_missing(self, short: NDArray[np.bool_], what: str) -> None:
        """Raise for `missing="error"`; otherwise report how many rows are short and what becomes of them."""
        if not short.any():
            return
        row = int(np.flatnonzero(short)[0])
        if self.step.missing == "error":
            raise ValueError(
                f"{self.batch.step}: {self.batch.describe(row)} has {int(self.negative_ids.lengths[row])} negatives and "
                f"{int(self.positive_ids.lengths[row])} positives, too few for {what}. Mine with a larger k, widen the "
                f"filters, ask for fewer (n=), or choose what happens to such rows: missing='drop', 'keep' or 'pad'."
            )
        logger.warning(
            "%s: %d of %d rows have too few passages for %s (missing=%r).",
            self.batch.step,
            int(short.sum()),
            len(short),
            what,
            self.step.missing,
        )

    def passages(self, part: str, places: NDArray[np.int64]) -> pa.Array:
        """Return the texts of passages by flat place in the id column; null for -1."""
        ids = self.positive_ids if part == "positive" else self.negative_ids
        found = self.step.corpus.rows_of_lists(f"{part}_ids", ids, self.batch.step, self.batch.describe)
        rows = found.values[places[places >= 0]]
        texts = self.step.corpus.texts(rows).cast(pa.string())
        return texts.take(_with_gaps(places))

    def named(self, part: str, kind: str, places: NDArray[np.int64]) -> pa.Array:
        """Return the ids or scores of passages by flat place; null for -1."""
        ids = self.positive_ids if part == "positive" else self.negative_ids
        values = ids.values if kind == "id" else self.scores[part]
        return values.take(pa.array(places, mask=places < 0))

    def extras(
        self, columns: dict[str, tuple[str, NDArray[np.int64]]], owners: NDArray[np.int64]
    ) -> dict[str, pa.Array]:
        """Return the id and score columns that the step was asked for, given each column's part and places."""
        extra: dict[str, pa.Array] = {}
        if self.step.with_ids:
            if self.batch.has(QUERY_ID):
                extra["anchor_id"] = self.batch.strings(QUERY_ID).take(pa.array(owners))
            extra |= {f"{name}_id": self.named(part, "id", places) for name, (part, places) in columns.items()}
        if self.step.with_scores:
            extra |= {f"{name}_score": self.named(part, "score", places) for name, (part, places) in columns.items()}
        return extra


def _with_gaps(places: NDArray[np.int64]) -> pa.Array:
    """Number the places that are not -1 from 0 on; null for the others."""
    return pa.array(np.cumsum(places >= 0) - 1, mask=places < 0)


@dataclass(frozen=True)
class ToTriplets(Shape):
    """Make one row per query, positive and negative: the form that most losses of sentence-transformers take.

    Args:
        corpus: The passages.
        n: At most this many negatives per query; None: all.
        positives: Of several positives take `"each"` (with every negative), the `"first"` or a `"random"` one.
        missing: A query with no negative or no positive: `"drop"` leaves it out, `"keep"` makes a row with null in the
            gap, `"error"` raises. `"pad"` repeats a query's own negatives until there are n; where there is none to
            repeat, the query is left out. How many are short is logged as a warning.
        with_ids: Write also `anchor_id` (if there is a `query_id`), `positive_id` and `negative_id`.
        with_scores: Write also the retriever's `positive_score` and `negative_score`.
        seed: For `positives="random"`, with the row's key.

    Columns read:
        `query`, `positive_ids`, `negative_ids`; with scores `positive_scores`, `negative_scores`.

    Columns written:
        `anchor`, `positive`, `negative`. The lists and `query` are used up; other columns are repeated.

    Raises:
        KeyError: A column is missing or an id is not in the corpus.
        ValueError: An unknown option, or a short row with `missing="error"`.

    Example:
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=2), batched=True)
        >>> triplets = mined.map(ToTriplets(corpus), batched=True, remove_columns=mined.column_names)
        >>> triplets.column_names, len(triplets)
        (['anchor', 'positive', 'negative'], 2)
    """

    output_columns: ClassVar[tuple[str, ...]] = ("anchor", "positive", "negative")

    def _shape(self, parts: _Parts) -> tuple[NDArray[np.int64], dict[str, pa.Array]]:
        examples = parts.examples()
        available = parts.available(self.n)
        no_positive = parts.positive_ids.lengths == 0
        short = no_positive | (available < (1 if self.n is None or self.missing in ("drop", "keep") else self.n))
        parts.check_missing(short, f"{self.n or 1} negatives and a positive")
        counts = available[examples.owners]
        if self.missing == "pad" and self.n is not None:
            counts = np.where(counts > 0, self.n, 0)
        if self.missing == "keep":
            counts = np.maximum(counts, 1)
        else:
            counts = np.where(examples.positives < 0, 0, counts)
        owners = np.repeat(examples.owners, counts)
        positives = np.repeat(examples.positives, counts)
        negatives = _cycled(parts.negative_ids.offsets, available, owners, counts)
        columns = {
            "anchor": parts.queries.take(pa.array(owners)),
            "positive": parts.passages("positive", positives),
            "negative": parts.passages("negative", negatives),
        }
        extra = parts.extras({"positive": ("positive", positives), "negative": ("negative", negatives)}, owners)
        return owners, columns | extra


def _cycled(
    offsets: NDArray[np.int64], available: NDArray[np.int64], owners: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return flat places of each example's negatives, from the first on and again from the first; -1 for none."""
    within = np.arange(len(owners)) - np.repeat(offsets_of(counts)[:-1], counts)
    own = available[owners]
    return np.where(own > 0, offsets[:-1][owners] + within % np.maximum(own, 1), -1)


@dataclass(frozen=True)
class ToNTuples(Shape):
    """Make one row per query and positive with n negatives in columns of their own.

    `MultipleNegativesRankingLoss` and its relatives take such rows, and use all negatives of a batch for each query.

    Args:
        corpus: The passages.
        n: Negatives per row.
        positives: Of several positives take `"each"` (a row each), the `"first"` or a `"random"` one.
        missing: A query with fewer than n negatives or no positive: `"drop"` leaves it out, `"keep"` writes null in the
            gaps, `"error"` raises, `"pad"` repeats the query's own negatives (with none to repeat, or no positive, the
            query is left out). How many are short is logged as a warning.
        with_ids: Write also `anchor_id` (if there is a `query_id`), `positive_id`, `negative_1_id`, …
        with_scores: Write also the retriever's `positive_score`, `negative_1_score`, …
        seed: For `positives="random"`, with the row's key.

    Columns read:
        `query`, `positive_ids`, `negative_ids`; with scores `positive_scores`, `negative_scores`.

    Columns written:
        `anchor`, `positive`, `negative_1` to `negative_n`. The lists and `query` are used up; other columns are
        repeated.

    Raises:
        KeyError: A column is missing or an id is not in the corpus.
        ValueError: An unknown option, or a short row with `missing="error"`.

    Example:
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=4), batched=True)
        >>> tuples = mined.map(ToNTuples(corpus, n=2), batched=True, remove_columns=mined.column_names)
        >>> tuples.column_names, len(tuples)
        (['anchor', 'positive', 'negative_1', 'negative_2'], 1)
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n is None:
            raise ValueError("ToNTuples: n, the number of negatives per row, must be given: ToNTuples(corpus, n=5).")

    @property
    def output_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step writes."""
        return ("anchor", "positive", *(f"negative_{place + 1}" for place in range(self.n or 0)))

    def _shape(self, parts: _Parts) -> tuple[NDArray[np.int64], dict[str, pa.Array]]:
        n = self.n or 0
        examples = parts.examples()
        available = parts.available(n)
        parts.check_missing((available < n) | (parts.positive_ids.lengths == 0), f"{n} negatives and a positive")
        own = available[examples.owners]
        if self.missing == "drop":
            stay = (own == n) & (examples.positives >= 0)
        elif self.missing == "pad":
            stay = (own > 0) & (examples.positives >= 0)
        else:
            stay = np.ones(len(own), dtype=bool)
        owners, positives, own = examples.owners[stay], examples.positives[stay], own[stay]
        starts = parts.negative_ids.offsets[:-1][owners]
        places: dict[str, tuple[str, NDArray[np.int64]]] = {"positive": ("positive", positives)}
        for place in range(n):
            source = place % np.maximum(own, 1) if self.missing == "pad" else place
            places[f"negative_{place + 1}"] = ("negative", np.where(own > source, starts + source, -1))
        columns = {"anchor": parts.queries.take(pa.array(owners))}
        columns |= {name: parts.passages(part, at) for name, (part, at) in places.items()}
        return owners, columns | parts.extras(places, owners)


@dataclass(frozen=True)
class ToLabeledPairs(Shape):
    """Make one row per query and passage with a label: 1 for positives, 0 for negatives.

    `CrossEncoderTrainer` takes such rows for `BinaryCrossEntropyLoss`. Negatives come once per query, however many
    positives it has.

    Args:
        corpus: The passages.
        n: At most this many negatives per query; None: all.
        positives: Of several positives take `"each"`, the `"first"` or a `"random"` one.
        missing: A query with no positive or fewer negatives than n (than 1, without n): `"keep"` makes the pairs that
            there are, `"drop"` leaves the query out if it has no positive or no negative at all, `"error"` raises,
            `"pad"` repeats the query's own negatives. How many are short is logged as a warning.
        with_ids: Write also `anchor_id` (if there is a `query_id`) and `passage_id`.
        with_scores: Write also the retriever's `passage_score`.
        seed: For `positives="random"`, with the row's key.

    Columns read:
        `query`, `positive_ids`, `negative_ids`; with scores `positive_scores`, `negative_scores`.

    Columns written:
        `anchor`, `passage`, `label` (float32). The lists and `query` are used up; other columns are repeated.

    Raises:
        KeyError: A column is missing or an id is not in the corpus.
        ValueError: An unknown option, or a short row with `missing="error"`.

    Example:
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=2), batched=True)
        >>> pairs = mined.map(ToLabeledPairs(corpus), batched=True, remove_columns=mined.column_names)
        >>> pairs.column_names, pairs["label"][:]
        (['anchor', 'passage', 'label'], [1.0, 0.0, 0.0])
    """

    output_columns: ClassVar[tuple[str, ...]] = ("anchor", "passage", "label")

    def _shape(self, parts: _Parts) -> tuple[NDArray[np.int64], dict[str, pa.Array]]:
        lists = _labeled(self, parts, parts.examples(), pooled=True)
        owners = lists.owners[lists.rows]
        columns = {
            "anchor": parts.queries.take(pa.array(owners)),
            "passage": lists.column(parts, "text"),
            "label": pa.array(lists.labels),
        }
        return owners, columns | lists.extras(parts, owners, "passage", lambda array: array)


@dataclass(frozen=True)
class ToLabeledLists(Shape):
    """Make one row per query with the list of its passages and their labels: 1 for positives, 0 for negatives.

    `CrossEncoderTrainer` takes such rows for its listwise losses (`LambdaLoss`, `ListNetLoss`, …).

    Args:
        corpus: The passages.
        n: At most this many negatives per list; None: all.
        positives: `"all"` positives in one list; or of several positives `"each"` in a list of its own, the `"first"`
            or a `"random"` one.
        missing: A query with no positive or fewer negatives than n (than 1, without n): `"keep"` makes the list that
            there is, `"drop"` leaves the query out if it has no positive or no negative at all, `"error"` raises,
            `"pad"` repeats the query's own negatives. How many are short is logged as a warning.
        with_ids: Write also `anchor_id` (if there is a `query_id`) and `passage_ids`.
        with_scores: Write also the retriever's `passage_scores`.
        seed: For `positives="random"`, with the row's key.

    Columns read:
        `query`, `positive_ids`, `negative_ids`; with scores `positive_scores`, `negative_scores`.

    Columns written:
        `anchor`, `passages`, `labels` (lists of float32). The lists and `query` are used up; other columns are
        repeated.

    Raises:
        KeyError: A column is missing or an id is not in the corpus.
        ValueError: An unknown option, or a short row with `missing="error"`.

    Example:
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=2), batched=True)
        >>> lists = mined.map(ToLabeledLists(corpus), batched=True, remove_columns=mined.column_names)
        >>> lists.column_names, lists["labels"][:]
        (['anchor', 'passages', 'labels'], [[1.0, 0.0, 0.0]])
    """

    output_columns: ClassVar[tuple[str, ...]] = ("anchor", "passages", "labels")
    _positives: ClassVar[tuple[str, ...]] = ("all", "each", "first", "random")

    positives: str = "all"

    def _shape(self, parts: _Parts) -> tuple[NDArray[np.int64], dict[str, pa.Array]]:
        if self.positives == "all":
            lists = _labeled(
                self, parts, choose_positives(parts.positive_ids.offsets, "each", _NO_KEYS, 0), pooled=True
            )
        else:
            lists = _labeled(self, parts, parts.examples(), pooled=False)

        def listed(array: pa.Array) -> pa.Array:
            return list_array(lists.offsets, array)

        columns = {
            "anchor": parts.queries.take(pa.array(lists.owners)),
            "passages": listed(lists.column(parts, "text")),
            "labels": listed(pa.array(lists.labels)),
        }
        return lists.owners, columns | lists.extras(parts, lists.owners, "passages", listed)


_NO_KEYS = np.empty(0, dtype=np.uint64)


class _Labeled(NamedTuple):
    """L lists of passages, positives first, P passages in all.

    Attributes:
        owners: The batch's row that each list belongs to. Shape (L,).
        offsets: Where each list begins and ends. Shape (L + 1,).
        labels: 1 for positives, 0 for negatives. Shape (P,).
        places: Flat places in `positive_ids` or `negative_ids`. Shape (P,).
    """

    owners: NDArray[np.int64]
    offsets: NDArray[np.int64]
    labels: NDArray[np.float32]
    places: NDArray[np.int64]

    @property
    def rows(self) -> NDArray[np.int64]:
        """The list that each passage is in. Shape (P,)."""
        return np.repeat(np.arange(len(self.owners)), np.diff(self.offsets))

    def column(self, parts: _Parts, kind: str) -> pa.Array:
        """Return the text, id or score of each passage. Shape (P,)."""
        both = []
        for part, label in (("positive", 1), ("negative", 0)):
            places = np.where(self.labels == label, self.places, -1)
            both.append(parts.passages(part, places) if kind == "text" else parts.named(part, kind, places))
        return pc.coalesce(*both)

    def extras(self, parts: _Parts, owners: NDArray[np.int64], name: str, wrap: Any) -> dict[str, pa.Array]:
        """Return the id and score columns that the step was asked for."""
        stem, plural = name.removesuffix("s"), "s" if name.endswith("s") else ""
        extra = parts.extras({}, owners)
        if parts.step.with_ids:
            extra[f"{stem}_id{plural}"] = wrap(self.column(parts, "id"))
        if parts.step.with_scores:
            extra[f"{stem}_score{plural}"] = wrap(self.column(parts, "score"))
        return extra


def _labeled(step: Shape, parts: _Parts, examples: Examples, *, pooled: bool) -> _Labeled:
    """Collect each query's chosen positives and its negatives into lists.

    Args:
        step: The step, for its options.
        parts: The batch.
        examples: The chosen positives.
        pooled: One list per query with all chosen positives; else one per positive.
    """
    available = parts.available(step.n)
    no_positive = parts.positive_ids.lengths == 0
    parts.check_missing(no_positive | (available < (step.n or 1)), f"{step.n or 1} negatives and a positive")
    if pooled:
        owners = np.unique(examples.owners)
        n_positives = np.bincount(examples.owners[examples.positives >= 0], minlength=len(available))[owners]
    else:
        owners = examples.owners
        n_positives = (examples.positives >= 0).astype(np.int64)
    own = available[owners]
    n_negatives = np.where(own > 0, step.n, 0) if step.missing == "pad" and step.n is not None else own
    if step.missing in ("drop", "pad"):
        stay = (n_positives > 0) & (n_negatives > 0)
    else:
        stay = n_positives + n_negatives > 0
    # The chosen positives lie in the order of the lists, so those of the lists that stay are found by repeating `stay`.
    chosen = examples.positives[examples.positives >= 0][np.repeat(stay, n_positives)]
    owners, n_positives, n_negatives = owners[stay], n_positives[stay], n_negatives[stay]
    negative_owners = np.repeat(owners, n_negatives)
    negatives = _cycled(parts.negative_ids.offsets, available, negative_owners, n_negatives)
    lists = np.concatenate(
        [np.repeat(np.arange(len(owners)), n_positives), np.repeat(np.arange(len(owners)), n_negatives)]
    )
    order = np.argsort(lists, kind="stable")
    labels = np.concatenate([np.ones(len(chosen), np.float32), np.zeros(len(negatives), np.float32)])
    places = np.concatenate([chosen, negatives])
    return _Labeled(owners, offsets_of(n_positives + n_negatives), labels[order], places[order])
