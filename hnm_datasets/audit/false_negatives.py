"""The share of relevant negatives, with a confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: The quantile of the normal distribution for 95%.
_Z = 1.959963984540054


@dataclass(frozen=True)
class FalseNegatives:
    """The share of negatives that are relevant.

    Attributes:
        by: `"judgments"`, or the name of the teacher.
        rate: The share, from 0 to 1.
        low: Lower end of its 95% confidence interval, see `estimate`.
        high: Upper end of the interval.
        false: The number of relevant negatives.
        negatives: The number of negatives considered.
        queries: The number of their queries.
        rule: The rule by which a negative counts as relevant.
    """

    by: str
    rate: float
    low: float
    high: float
    false: int
    negatives: int
    queries: int
    rule: str


def estimate(
    by: str, rule: str, queries: NDArray[np.uint64], false: NDArray[np.integer], negatives: NDArray[np.integer]
) -> FalseNegatives | None:
    """Estimate the share of false negatives among all negatives that could be mined in the same way.

    The negatives of one query are similar, so the interval treats queries as clusters. It is Wilson's interval (1927)
    for the effective sample size: the number of independent negatives with the same information (the design effect of
    cluster samples, Kish 1965).

    Args:
        by: The source of the judgments.
        rule: The rule by which a negative counts as relevant.
        queries: The key of each row's query. Shape (B,).
        false: The number of relevant negatives of each row. Shape (B,).
        negatives: The number of negatives of each row. Shape (B,).

    Returns:
        The estimate; None if there are no negatives.

    Example:
        >>> rows = np.arange(100, dtype=np.uint64)
        >>> found = estimate("judgments", "judged relevant", rows, (rows < 10).astype(int), np.ones(100, dtype=int))
        >>> found.rate, round(found.low, 3), round(found.high, 3)
        (0.1, 0.055, 0.175)
    """
    counted = count_clusters(queries, false, negatives)
    if counted is None:
        return None
    low, high = wilson(counted.rate, counted.size)
    return FalseNegatives(by, counted.rate, low, high, counted.false, counted.negatives, counted.queries, rule)


class Clusters(NamedTuple):
    """Counts of the false negatives of several queries.

    Attributes:
        rate: The share of false negatives.
        size: The effective sample size: the number of independent negatives with the same information.
        false: The number of false negatives.
        negatives: The number of negatives.
        queries: The number of queries.
    """

    rate: float
    size: float
    false: int
    negatives: int
    queries: int


def count_clusters(
    queries: NDArray[Any], false: NDArray[np.integer], negatives: NDArray[np.integer]
) -> Clusters | None:
    """Count the false negatives by query; None if there are no negatives. See `estimate`."""
    _, code = np.unique(queries, return_inverse=True)
    of_query = np.bincount(code, weights=negatives)
    false_of_query = np.bincount(code, weights=false)[of_query > 0]
    of_query = of_query[of_query > 0]
    total = of_query.sum()
    if not total:
        return None
    rate = false_of_query.sum() / total
    # Without any variation, the similarity of a query's negatives is unknown, so each query counts once.
    size = float(len(of_query))
    if len(of_query) > 1 and 0 < rate < 1:
        clustered = len(of_query) / (len(of_query) - 1) * np.sum((false_of_query - rate * of_query) ** 2) / total**2
        size = float(total / max(clustered / (rate * (1 - rate) / total), 1.0))
    return Clusters(float(rate), size, int(false_of_query.sum()), int(total), len(of_query))


def wilson(rate: float, size: float) -> tuple[float, float]:
    """Return the ends of Wilson's 95% confidence interval of a share, for `size` independent draws.

    Example:
        >>> [round(end, 3) for end in wilson(0.1, 100)]
        [0.055, 0.174]
    """
    center = (rate + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    half = _Z / (1 + _Z**2 / size) * math.sqrt(rate * (1 - rate) / size + _Z**2 / (4 * size**2))
    return max(0.0, min(center - half, rate)), min(1.0, max(center + half, rate))
