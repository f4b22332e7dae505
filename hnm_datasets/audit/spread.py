"""Distributions of values: moments, quantiles, histograms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BINS = 16


@dataclass(frozen=True)
class Spread:
    """The distribution of some values: moments and quantiles.

    Attributes:
        count: The number of values.
        mean: The mean.
        std: The standard deviation.
        min: The minimum.
        p5: The 5th percentile.
        p25: The 25th percentile.
        median: The median.
        p75: The 75th percentile.
        p95: The 95th percentile.
        max: The maximum.
    """

    count: int
    mean: float
    std: float
    min: float
    p5: float
    p25: float
    median: float
    p75: float
    p95: float
    max: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> Spread | None:
        """Return the distribution of the finite values; None if there are none."""
        finite = np.asarray(values, dtype=np.float64)
        finite = finite[np.isfinite(finite)]
        if not len(finite):
            return None
        quantiles = np.quantile(finite, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
        return cls(len(finite), float(finite.mean()), float(finite.std()), *map(float, quantiles))


@dataclass(frozen=True)
class Scores:
    """The scores of positives and negatives by one scorer.

    Attributes:
        positive: The scores of positives.
        negative: The scores of negatives.
        margin: For each negative, the mean score of its row's positives minus its own score.
        above: The share of negatives that score above the mean of their row's positives, over all rows.
        histogram: Bin edges, and the number of positives and of negatives in each bin, over the sampled rows.
    """

    positive: Spread | None
    negative: Spread | None
    margin: Spread | None
    above: float | None
    histogram: tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]] | None


def histogram_of(
    positive: NDArray[np.float64], negative: NDArray[np.float64]
) -> tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Count the scores of positives and negatives in common bins; None if there are no finite scores."""
    both = np.concatenate([positive, negative])
    both = both[np.isfinite(both)]
    if not len(both):
        return None
    low, high = float(both.min()), float(both.max())
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        # If the values differ only in their last digits, widen the range to make room for bins.
        low, high = low - 0.5 * max(1.0, 1e-3 * abs(low)), high + 0.5 * max(1.0, 1e-3 * abs(high))
    edges = np.linspace(low, high, _BINS + 1)
    counts = [np.histogram(values[np.isfinite(values)], edges)[0] for values in (positive, negative)]
    return tuple(edges.tolist()), tuple(counts[0].tolist()), tuple(counts[1].tolist())
