"""Shapes in which the kind of each passage is told by its column: triplets and n-tuples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.answers import NewRows
from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.transforms.shapes.base import Parts, Shape, cycled_positions


@dataclass(frozen=True)
class ToTriplets(Shape):
    """Make one row per query, positive and negative: the form that most losses of sentence-transformers take.

    Candidates that are known positives of the question, or copies of one, are left out, with a warning.

    Args:
        corpus: The passages.
        n: At most this many negatives per query; None: all.
        positives: Of several positives take `"each"` (with every negative), the `"first"` or a `"random"` one.
        missing: A query with no negative or no positive: `"drop"` leaves it out, `"keep"` makes a row with null in the
            gap, `"error"` raises. `"pad"` repeats a query's own negatives until there are n; where there is none to
            repeat, the query is left out. How many are short is logged as a warning.
        with_ids: Write also `anchor_id` (if there is a `query_id`), `positive_id` and `negative_id`.
        with_scores: Write also `positive_score` and `negative_score`. True: by the
            retriever; a teacher's name: by that teacher.
        seed: For `positives="random"`, with the row's key.
        labels: Write also labels for distillation. `"margins"`: the teacher's score of the positive less
            that of the negative, for `MarginMSELoss`; `"scores"`: the list of both, for `DistillKLDivLoss` or
            `MarginMSELoss`.
        by: Whose scores the labels are: a teacher's name, or `"score"` for the retriever's.

    Columns read:
        `query`, `positive_ids`, `negative_ids`; `known_positive_ids`, if there; with scores or labels the score
        columns.

    Columns written:
        `anchor`, `positive`, `negative`; with labels `label` (float32, or a list of two). The lists and `query` are
        used up; other columns are repeated.

    Raises:
        KeyError: A column is missing or an id is not in the corpus.
        ValueError: An unknown option, labels with `missing="keep"`, or a short row with `missing="error"`.

    Example:
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=2), batched=True)
        >>> triplets = mined.map(ToTriplets(corpus), batched=True, remove_columns=mined.column_names)
        >>> triplets.column_names, len(triplets)
        (['anchor', 'positive', 'negative'], 2)
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_no_gaps(self)

    @property
    def output_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step writes."""
        return ("anchor", "positive", "negative", *(["label"] if self.labels else []))

    @property
    def _wanted(self) -> int:
        # As each negative has a row of its own, fewer than n leave no gap.
        return 1 if self.missing in ("drop", "keep") else self.n or 1

    def _shape(self, parts: Parts) -> NewRows:
        examples = parts.examples()
        available = parts.negatives.lengths
        parts.check_missing()
        counts = available[examples.owners]
        if self.missing == "pad" and self.n is not None:
            counts = np.where(counts > 0, self.n, 0)
        if self.missing == "keep":
            counts = np.maximum(counts, 1)
        else:
            counts = np.where(examples.positives < 0, 0, counts)
        owners = np.repeat(examples.owners, counts)
        positives = np.repeat(examples.positives, counts)
        negatives = cycled_positions(parts.negatives, owners, counts)
        passages = {"positive": ("positive", positives), "negative": ("negative", negatives)}
        columns = {"anchor": parts.queries.take(pa.array(owners))} | parts.passages(passages)
        if self.labels:
            labels = _labels(parts, positives, negatives[:, None])
            columns["label"] = labels.values if self.labels == "margins" else labels
        return NewRows(owners, columns | parts.extras(passages, owners))


@dataclass(frozen=True)
class ToNTuples(Shape):
    """Make one row per query and positive with n negatives in columns of their own.

    `MultipleNegativesRankingLoss` and its relatives take such rows, and use all negatives of a batch for each query.

    Candidates that are known positives of the question, or copies of one, are left out, with a warning.

    Args:
        corpus: The passages.
        n: Negatives per row.
        positives: Of several positives take `"each"` (a row each), the `"first"` or a `"random"` one.
        missing: A query with fewer than n negatives or no positive: `"drop"` leaves it out, `"keep"` writes null in the
            gaps, `"error"` raises, `"pad"` repeats the query's own negatives (with none to repeat, or no positive, the
            query is left out). How many are short is logged as a warning.
        with_ids: Write also `anchor_id` (if there is a `query_id`), `positive_id`, `negative_1_id`, …
        with_scores: Write also `positive_score`, `negative_1_score`, … True: by the
            retriever; a teacher's name: by that teacher.
        seed: For `positives="random"`, with the row's key.
        labels: Write also labels for distillation. `"margins"`: for each negative the teacher's score
            of the positive less its own, for `MarginMSELoss`; `"scores"`: the list of the positive's and all negatives'
            scores, for `DistillKLDivLoss` or `MarginMSELoss`.
        by: Whose scores the labels are: a teacher's name, or `"score"` for the retriever's.

    Columns read:
        `query`, `positive_ids`, `negative_ids`; `known_positive_ids`, if there; with scores or labels the score
        columns.

    Columns written:
        `anchor`, `positive`, `negative_1` to `negative_n`; with labels `label` (a list of float32). The lists and
        `query` are used up; other columns are repeated.

    Raises:
        KeyError: A column is missing or an id is not in the corpus.
        ValueError: An unknown option, labels with `missing="keep"`, or a short row with `missing="error"`.

    Example:
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=4), batched=True)
        >>> tuples = mined.map(ToNTuples(corpus, n=2), batched=True, remove_columns=mined.column_names)
        >>> tuples.column_names, len(tuples)
        (['anchor', 'positive', 'negative_1', 'negative_2'], 1)
        >>> margins = mined.map(ToNTuples(corpus, n=2, labels="margins", by="score"), batched=True)
        >>> [round(margin, 2) for margin in margins[0]["label"]]
        [-0.73, -0.15]
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_no_gaps(self)
        if self.n is None:
            raise ValueError("ToNTuples: n, the number of negatives per row, must be given: ToNTuples(corpus, n=5).")

    @property
    def output_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step writes."""
        negatives = (f"negative_{place + 1}" for place in range(self.n or 0))
        return ("anchor", "positive", *negatives, *(["label"] if self.labels else []))

    @property
    def _needed(self) -> int:
        return self.n or 1

    def _shape(self, parts: Parts) -> NewRows:
        n = self.n or 0
        examples = parts.examples()
        available = parts.negatives.lengths
        parts.check_missing()
        own = available[examples.owners]
        if self.missing == "drop":
            stay = (own == n) & (examples.positives >= 0)
        elif self.missing == "pad":
            stay = (own > 0) & (examples.positives >= 0)
        else:
            stay = np.ones(len(own), dtype=bool)
        owners, positives, own = examples.owners[stay], examples.positives[stay], own[stay]
        starts, candidates = parts.negatives.offsets[:-1][owners], np.append(parts.negatives.values, -1)
        passages: dict[str, tuple[str, NDArray[np.int64]]] = {"positive": ("positive", positives)}
        for number in range(n):
            source = number % np.maximum(own, 1) if self.missing == "pad" else number
            places = np.where(own > source, starts + source, -1)
            passages[f"negative_{number + 1}"] = ("negative", candidates[places])
        columns = {"anchor": parts.queries.take(pa.array(owners))} | parts.passages(passages)
        if self.labels:
            negatives = np.stack([at for part, at in passages.values() if part == "negative"], axis=1)
            columns["label"] = _labels(parts, positives, negatives)
        return NewRows(owners, columns | parts.extras(passages, owners))


def _check_no_gaps(step: Shape) -> None:
    if step.labels and step.missing == "keep":
        raise ValueError(
            f"{type(step).__name__}: labels={step.labels!r} needs a score of every passage, and missing='keep' leaves "
            f"gaps. Choose missing='drop', 'pad' or 'error'."
        )


def _labels(parts: Parts, positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> pa.Array:
    """Return what a student learns from the teacher's scores, as a list per row.

    Args:
        parts: The batch.
        positives: Flat positions in `positive_ids`. Shape (M,).
        negatives: Flat positions in `negative_ids`. Shape (M, n).
    """
    own = parts.label_scores["positive"].to_numpy()[positives][:, None]
    others = parts.label_scores["negative"].to_numpy()[negatives]
    labels = own - others if parts.step.labels == "margins" else np.concatenate([own, others], axis=1)
    return list_array(np.arange(len(labels) + 1) * labels.shape[1], pa.array(labels.ravel()))
