"""The gradients that passages send to a query, and their positions around it on a plane."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def gradients(
    query: NDArray[np.floating], passages: NDArray[np.floating], positive: int, scale: float
) -> NDArray[np.float64]:
    """Return the contribution of each passage to the gradient of the ranking loss with respect to the query.

    The loss normalizes the query's vector, so the gradient is orthogonal to it.

    Args:
        query: A vector of length 1. Shape (D,).
        passages: Vectors of length 1. Shape (C, D).
        positive: The number of the positive passage.
        scale: The factor of the cosines.

    Returns:
        The contributions; their sum is the gradient. Shape (C, D).

    Example:
        >>> query, passages = np.array([1.0, 0.0]), np.array([[0.6, 0.8], [0.0, 1.0]])
        >>> np.linalg.norm(gradients(query, passages, positive=0, scale=1.0), axis=1).round(2).tolist()
        [0.28, 0.35]
    """
    cosines = passages.astype(np.float64) @ query
    weights: NDArray[np.float64] = np.exp(scale * (cosines - cosines.max()))
    weights /= weights.sum()
    weights[positive] -= 1
    across: NDArray[np.float64] = passages - cosines[:, None] * query
    return scale * weights[:, None] * across


def positions_around(query: NDArray[np.floating], passages: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return positions of passages around a query on a plane, each at its true angle to the query.

    Args:
        query: A vector of length 1. Shape (D,).
        passages: Vectors of length 1. Shape (C, D).

    Returns:
        Degrees from the query, to the right and up. Shape (C, 2).

    Example:
        >>> query, passages = np.array([0.0, 0.0, 1.0]), np.array([[1.0, 0.0, 0.0], [-0.6, 0.0, 0.8]])
        >>> np.abs(positions_around(query, passages)).round(1).tolist()
        [[90.0, 0.0], [36.9, 0.0]]
    """
    cosines = passages @ query
    tangents = passages - cosines[:, None] * query
    lengths = np.linalg.norm(tangents, axis=1)
    directions = tangents / np.maximum(lengths, 1e-12)[:, None]
    centered = directions - directions.mean(axis=0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    plane = np.zeros((len(passages), 2))
    plane[:, : len(axes[:2])] = centered @ axes[:2].T
    # The sign of a component is arbitrary: the first passage goes to the right and up.
    plane *= np.where(plane[0] < 0, -1, 1)
    across = np.linalg.norm(plane, axis=1, keepdims=True)
    plane = np.where(across > 1e-9, plane / np.maximum(across, 1e-12), [1.0, 0.0])
    angles: NDArray[np.float64] = np.degrees(np.arctan2(lengths, cosines))
    return angles[:, None] * plane
