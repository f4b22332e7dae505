"""Filters by rank and by score. They drop no rows and do not change the candidates they keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, NEGATIVE_RANKS, score_column, score_name
from hnm_datasets.transforms.base import CandidateFilter
from hnm_datasets.transforms.filters.reasons import outside


def within(values: NDArray[Any], low: float | None, high: float | None) -> NDArray[np.bool_]:
    """Return which values are between `low` and `high`, inclusive; None means no limit. Shape (C,) → (C,)."""
    inside = np.ones(len(values), dtype=bool)
    if low is not None:
        inside &= values >= low
    if high is not None:
        inside &= values <= high
    return inside


def span(values: NDArray[Any]) -> str:
    """Format the lowest and the highest value for a message.

    Example:
        >>> span(np.array([0.5, 12.25, 3.0]))
        'from 0.5 to 12.25'
    """
    return f"from {values.min():.4g} to {values.max():.4g}"


@dataclass(frozen=True)
class RankWindow(CandidateFilter):
    """Keep the candidates with an original rank in a window.

    Skipping the first ranks is the simplest guard against false negatives: the top results of a retriever are often
    relevant but not annotated. Ranks are positions in the retriever's full list, so earlier filters do not shift the
    window.

    Args:
        min: The first rank to keep, at least 1.
        max: The last rank to keep; None for no upper limit.

    Columns read:
        `negative_ids`, `negative_ranks`.

    Columns written:
        All aligned `negative_*` columns.

    Raises:
        ValueError: `min` is less than 1, or the window is empty because `max` is less than `min`.

    Example:
        >>> batch = {"negative_ids": [["a", "b", "c"]], "negative_ranks": [[1, 4, 9]]}
        >>> RankWindow(2, 5)(batch)
        {'negative_ids': [['b']], 'negative_ranks': [[4]]}
    """

    input_columns: ClassVar[tuple[str, ...]] = (NEGATIVE_IDS, NEGATIVE_RANKS)

    min: int = 1
    max: int | None = None

    def __post_init__(self) -> None:
        self._set(min=checks.whole_number("RankWindow", "min", self.min, low=1))
        if self.max is not None:
            self._set(max=checks.whole_number("RankWindow", "max", self.max, low=1))
            if self.max < self.min:
                raise ValueError(
                    f"RankWindow: the window from {self.min} to {self.max} is empty; max must be at least min."
                )

    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        return within(batch.scores(NEGATIVE_RANKS).values, self.min, self.max)

    def _why_dropped(self, batch: Batch, candidates: Ragged[pa.Array], dropped: NDArray[np.int64]) -> list[str]:
        return outside(batch.scores(NEGATIVE_RANKS).values[dropped], self.min, self.max)

    def _limits_met(self, batch: Batch, candidates: Ragged[pa.Array], emptied: NDArray[np.bool_]) -> str:
        ranks = batch.scores(NEGATIVE_RANKS).values[emptied[candidates.owners]]
        window = f"starts at {self.min}" if self.max is None else f"is from {self.min} to {self.max}"
        return (
            f"the ranks of their candidates range {span(ranks)}, but the window {window}. Widen the window, apply it "
            f"before steps that keep the first ranks, or mine more candidates with a larger k=."
        )


@dataclass(frozen=True)
class ScoreBand(CandidateFilter):
    """Keep the candidates with a score in a band.

    Args:
        min: The lowest score to keep, in the units of the score (BM25 scores have no fixed range, cosine similarities
            are between -1 and 1); None for no lower limit.
        max: The highest score to keep; None for no upper limit.
        by: `"score"` for the retriever's scores, or a teacher's name (`"teacher"` reads `negative_teacher_scores`).
            None uses the `teacher` scores if the rows have them, else the retriever's.

    Columns read:
        `negative_ids` and the score column.

    Columns written:
        All aligned `negative_*` columns.

    Raises:
        ValueError: Neither limit is given, or `max` is less than `min`.

    Example:
        >>> batch = {"negative_ids": [["a", "b", "c"]], "negative_scores": [[9.5, 7.0, 1.5]]}
        >>> ScoreBand(min=2, max=8)(batch)
        {'negative_ids': [['b']], 'negative_scores': [[7.0]]}
    """

    min: float | None = None
    max: float | None = None
    by: str | None = None

    @property
    def input_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step reads; without `by`, it reads the teacher's scores instead if they exist."""
        return self._inputs(self.by or "score")

    def _inputs(self, by: str) -> tuple[str, ...]:
        return (NEGATIVE_IDS, score_column(by))

    def _required(self, names: Sequence[str]) -> tuple[str, ...]:
        return self._inputs(score_name(self.by, names))

    def __post_init__(self) -> None:
        if self.min is None and self.max is None:
            raise ValueError("ScoreBand: pass min, max or both; without a limit, all candidates would be kept.")
        checks.score_option("ScoreBand", "by", self.by)
        if self.min is not None:
            self._set(min=checks.real_number("ScoreBand", "min", self.min))
        if self.max is not None:
            self._set(max=checks.real_number("ScoreBand", "max", self.max))
        if self.min is not None and self.max is not None and self.max < self.min:
            raise ValueError(
                f"ScoreBand: the band from {self.min:g} to {self.max:g} is empty; max must be at least min."
            )

    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        scores = batch.scores(score_column(score_name(self.by, batch.names)))
        return within(scores.values, self.min, self.max)

    def _why_dropped(self, batch: Batch, candidates: Ragged[pa.Array], dropped: NDArray[np.int64]) -> list[str]:
        scores = batch.scores(score_column(score_name(self.by, batch.names)))
        return outside(scores.values[dropped], self.min, self.max)

    def _limits_met(self, batch: Batch, candidates: Ragged[pa.Array], emptied: NDArray[np.bool_]) -> str:
        name = score_column(score_name(self.by, batch.names))
        scores = batch.scores(name).values[emptied[candidates.owners]]
        ends = [f"{word} {end:g}" for word, end in (("from", self.min), ("to", self.max)) if end is not None]
        return (
            f"their {name!r} range {span(scores)}, but the band is {' '.join(ends)}. Set the band to fit the scores of "
            f"your rows; the scores of BM25 and of many cross-encoders have no fixed range."
        )
