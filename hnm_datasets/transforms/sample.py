"""Samplers: a fixed number of candidates per row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.columns import NEGATIVE_IDS, Batch, score_column
from hnm_datasets.ragged import Ragged
from hnm_datasets.transforms import kernels
from hnm_datasets.transforms.base import CandidateFilter

_STRATEGIES = ("uniform", "softmax", "simans")


def first_mask(offsets: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    """Mark the first n values of each list. Shape (B + 1,) → (C,)."""
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
    return np.asarray(places < n)


def _means(lists: Ragged[NDArray[np.generic]]) -> NDArray[np.float64]:
    """Return the mean of each list, NaN of an empty one. Shape (B,)."""
    totals = np.bincount(lists.owners, weights=lists.values.astype(np.float64), minlength=len(lists))
    means = np.full(len(lists), np.nan)
    filled = lists.lengths > 0
    means[filled] = totals[filled] / lists.lengths[filled]
    return means


@dataclass(frozen=True)
class TopNegatives(CandidateFilter):
    """Keep the first n candidates of each row: the hardest ones. A row that has fewer keeps all.

    Args:
        n: Candidates per row.

    Columns read:
        `negative_ids`.

    Columns written:
        All aligned `negative_*` columns.

    Raises:
        ValueError: `n` is less than 1.

    Example:
        >>> TopNegatives(2)({"negative_ids": [["a", "b", "c"], ["d"]]})
        {'negative_ids': [['a', 'b'], ['d']]}
    """

    n: int

    def __post_init__(self) -> None:
        self._set(n=checks.whole_number("TopNegatives", "n", self.n, low=1))

    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        return first_mask(candidates.offsets, self.n)


@dataclass(frozen=True)
class SampleNegatives(CandidateFilter):
    """Draw n candidates of each row without replacement, and keep them in their order.

    The draw depends on the seed, on the row's `query_id` (or its `query`) and on the row's candidates; not on where the
    row stands or how the rows are batched. A row that has no more than n candidates keeps all.

    Args:
        n: Candidates per row.
        strategy: `"uniform"` draws each with the same chance; `"softmax"` with a chance in proportion to
            exp(score / temperature); `"simans"` in proportion to exp(-a·(s⁻ - s⁺ - b)²), which favours candidates that
            score about as high as the positive, neither too easy nor likely false (Zhou et al. 2022, *SimANS*,
            https://arxiv.org/abs/2210.11773).
        temperature: For `"softmax"`, in the units of the score: near 0 it takes the hardest, a large one draws almost
            uniformly.
        seed: Another seed draws others.
        by: For `"softmax"` and `"simans"`: `"score"` for the retriever's scores, or a teacher's name.
        a: For `"simans"`: how sharply the chance falls with the distance, in the units of the score squared; the
            paper's default is 1 for dot products, and cosines need some 100.
        b: For `"simans"`: where the chance is highest, below (negative) or above the positive's score.

    Columns read:
        `negative_ids`, `query_id` or `query`; for `"softmax"` and `"simans"` the score column; for `"simans"` also that
        of the positives (of several the mean; a row without positives is drawn from uniformly).

    Columns written:
        All aligned `negative_*` columns.

    Raises:
        ValueError: `n` is less than 1, the strategy is unknown, or the temperature is not greater than 0.

    Example:
        >>> batch = {"query": ["what causes earthquakes?"], "negative_ids": [["a", "b", "c", "d"]]}
        >>> sampled = SampleNegatives(2, seed=3)(batch)
        >>> len(sampled["negative_ids"][0]), sampled == SampleNegatives(2, seed=3)(batch)
        (2, True)
    """

    n: int
    strategy: str = "uniform"
    temperature: float = 1.0
    seed: int = 0
    by: str = "score"
    a: float = 1.0
    b: float = 0.0

    @property
    def input_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step reads, and beside them `query_id` or `query`."""
        scores = {"softmax": ("negative",), "simans": ("negative", "positive")}.get(self.strategy, ())
        return (NEGATIVE_IDS, *(score_column(self.by, of=part) for part in scores))

    def __post_init__(self) -> None:
        name = "SampleNegatives"
        self._set(
            n=checks.whole_number(name, "n", self.n, low=1),
            strategy=checks.one_of(name, "strategy", self.strategy, _STRATEGIES),
            temperature=checks.real_number(name, "temperature", self.temperature, above=0),
            a=checks.real_number(name, "a", self.a, above=0),
            b=checks.real_number(name, "b", self.b),
            seed=checks.whole_number(name, "seed", self.seed, low=0),
        )

    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        keep = np.empty(len(candidates.values), dtype=bool)
        if self.strategy == "softmax":
            scores = batch.number_lists(score_column(self.by)).values
            weights = scores.astype(np.float64) / self.temperature
        elif self.strategy == "simans":
            own = batch.number_lists(score_column(self.by)).values.astype(np.float64)
            aims = _means(batch.number_lists(score_column(self.by, of="positive")))[candidates.owners] + self.b
            weights = np.where(np.isnan(aims), 0, -self.a * (own - aims) ** 2)
        else:
            weights = np.zeros(len(keep))
        kernels.sample_mask(candidates.offsets, weights, batch.row_keys(), self.seed, self.n, keep)
        return keep
