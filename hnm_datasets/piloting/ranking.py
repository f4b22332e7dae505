"""Retrieval measures for each query."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

#: The measures, in the order of the columns that `measures_of` returns.
MEASURES = ("nDCG@10", "recall@10", "recall@100")


def measures_of(scores: torch.Tensor, offsets: NDArray[np.int64], relevant: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return nDCG@10, recall@10 and recall@100 of each query, with binary relevance.

    Args:
        scores: The score of each query and passage. Shape (Q, P).
        offsets: The offsets of each query's passages in `relevant`. Shape (Q + 1,).
        relevant: The columns of the relevant passages in `scores`. Shape (R,).

    Returns:
        Shape (Q, 3), in the order of `MEASURES`.

    Example:
        >>> scores = torch.tensor([[0.9, 0.8, 0.1]])
        >>> measures_of(scores, np.array([0, 1]), np.array([1])).round(3).tolist()
        [[0.6309999823570251, 1.0, 1.0]]
    """
    depth = min(100, scores.shape[1])
    found = torch.topk(scores, depth, dim=1).indices.cpu().numpy()
    lengths = np.diff(offsets)
    queries = np.repeat(np.arange(len(lengths)), lengths)
    is_relevant = np.zeros((len(lengths), scores.shape[1]), dtype=bool)
    is_relevant[queries, relevant] = True
    hits = np.take_along_axis(is_relevant, found, axis=1)
    known = is_relevant.sum(axis=1)
    gains = 1 / np.log2(np.arange(2, 12))
    best = np.concatenate([[0.0], np.cumsum(gains)])[np.minimum(known, 10)]
    found_gain = hits[:, :10] @ gains[: min(10, depth)]
    columns = [found_gain / best, hits[:, :10].sum(axis=1) / known, hits.sum(axis=1) / known]
    return np.stack(columns, axis=1).astype(np.float32)


def means_of(values: NDArray[np.float32]) -> dict[str, float]:
    """Return the mean of each measure over seeds and queries.

    Args:
        values: Shape (S, Q, 3), in the order of `MEASURES`.

    Example:
        >>> means_of(np.array([[[0.5, 1, 1], [1, 1, 1]]], dtype=np.float32))
        {'nDCG@10': 0.75, 'recall@10': 1.0, 'recall@100': 1.0}
    """
    return dict(zip(MEASURES, values.mean(axis=(0, 1), dtype=np.float64).tolist(), strict=True))
