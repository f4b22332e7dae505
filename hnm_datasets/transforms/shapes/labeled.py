"""Shapes with labels: one label per passage separates positives from negatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hnm_datasets.answers import NewRows
from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.arrays.ragged import offsets_of
from hnm_datasets.transforms.shapes.base import Parts, Shape, cycled_positions
from hnm_datasets.transforms.shapes.positives import Examples, choose_positives


@dataclass(frozen=True)
class ToLabeledPairs(Shape):
    """Create one row per query and passage, with label 1 for positives and 0 for negatives.

    Use these rows with losses that read a label per pair, such as `BinaryCrossEntropyLoss` of a cross-encoder or
    `ContrastiveLoss` of a bi-encoder. Do not use them with `MultipleNegativesRankingLoss`: it ignores the label and
    trains on all passages as positives, without an error. For this loss, use `ToTriplets` or `ToNTuples`. Each negative
    is used once per query, even if the query has several positives.

    Candidates that are known positives of the question, or copies of them, are removed with a warning.

    Args:
        corpus: The passages.
        n: The maximum number of negatives per query; None for all.
        positives: With several positives, use `"each"`, the `"first"` or a `"random"` one.
        missing: How to handle a query with no positive or with fewer than n negatives (without n, no negative):
            `"keep"` creates the pairs that exist, `"drop"` drops the query if it has no positive or no negatives at
            all, `"error"` raises an error, `"pad"` repeats the query's own negatives. A warning gives the number of
            short queries.
        with_ids: Also write `anchor_id` (if the rows have a `query_id`) and `passage_id`.
        with_scores: Also write `passage_score`: True for the retriever's scores, or a teacher's name.
        seed: The random seed for `positives="random"`; the draw also depends on the row's key.
        labels: `"scores"` writes a teacher's scores instead of 1 and 0, for `MSELoss`, or for `BinaryCrossEntropyLoss`
            if they are between 0 and 1.
        by: The scores for the labels: a teacher's name, or `"score"` for the retriever's.

    Columns read:
        `query`, `positive_ids`, `negative_ids`; `known_positive_ids`, if present; with scores or labels the score
        columns.

    Columns written:
        `anchor`, `passage`, `label` (float32). `query` and the lists are removed; other columns are repeated.

    Raises:
        KeyError: A column is missing or an id is not in the corpus.
        ValueError: An option is unknown, or a row is short with `missing="error"`.

    Example:
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=2), batched=True)
        >>> pairs = mined.map(ToLabeledPairs(corpus), batched=True, remove_columns=mined.column_names)
        >>> pairs.column_names, pairs["label"][:]
        (['anchor', 'passage', 'label'], [1.0, 0.0, 0.0])
    """

    output_columns: ClassVar[tuple[str, ...]] = ("anchor", "passage", "label")
    _labels: ClassVar[tuple[str, ...]] = ("scores",)
    _has_gaps: ClassVar[bool] = False

    @property
    def _is_pooled(self) -> bool:
        return True

    def _shape(self, parts: Parts) -> NewRows:
        lists = _labeled(self, parts, parts.examples(), pooled=True)
        owners = lists.owners[lists.rows]
        columns = {
            "anchor": parts.queries.take(pa.array(owners)),
            "passage": lists.column(parts, "text"),
            "label": lists.column(parts, "label"),
        }
        return NewRows(owners, columns | lists.extras(parts, owners, "passage", lambda array: array))


@dataclass(frozen=True)
class ToLabeledLists(Shape):
    """Create one row per query, with the list of its passages and labels: 1 for positives, 0 for negatives.

    Use these rows to train with `CrossEncoderTrainer` and a listwise loss (`LambdaLoss`, `ListNetLoss`, …).

    Candidates that are known positives of the question, or copies of them, are removed with a warning.

    Args:
        corpus: The passages.
        n: The maximum number of negatives per list; None for all.
        positives: `"all"` puts all positives in one list. Otherwise, with several positives, create one list for
            `"each"`, or use the `"first"` or a `"random"` one.
        missing: How to handle a query with no positive or with fewer than n negatives (without n, no negative):
            `"keep"` creates the list from the passages that exist, `"drop"` drops the query if it has no positive or no
            negatives at all, `"error"` raises an error, `"pad"` repeats the query's own negatives. A warning gives the
            number of short queries.
        with_ids: Also write `anchor_id` (if the rows have a `query_id`) and `passage_ids`.
        with_scores: Also write `passage_scores`: True for the retriever's scores, or a teacher's name.
        seed: The random seed for `positives="random"`; the draw also depends on the row's key.
        labels: `"scores"` writes a teacher's scores instead of 1 and 0, for `ListNetLoss`, `LambdaLoss` (which treats
            scores below 0 as 0, so score with `activation="sigmoid"`) and the others. Each list is then sorted by its
            scores, the order that `ListMLELoss` and `PListMLELoss` learn.
        by: The scores for the labels: a teacher's name, or `"score"` for the retriever's.

    Columns read:
        `query`, `positive_ids`, `negative_ids`; `known_positive_ids`, if present; with scores or labels the score
        columns.

    Columns written:
        `anchor`, `passages`, `labels` (lists of float32). `query` and the lists are removed; other columns are
        repeated.

    Raises:
        KeyError: A column is missing or an id is not in the corpus.
        ValueError: An option is unknown, or a row is short with `missing="error"`.

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
    _labels: ClassVar[tuple[str, ...]] = ("scores",)
    _has_gaps: ClassVar[bool] = False

    positives: str = "all"

    def _shape(self, parts: Parts) -> NewRows:
        if self.positives == "all":
            lists = _labeled(
                self, parts, choose_positives(parts.positive_ids.offsets, "each", _NO_KEYS, 0), pooled=True
            )
        else:
            lists = _labeled(self, parts, parts.examples(), pooled=False)
        if self.labels:
            lists = lists.by_label(parts)

        def listed(array: pa.Array) -> pa.Array:
            return list_array(lists.offsets, array)

        columns = {
            "anchor": parts.queries.take(pa.array(lists.owners)),
            "passages": listed(lists.column(parts, "text")),
            "labels": listed(lists.column(parts, "label")),
        }
        return NewRows(lists.owners, columns | lists.extras(parts, lists.owners, "passages", listed))


_NO_KEYS = np.empty(0, dtype=np.uint64)


class _LabeledLists(NamedTuple):
    """L lists of passages, positives first, P passages in total.

    Attributes:
        owners: The row of the batch that each list belongs to. Shape (L,).
        offsets: Where each list begins and ends. Shape (L + 1,).
        positive: Which passages are positives. Shape (P,).
        positions: Flat positions in `positive_ids` or `negative_ids`. Shape (P,).
    """

    owners: NDArray[np.int64]
    offsets: NDArray[np.int64]
    positive: NDArray[np.bool_]
    positions: NDArray[np.int64]

    @property
    def rows(self) -> NDArray[np.int64]:
        """The list that each passage is in. Shape (P,)."""
        return np.repeat(np.arange(len(self.owners)), np.diff(self.offsets))

    def column(self, parts: Parts, kind: str) -> pa.Array:
        """Return the text, id, score or label of each passage. Shape (P,)."""
        if kind == "label" and not parts.step.labels:
            return pa.array(self.positive.astype(np.float32))
        sides = {"positive": self.positive, "negative": ~self.positive}
        at = {part: (part, np.where(own, self.positions, -1)) for part, own in sides.items()}
        if kind == "text":
            return pc.coalesce(*parts.passages(at).values())
        return pc.coalesce(*(parts.named(part, kind, positions) for part, positions in at.values()))

    def by_label(self, parts: Parts) -> _LabeledLists:
        """Sort each list by label, highest first."""
        order = np.lexsort((-self.column(parts, "label").to_numpy(), self.rows))
        return self._replace(positive=self.positive[order], positions=self.positions[order])

    def extras(
        self, parts: Parts, owners: NDArray[np.int64], name: str, wrap: Callable[[pa.Array], pa.Array]
    ) -> dict[str, pa.Array]:
        """Return the requested id and score columns."""
        stem, plural = name.removesuffix("s"), "s" if name.endswith("s") else ""
        extra = parts.extras({}, owners)
        if parts.step.with_ids:
            extra[f"{stem}_id{plural}"] = wrap(self.column(parts, "id"))
        if parts.step.with_scores:
            extra[f"{stem}_score{plural}"] = wrap(self.column(parts, "score"))
        return extra


def _labeled(step: Shape, parts: Parts, examples: Examples, *, pooled: bool) -> _LabeledLists:
    """Collect each query's chosen positives and its negatives into lists.

    Args:
        step: The step, for its options.
        parts: The batch.
        examples: The chosen positives.
        pooled: Create one list per query with all chosen positives, instead of one list per positive.
    """
    available = parts.negatives.lengths
    parts.check_missing()
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
    # The chosen positives are in the order of the lists, so repeating `stay` selects those of the kept lists.
    chosen = examples.positives[examples.positives >= 0][np.repeat(stay, n_positives)]
    owners, n_positives, n_negatives = owners[stay], n_positives[stay], n_negatives[stay]
    negative_owners = np.repeat(owners, n_negatives)
    negatives = cycled_positions(parts.negatives, negative_owners, n_negatives)
    lists = np.concatenate(
        [np.repeat(np.arange(len(owners)), n_positives), np.repeat(np.arange(len(owners)), n_negatives)]
    )
    order = np.argsort(lists, kind="stable")
    positive = np.arange(len(order)) < len(chosen)
    positions = np.concatenate([chosen, negatives])
    return _LabeledLists(owners, offsets_of(n_positives + n_negatives), positive[order], positions[order])
