"""Shapes with one column per passage: triplets and n-tuples."""

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
    """Create one row per query, positive and negative: the format of most sentence-transformers losses.

    Candidates that are known positives of the question, or copies of them, are removed with a warning.

    Args:
        corpus: The passages.
        n: The maximum number of negatives per query; None for all.
        positives: With several positives, use `"each"` (with every negative), the `"first"` or a `"random"` one.
        missing: How to handle a query with no positive or no negative: `"drop"` drops it, `"keep"` creates a row with
            null in place of the missing passage, `"error"` raises an error. `"pad"` repeats the query's own negatives
            up to n and drops queries without any. A warning gives the number of short queries.
        with_ids: Also write `anchor_id` (if the rows have a `query_id`), `positive_id` and `negative_id`.
        with_scores: Also write `positive_score` and `negative_score`: True for the retriever's scores, or a teacher's
            name.
        seed: The random seed for `positives="random"`; the draw also depends on the row's key.
        labels: Also write labels for distillation. `"margins"`: the score of the positive minus the score of the
            negative, for `MarginMSELoss`; `"scores"`: the list of both scores, for `DistillKLDivLoss` or
            `MarginMSELoss`.
        by: The scores for the labels: a teacher's name, or `"score"` for the retriever's.

    Columns read:
        `query`, `positive_ids`, `negative_ids`; `known_positive_ids`, if present; with scores or labels the score
        columns.

    Columns written:
        `anchor`, `positive`, `negative`; with labels `label` (float32, or a list of two). `query` and the lists are
        removed; other columns are repeated.

    Raises:
        KeyError: A column is missing or an id is not in the corpus.
        ValueError: An option is unknown, labels are combined with `missing="keep"`, or a row is short with
            `missing="error"`.

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
        # Each negative gets its own row, so having fewer than n leaves no gap.
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
    """Create one row per query and positive, with n negatives in separate columns.

    This is the format of `MultipleNegativesRankingLoss` and similar losses, which use all negatives of a batch for each
    query.

    Candidates that are known positives of the question, or copies of them, are removed with a warning.

    Args:
        corpus: The passages.
        n: Negatives per row.
        positives: With several positives, use `"each"` (one row per positive), the `"first"` or a `"random"` one.
        missing: How to handle a query with no positive or fewer than n negatives: `"drop"` drops it, `"keep"` writes
            null in place of missing passages, `"error"` raises an error, `"pad"` repeats the query's own negatives and
            drops queries with no negative or no positive. A warning gives the number of short queries.
        with_ids: Also write `anchor_id` (if the rows have a `query_id`), `positive_id`, `negative_1_id`, …
        with_scores: Also write `positive_score`, `negative_1_score`, …: True for the retriever's scores, or a teacher's
            name.
        seed: The random seed for `positives="random"`; the draw also depends on the row's key.
        labels: Also write labels for distillation. `"margins"`: for each negative, the score of the positive minus the
            score of the negative, for `MarginMSELoss`; `"scores"`: the list of the scores of the positive and all
            negatives, for `DistillKLDivLoss` or `MarginMSELoss`.
        by: The scores for the labels: a teacher's name, or `"score"` for the retriever's.

    Columns read:
        `query`, `positive_ids`, `negative_ids`; `known_positive_ids`, if present; with scores or labels the score
        columns.

    Columns written:
        `anchor`, `positive`, `negative_1` to `negative_n`; with labels `label` (a list of float32). `query` and the
        lists are removed; other columns are repeated.

    Raises:
        KeyError: A column is missing or an id is not in the corpus.
        ValueError: An option is unknown, labels are combined with `missing="keep"`, or a row is short with
            `missing="error"`.

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
            raise ValueError("ToNTuples: n, the number of negatives per row, is required: ToNTuples(corpus, n=5).")

    @property
    def output_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step writes."""
        negatives = (f"negative_{number + 1}" for number in range(self.n or 0))
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
            positions = np.where(own > source, starts + source, -1)
            passages[f"negative_{number + 1}"] = ("negative", candidates[positions])
        columns = {"anchor": parts.queries.take(pa.array(owners))} | parts.passages(passages)
        if self.labels:
            negatives = np.stack([at for part, at in passages.values() if part == "negative"], axis=1)
            columns["label"] = _labels(parts, positives, negatives)
        return NewRows(owners, columns | parts.extras(passages, owners))


def _check_no_gaps(step: Shape) -> None:
    if step.labels and step.missing == "keep":
        raise ValueError(
            f"{type(step).__name__}: labels={step.labels!r} requires a score of every passage, but missing='keep' "
            f"leaves gaps. Choose missing='drop', 'pad' or 'error'."
        )


def _labels(parts: Parts, positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> pa.Array:
    """Return the labels for distillation, one list per row.

    Args:
        parts: The batch.
        positives: Flat positions in `positive_ids`. Shape (M,).
        negatives: Flat positions in `negative_ids`. Shape (M, n).
    """
    own = parts.label_scores["positive"].to_numpy()[positives][:, None]
    others = parts.label_scores["negative"].to_numpy()[negatives]
    labels = own - others if parts.step.labels == "margins" else np.concatenate([own, others], axis=1)
    return list_array(np.arange(len(labels) + 1) * labels.shape[1], pa.array(labels.ravel()))
