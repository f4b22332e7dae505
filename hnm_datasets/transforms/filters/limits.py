"""Filters: which candidates stay, by rank or score. No row is dropped, and what stays is unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, NEGATIVE_RANKS, score_column
from hnm_datasets.transforms.base import CandidateFilter


def within(values: NDArray[Any], low: float | None, high: float | None) -> NDArray[np.bool_]:
    """Tell which values lie from `low` to `high`, both included; None leaves a side open. Shape (C,) → (C,)."""
    inside = np.ones(len(values), dtype=bool)
    if low is not None:
        inside &= values >= low
    if high is not None:
        inside &= values <= high
    return inside


@dataclass(frozen=True)
class RankWindow(CandidateFilter):
    """Keep the candidates whose original rank lies in a window.

    Skipping the first ranks is the simplest guard against false negatives: what a retriever puts at the very top is
    often relevant but not annotated. Ranks are those of the retriever's full list, so a filter before this one does not
    shift the window.

    Args:
        low: The first rank to keep, from 1.
        high: The last rank to keep; None: all further ones.

    Columns read:
        `negative_ids`, `negative_ranks`.

    Columns written:
        All aligned `negative_*` columns.

    Raises:
        ValueError: `low` is less than 1, or the window is empty because `high` is less than `low`.

    Example:
        >>> batch = {"negative_ids": [["a", "b", "c"]], "negative_ranks": [[1, 4, 9]]}
        >>> RankWindow(2, 5)(batch)
        {'negative_ids': [['b']], 'negative_ranks': [[4]]}
    """

    input_columns: ClassVar[tuple[str, ...]] = (NEGATIVE_IDS, NEGATIVE_RANKS)

    low: int = 1
    high: int | None = None

    def __post_init__(self) -> None:
        self._set(low=checks.whole_number("RankWindow", "low", self.low, low=1))
        if self.high is not None:
            self._set(high=checks.whole_number("RankWindow", "high", self.high, low=1))
            if self.high < self.low:
                raise ValueError(
                    f"RankWindow: the window from {self.low} to {self.high} is empty; high must reach low."
                )

    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        return within(batch.number_lists(NEGATIVE_RANKS).values, self.low, self.high)


@dataclass(frozen=True)
class ScoreBand(CandidateFilter):
    """Keep the candidates whose score lies in a band.

    Args:
        min: The lowest score to keep; None: no lower limit. In the units of the score: BM25 scores have no fixed
            range, cosine similarities lie from -1 to 1.
        max: The highest score to keep; None: no upper limit.
        by: `"score"` for the retriever's scores, or a teacher's name (`"teacher"` reads `negative_teacher_scores`).

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
    by: str = "score"

    @property
    def input_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step reads."""
        return (NEGATIVE_IDS, score_column(self.by))

    def __post_init__(self) -> None:
        if self.min is None and self.max is None:
            raise ValueError("ScoreBand: give min, max or both; without a limit it would keep everything.")
        if self.min is not None:
            self._set(min=checks.real_number("ScoreBand", "min", self.min))
        if self.max is not None:
            self._set(max=checks.real_number("ScoreBand", "max", self.max))
        if self.min is not None and self.max is not None and self.max < self.min:
            raise ValueError(f"ScoreBand: the band from {self.min:g} to {self.max:g} is empty; max must reach min.")

    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        return within(batch.number_lists(score_column(self.by)).values, self.min, self.max)
