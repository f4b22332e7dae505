"""Shapes in which a label tells positives from negatives: pairs and lists."""

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
    """Make one row per query and passage with a label: 1 for positives, 0 for negatives.

    `CrossEncoderTrainer` takes such rows for `BinaryCrossEntropyLoss`. Negatives come once per query, however many
    positives it has.

    Candidates that are known positives of the question, or copies of one, are left out, with a warning.

    Args:
        corpus: The passages.
        n: At most this many negatives per query; None: all.
        positives: Of several positives take `"each"`, the `"first"` or a `"random"` one.
        missing: A query with no positive or fewer negatives than n (than 1, without n): `"keep"` makes the pairs that
            there are, `"drop"` leaves the query out if it has no positive or no negative at all, `"error"` raises,
            `"pad"` repeats the query's own negatives. How many are short is logged as a warning.
        with_ids: Write also `anchor_id` (if there is a `query_id`) and `passage_id`.
        with_scores: Write also `passage_score`. True: by the
            retriever; a teacher's name: by that teacher.
        seed: For `positives="random"`, with the row's key.
        labels: `"scores"`: a teacher's scores instead of 1 and 0, for `MSELoss`, or for `BinaryCrossEntropyLoss` if
            they are between 0 and 1.
        by: Whose scores the labels are: a teacher's name, or `"score"` for the retriever's.

    Columns read:
        `query`, `positive_ids`, `negative_ids`; `known_positive_ids`, if there; with scores or labels the score
        columns.

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
    """Make one row per query with the list of its passages and their labels: 1 for positives, 0 for negatives.

    `CrossEncoderTrainer` takes such rows for its listwise losses (`LambdaLoss`, `ListNetLoss`, …).

    Candidates that are known positives of the question, or copies of one, are left out, with a warning.

    Args:
        corpus: The passages.
        n: At most this many negatives per list; None: all.
        positives: `"all"` positives in one list; or of several positives `"each"` in a list of its own, the `"first"`
            or a `"random"` one.
        missing: A query with no positive or fewer negatives than n (than 1, without n): `"keep"` makes the list that
            there is, `"drop"` leaves the query out if it has no positive or no negative at all, `"error"` raises,
            `"pad"` repeats the query's own negatives. How many are short is logged as a warning.
        with_ids: Write also `anchor_id` (if there is a `query_id`) and `passage_ids`.
        with_scores: Write also `passage_scores`. True: by the
            retriever; a teacher's name: by that teacher.
        seed: For `positives="random"`, with the row's key.
        labels: `"scores"`: a teacher's scores instead of 1 and 0, for `ListNetLoss`, `LambdaLoss` (which takes what is
            below 0 for 0: score with `activation="sigmoid"`) and the others. Each list is then in the order of its
            scores, which `ListMLELoss` and `PListMLELoss` take for the one to learn.
        by: Whose scores the labels are: a teacher's name, or `"score"` for the retriever's.

    Columns read:
        `query`, `positive_ids`, `negative_ids`; `known_positive_ids`, if there; with scores or labels the score
        columns.

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
    """L lists of passages, positives first, P passages in all.

    Attributes:
        owners: The batch's row that each list belongs to. Shape (L,).
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
        """Order each list by label, highest first."""
        order = np.lexsort((-self.column(parts, "label").to_numpy(), self.rows))
        return self._replace(positive=self.positive[order], positions=self.positions[order])

    def extras(
        self, parts: Parts, owners: NDArray[np.int64], name: str, wrap: Callable[[pa.Array], pa.Array]
    ) -> dict[str, pa.Array]:
        """Return the id and score columns that the step was asked for."""
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
        pooled: One list per query with all chosen positives; else one per positive.
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
    # The chosen positives lie in the order of the lists, so those of the lists that stay are found by repeating `stay`.
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
