"""Filters that compare each candidate's score with those of the row's positives."""

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
#: One weak positive among several empties rows against the lowest; see benchmarks/results/against.md.
DEFAULT_AGAINST = "max"


def limits_of(scores: Ragged[NDArray[np.generic]], against: str, margin: float, *, relative: bool) -> NDArray[Any]:
    """Return the highest score that a candidate of each row may have.

    Args:
        scores: The scores of each of B rows' positives.
        against: `"min"`, `"max"` or `"mean"` of them, or `"each"`.
        margin: How far below it a candidate must stay.
        relative: The margin is a share of the positive score's magnitude.

    Returns:
        Shape (B,); infinity for a row without positives.
    """
    # In the precision of the scores: a limit that is rounded otherwise would drop what is equal to it.
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
    # A share of the magnitude: times (1 - margin) would raise the limit of a negative score.
    return np.asarray(scores - np.abs(scores) * margin if relative else scores - margin)


@dataclass(frozen=True)
class _Margin(CandidateFilter):
    """Keep the candidates that score below the positives by a margin. Subclasses fill in `_limits`."""

    version: ClassVar[int] = 2

    margin: float
    by: str | None = None
    against: str = DEFAULT_AGAINST

    @property
    def input_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step reads; without `by`, the teacher's scores instead of the retriever's, if there."""
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
        """What a margin usually is."""
        return ""

    @abstractmethod
    def _limits(self, positives: Ragged[NDArray[np.generic]]) -> NDArray[Any]:
        """Return the highest score that a candidate of each row may have. Shape (B,)."""

    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        by = score_name(self.by, batch.names)
        scores = batch.scores(score_column(by))
        # A margin below an infinite score says nothing.
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
            f"their {score_column(by)!r} go {span(scores.values[emptied[candidates.owners]])}, and the limits that "
            f"margin={self.margin:g} and against={self.against!r} set {span(limits)}, for positives that score "
            f"{span(positives.values[emptied[positives.owners]])}. Take a smaller margin{self._hint}, or read one off "
            f"judged rows with calibrate_margin."
        )

    def _tell_left(self, batch: Batch, candidates: Ragged[pa.Array], left: NDArray[np.int64]) -> None:
        super()._tell_left(batch, candidates, left)
        had = candidates.lengths > 0
        if self.against not in ("min", "each") or not (had & (left == 0)).any():
            return
        by = score_name(self.by, batch.names)
        positives = batch.scores(score_column(by, of="positive"))
        rows = np.flatnonzero(had & (left == 0) & (positives.lengths > 1))
        if not len(rows):
            return
        # Only the scores of these rows are read, which are checked by now.
        scores = take_lists(batch.lists(score_column(by)), rows)
        lowest = np.minimum.reduceat(scores.values.to_numpy(zero_copy_only=False), scores.offsets[:-1])
        weak = rows[lowest <= replace(self, against="max")._limits(take_lists(positives, rows))]
        if len(weak):
            mask = np.zeros(len(had), dtype=bool)
            mask[weak] = True
            why = partial(self._weak_positives, take_lists(positives, weak))
            self._tell("weak positive", "one weak positive leaves no candidate in", mask, had, why)

    def _weak_positives(self, positives: Ragged[NDArray[np.generic]]) -> str:
        low, high = (ends.reduceat(positives.values, positives.offsets[:-1]) for ends in (np.minimum, np.maximum))
        return (
            f"against={self.against!r} goes by the lowest of several positives, which score {span(low)} there, and the "
            f"highest {span(high)}. A candidate above a weak positive need not be relevant: against='max' leaves "
            f"candidates in these rows."
        )


@dataclass(frozen=True)
class AbsoluteMargin(_Margin):
    """Keep the candidates that score at least a margin below the positive.

    A candidate that scores as high as the positive is often relevant but not annotated. A row without positives keeps
    all its candidates.

    Args:
        margin: In the units of the score; 0 keeps what scores no higher than the positive.
        by: `"score"` for the retriever's scores, or a teacher's name (`"teacher"` reads `negative_teacher_scores` and
            `positive_teacher_scores`); None: the teacher's where the rows have them, else the retriever's.
        against: Of several positives compare with the highest (`"max"`), the lowest (`"min"`), their `"mean"`, or
            `"each"` of them, all of which must be kept clear of; here this means the same as `"min"`. See
            `RelativeMargin` for which to choose.

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
    """Keep the candidates that score below the positive by at least a share of its magnitude.

    The limit is s⁺ - |s⁺|·margin, which lies below the positive score s⁺ for negative scores too. A margin of 0.05 is
    the TopK-PercPos (95%) of NV-Retriever (Moreira et al. 2024, https://arxiv.org/abs/2407.15831), the best of the
    methods compared there. A row without positives keeps all its candidates.

    Args:
        margin: The share, usually 0.01 to 0.1.
        by: `"score"` for the retriever's scores, or a teacher's name (`"teacher"` reads `negative_teacher_scores` and
            `positive_teacher_scores`); None: the teacher's where the rows have them, else the retriever's.
        against: Of several positives compare with the highest (`"max"`), the lowest (`"min"`), their `"mean"`, or
            `"each"` of them: a candidate must stay below every positive's limit. That is the same as `"min"` unless the
            margin is greater than 1. One weak positive empties a row against the lowest: with all positives known,
            `"max"` leaves five negatives for 93% of the queries of Cranfield, `"mean"` for 70% and `"min"` for 18%.
            Against the lowest fewer of what is left is false, though: with two known positives of each query, 5% on
            average over five sets, 7% for `"mean"` and 11% for `"max"`, of 23% without a margin.

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
        return " (it is a share: 0.05 is 5%)" if self.margin >= 1 else ""
