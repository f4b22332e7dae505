"""How values are spread: moments, quantiles, histograms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BINS = 16


@dataclass(frozen=True)
class Spread:
    """How some values are spread: moments, quantiles and a histogram.

    Attributes:
        count: How many values there are.
        mean: Their mean.
        std: Their standard deviation.
        min: The smallest.
        p5: A twentieth lies below.
        p25: A quarter lies below.
        median: A half lies below.
        p75: Three quarters lie below.
        p95: All but a twentieth lie below.
        max: The largest.
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
        """Describe the finite values; None if there are none."""
        finite = np.asarray(values, dtype=np.float64)
        finite = finite[np.isfinite(finite)]
        if not len(finite):
            return None
        quantiles = np.quantile(finite, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
        return cls(len(finite), float(finite.mean()), float(finite.std()), *map(float, quantiles))


@dataclass(frozen=True)
class Scores:
    """What one scorer says of positives and negatives.

    Attributes:
        positive: The scores of positives.
        negative: The scores of negatives.
        margin: For each negative, the mean score of its query's positives less its own.
        above: Which share of the negatives scores above its query's positives (their mean). Of all rows.
        histogram: Bin edges, and how many positives and negatives of the sampled rows lie in each bin.
    """

    positive: Spread | None
    negative: Spread | None
    margin: Spread | None
    above: float | None
    histogram: tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]] | None


def histogram_of(
    positive: NDArray[np.float64], negative: NDArray[np.float64]
) -> tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Count the scores of positives and negatives in common bins; None where there are no finite ones."""
    both = np.concatenate([positive, negative])
    both = both[np.isfinite(both)]
    if not len(both):
        return None
    low, high = float(both.min()), float(both.max())
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        # Values that differ in their last digits alone would leave no room for bins between them.
        low, high = low - 0.5 * max(1.0, 1e-3 * abs(low)), high + 0.5 * max(1.0, 1e-3 * abs(high))
    edges = np.linspace(low, high, _BINS + 1)
    counts = [np.histogram(values[np.isfinite(values)], edges)[0] for values in (positive, negative)]
    return tuple(edges.tolist()), tuple(counts[0].tolist()), tuple(counts[1].tolist())
