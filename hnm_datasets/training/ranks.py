"""The rank of the best positive of each query among its candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged


@dataclass
class Ranks:
    """Sums over the queries with positives; `+=` adds those of another batch.

    Attributes:
        queries: The number of queries with a positive.
        found: The number of queries whose best positive does not rank below all candidates. Below all candidates its
            rank is unknown.
        reciprocal: The sum of 1 / rank over those queries.
        candidates: The number of candidates of all queries.
        higher: The number of candidates that score above the best positive of their query.
    """

    queries: int = 0
    found: int = 0
    reciprocal: float = 0.0
    candidates: int = 0
    higher: int = 0

    def __iadd__(self, other: Ranks) -> Ranks:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self

    @property
    def mrr(self) -> float:
        """The mean reciprocal rank of the best positive; 0 without queries."""
        return self.reciprocal / max(self.queries, 1)

    @property
    def recall(self) -> float:
        """The share of the queries whose best positive does not rank below all candidates; 0 without queries."""
        return self.found / max(self.queries, 1)

    @property
    def above(self) -> float:
        """The share of the candidates that score above the best positive; 0 without candidates."""
        return self.higher / max(self.candidates, 1)


def ranks_of(positives: Ragged[Any], negatives: Ragged[Any]) -> Ranks:
    """Rank the best positive of each query among its candidates.

    Args:
        positives: The scores of the positives of B queries.
        negatives: The scores of their candidates.

    Example:
        >>> scores = Ragged(np.array([0, 1]), np.array([0.5])), Ragged(np.array([0, 3]), np.array([0.7, 0.4, 0.1]))
        >>> ranks = ranks_of(*scores)
        >>> ranks.mrr, round(ranks.above, 2)
        (0.5, 0.33)
    """
    best, answered = _best(positives), positives.lengths > 0
    higher = negatives.values > best[negatives.owners]
    ahead = np.bincount(negatives.owners[higher], minlength=len(positives))
    # The rank of a positive below all candidates is unknown.
    found = answered & ((ahead < negatives.lengths) | (negatives.lengths == 0))
    return Ranks(
        int(answered.sum()), int(found.sum()), float((1 / (1 + ahead[found])).sum()), len(higher), int(higher.sum())
    )


def mean_weight(positives: Ragged[Any], negatives: Ragged[Any], scale: float) -> float:
    """Return the mean weight of a candidate: its share in a softmax with the best positive of its query.

    It is the gradient of the pairwise loss with respect to the candidate's logit.

    Args:
        positives: The scores of the positives of B queries.
        negatives: The scores of their candidates.
        scale: Multiplies the scores; the inverse of the temperature.

    Example:
        >>> scores = Ragged(np.array([0, 1]), np.array([0.5])), Ragged(np.array([0, 2]), np.array([0.5, 0.1]))
        >>> round(mean_weight(*scores, scale=20), 4)
        0.2502
    """
    # Candidates of a query without positives have no weight.
    behind = np.clip(scale * (_best(positives)[negatives.owners] - negatives.values), -100, 100)
    return float((1 / (1 + np.exp(behind))).mean()) if len(behind) else 0.0


def _best(scores: Ragged[Any]) -> NDArray[np.float64]:
    """Return the maximum of each list; infinity for an empty list. Shape (B,)."""
    best, filled = np.full(len(scores), np.inf), scores.lengths > 0
    if filled.any():
        best[filled] = np.maximum.reduceat(scores.values.astype(np.float64), scores.offsets[:-1][filled])
    return best
