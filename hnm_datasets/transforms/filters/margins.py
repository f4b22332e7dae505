"""Filters that compare each candidate's score with the scores of the row's positives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged, take_lists
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, score_column, score_name
from hnm_datasets.transforms.base import CandidateFilter
from hnm_datasets.transforms.filters.limits import span
from hnm_datasets.transforms.filters.reasons import compared

AGAINST = ("min", "max", "mean", "each")
#: With "min", one weak positive among several empties rows; see benchmarks/results/against.md.
DEFAULT_AGAINST = "max"


def limits_of(scores: Ragged[NDArray[np.generic]], against: str, margin: float, *, relative: bool) -> NDArray[Any]:
    """Return the highest score that a candidate of each row may have.

    Args:
        scores: The scores of each of B rows' positives.
        against: `"min"`, `"max"` or `"mean"` of them, or `"each"`.
        margin: How far below the positive score a candidate must be.
        relative: The margin is a fraction of the positive score's magnitude.

    Returns:
        Shape (B,); infinity for a row without positives.
    """
    # Use the precision of the scores: rounding the limit differently would drop candidates equal to it.
    values = scores.values if scores.values.dtype.kind == "f" else scores.values.astype(np.float64)
    filled = np.flatnonzero(scores.lengths)
    starts = scores.offsets[:-1][filled]
    limits = np.full(len(scores), np.inf, dtype=values.dtype)
    if not len(filled):
        return limits
    if against == "each":
        limits[filled] = np.minimum.reduceat(_below(values, margin, relative), starts)
        return limits
    if against == "mean":
        totals = np.add.reduceat(values.astype(np.float64), starts)
        chosen = (totals / scores.lengths[filled]).astype(values.dtype)
    else:
        chosen = (np.minimum if against == "min" else np.maximum).reduceat(values, starts)
    limits[filled] = _below(chosen, margin, relative)
    return limits


def _below(scores: NDArray[Any], margin: float, relative: bool) -> NDArray[Any]:
    # A fraction of the magnitude: multiplying by (1 - margin) would raise the limit of a negative score.
    return np.asarray(scores - np.abs(scores) * margin if relative else scores - margin)


@dataclass(frozen=True)
class _Margin(CandidateFilter):
    """Keep the candidates that score below the positives by a margin. Subclasses implement `_limits`."""

    version: ClassVar[int] = 2

    margin: float
    by: str | None = None
    against: str = DEFAULT_AGAINST

    @property
    def input_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step reads; without `by`, it reads the teacher's scores instead if they exist."""
        return self._inputs(self.by or "score")

    def _inputs(self, by: str) -> tuple[str, ...]:
        return (NEGATIVE_IDS, score_column(by), score_column(by, of="positive"))

    def _required(self, names: Sequence[str]) -> tuple[str, ...]:
        return self._inputs(score_name(self.by, names))

    def __post_init__(self) -> None:
        name = type(self).__name__
        self._set(
            margin=checks.real_number(name, "margin", self.margin),
            against=checks.one_of(name, "against", self.against, AGAINST),
        )
        checks.score_option(name, "by", self.by)

    @property
    def _hint(self) -> str:
        """A remark on usual margins for the warning, or an empty string."""
        return ""

    @abstractmethod
    def _limits(self, positives: Ragged[NDArray[np.generic]]) -> NDArray[Any]:
        """Return the highest score that a candidate of each row may have. Shape (B,)."""

    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        by = score_name(self.by, batch.names)
        scores = batch.scores(score_column(by))
        # A margin below an infinite score is meaningless.
        positives = batch.scores(score_column(by, of="positive"), finite=True)
        return np.asarray(scores.values <= np.repeat(self._limits(positives), scores.lengths))

    def _why_dropped(self, batch: Batch, candidates: Ragged[pa.Array], dropped: NDArray[np.int64]) -> list[str]:
        by = score_name(self.by, batch.names)
        scores = batch.scores(score_column(by)).values[dropped]
        limits = self._limits(batch.scores(score_column(by, of="positive")))[candidates.owners[dropped]]
        return [
            compared(*pair) for pair in ((one, ">", "limit", limit) for one, limit in zip(scores, limits, strict=True))
        ]

    def _limits_met(self, batch: Batch, candidates: Ragged[pa.Array], emptied: NDArray[np.bool_]) -> str:
        by = score_name(self.by, batch.names)
        positives, scores = batch.scores(score_column(by, of="positive")), batch.scores(score_column(by))
        limits = self._limits(positives)[emptied]
        return (
            f"their {score_column(by)!r} range {span(scores.values[emptied[candidates.owners]])}, but "
            f"margin={self.margin:g} and against={self.against!r} set limits {span(limits)}, for positives that score "
            f"{span(positives.values[emptied[positives.owners]])}. Use a smaller margin{self._hint}, or fit one to "
            f"judged rows with calibrate_margin."
        )

    def _warn_if_emptied(self, batch: Batch, candidates: Ragged[pa.Array], left: NDArray[np.int64]) -> None:
        super()._warn_if_emptied(batch, candidates, left)
        had = candidates.lengths > 0
        if self.against not in ("min", "each") or not (had & (left == 0)).any():
            return
        by = score_name(self.by, batch.names)
        positives = batch.scores(score_column(by, of="positive"))
        rows = np.flatnonzero(had & (left == 0) & (positives.lengths > 1))
        if not len(rows):
            return
        # Read only the scores of these rows; they have been validated already.
        scores = take_lists(batch.lists(score_column(by)), rows)
        lowest = np.minimum.reduceat(scores.values.to_numpy(zero_copy_only=False), scores.offsets[:-1])
        weak = rows[lowest <= replace(self, against="max")._limits(take_lists(positives, rows))]
        if len(weak):
            mask = np.zeros(len(had), dtype=bool)
            mask[weak] = True
            why = partial(self._weak_positives, take_lists(positives, weak))
            self._warn("weak positive", "lost all of them to one weak positive", mask, had, why)

    def _weak_positives(self, positives: Ragged[NDArray[np.generic]]) -> str:
        low, high = (ends.reduceat(positives.values, positives.offsets[:-1]) for ends in (np.minimum, np.maximum))
        return (
            f"against={self.against!r} compares with the lowest of several positives. In these rows the lowest scores "
            f"{span(low)}, the highest {span(high)}. A candidate above a weak positive is not necessarily relevant: "
            f"against='max' keeps candidates in these rows."
        )


@dataclass(frozen=True)
class AbsoluteMargin(_Margin):
    """Keep the candidates that score at least a margin below the positive.

    A candidate that scores as high as the positive is often relevant but not annotated. A row without positives keeps
    all its candidates.

    Args:
        margin: In the units of the score; 0 keeps the candidates that score no higher than the positive.
        by: `"score"` for the retriever's scores, or a teacher's name (`"teacher"` reads `negative_teacher_scores` and
            `positive_teacher_scores`). None uses the `teacher` scores if the rows have them, else the retriever's.
        against: With several positives, compare with the highest score (`"max"`), the lowest (`"min"`), their
            `"mean"`, or `"each"` of them: a candidate must be below every positive's limit, which here is the same as
            `"min"`. See `RelativeMargin` for which to choose.

    Columns read:
        `negative_ids` and the two score columns.

    Columns written:
        All aligned `negative_*` columns.

    Raises:
        ValueError: The margin is not finite, or `against` is unknown.

    Example:
        >>> batch = {"negative_ids": [["a", "b"]], "negative_scores": [[0.7, 0.4]], "positive_scores": [[0.8]]}
        >>> AbsoluteMargin(0.25)(batch)
        {'negative_ids': [['b']], 'negative_scores': [[0.4]]}
    """

    def _limits(self, positives: Ragged[NDArray[np.generic]]) -> NDArray[Any]:
        return limits_of(positives, self.against, self.margin, relative=False)


@dataclass(frozen=True)
class RelativeMargin(_Margin):
    """Keep the candidates that score below the positive by at least a fraction of its magnitude.

    The limit is s⁺ - |s⁺|·margin, which is below the positive score s⁺ for negative scores too. A margin of 0.05
    corresponds to TopK-PercPos (95%) of NV-Retriever (Moreira et al. 2024, https://arxiv.org/abs/2407.15831), the best
    of the methods compared there. A row without positives keeps all its candidates.

    Args:
        margin: The fraction, usually 0.01 to 0.1.
        by: `"score"` for the retriever's scores, or a teacher's name (`"teacher"` reads `negative_teacher_scores` and
            `positive_teacher_scores`). None uses the `teacher` scores if the rows have them, else the retriever's.
        against: With several positives, compare with the highest score (`"max"`), the lowest (`"min"`), their
            `"mean"`, or `"each"` of them: a candidate must be below every positive's limit. `"each"` equals `"min"`
            unless the margin is greater than 1. With `"min"`, one weak positive can empty a row: on Cranfield, with
            all positives known, 93% of the queries keep five negatives with `"max"`, 70% with `"mean"` and 18% with
            `"min"`. On the other hand, `"min"` leaves fewer false negatives: with two known positives per query, 5% of
            the negatives are false on average over five data sets, compared to 7% with `"mean"`, 11% with `"max"` and
            23% without a margin.

    Columns read:
        `negative_ids` and the two score columns.

    Columns written:
        All aligned `negative_*` columns.

    Raises:
        ValueError: The margin is not finite, or `against` is unknown.

    Example:
        >>> batch = {"negative_ids": [["a", "b"]], "negative_scores": [[0.77, 0.4]], "positive_scores": [[0.8]]}
        >>> RelativeMargin(0.05)(batch)
        {'negative_ids': [['b']], 'negative_scores': [[0.4]]}
        >>> RelativeMargin(0.05)(batch | {"positive_scores": [[0.82]]})
        {'negative_ids': [['a', 'b']], 'negative_scores': [[0.77, 0.4]]}
    """

    def _limits(self, positives: Ragged[NDArray[np.generic]]) -> NDArray[Any]:
        return limits_of(positives, self.against, self.margin, relative=True)

    @property
    def _hint(self) -> str:
        return " (it is a fraction: 0.05 means 5%)" if self.margin >= 1 else ""
