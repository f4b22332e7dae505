"""Paired differences between two trainings, over queries and seeds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Difference(NamedTuple):
    """A mean difference and its 95% confidence interval.

    Attributes:
        mean: The mean over queries and seeds.
        low: The lower end of the interval.
        high: The upper end of the interval.
        error: The standard error of the mean.
    """

    mean: float
    low: float
    high: float
    error: float


def paired(gains: NDArray[np.floating]) -> Difference:
    """Return the mean of paired differences and its 95% interval over queries and seeds.

    The interval uses Student's t with the degrees of freedom of Welch and Satterthwaite. Its variance is the variance
    over queries (of the mean over seeds) plus the variance over seeds (of the mean over queries).

    Args:
        gains: The difference for each seed and query. Shape (S, Q), with Q of at least 2.

    Example:
        >>> [round(one, 3) for one in paired(np.array([[0.1, 0.2, 0.3, 0.4]]))]
        [0.25, 0.045, 0.455, 0.065]
    """
    from scipy import stats

    gains = np.asarray(gains, dtype=np.float64)
    parts = [(gains.mean(axis=0).var(ddof=1), gains.shape[1])]
    if len(gains) > 1:
        parts.append((gains.mean(axis=1).var(ddof=1), len(gains)))
    variances = [variance / size for variance, size in parts]
    whole, half = sum(variances), 0.0
    if whole:
        # Shares of the variance, because the squares of small variances underflow to zero.
        freedom = 1 / sum((one / whole) ** 2 / (size - 1) for one, (_, size) in zip(variances, parts, strict=True))
        half = float(stats.t.ppf(0.975, freedom) * np.sqrt(whole))
    mean = float(gains.mean())
    return Difference(mean, mean - half, mean + half, float(np.sqrt(whole)))
