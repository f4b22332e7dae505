"""Scores of sparse vectors, compiled by numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.models.sparse_vectors import SparseVectors


def score(queries: SparseVectors, passages: SparseVectors, places: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Return the dot product of each query with certain passages.

    The sum runs over the terms in ascending order, as in a search, so that it is the same to the last bit.

    Args:
        queries: B vectors.
        passages: P vectors.
        places: For each query the numbers of its passages, C in all.

    Returns:
        Shape (C,), aligned with `places.values`.

    Example:
        >>> from hnm_datasets.models.sparse_vectors import sparse_vectors
        >>> passages = sparse_vectors([[1, 0, 2], [0, 3, 0]])
        >>> score(sparse_vectors([[2, 1, 0.5]]), passages, Ragged(np.array([0, 2]), np.array([1, 0]))).tolist()
        [3.0, 3.0]
    """
    terms = 1 + max(int(vectors.terms.max(initial=-1)) for vectors in (queries, passages))
    out = np.empty(len(places.values), dtype=np.float32)
    asked, found = ((one.offsets, one.terms, one.weights) for one in (queries, passages))
    _score(*asked, *found, places.offsets, places.values, np.zeros(terms, dtype=np.float32), out)
    return out


@compiled
def _score(
    query_offsets: NDArray[np.int64],
    query_terms: NDArray[np.int32],
    query_weights: NDArray[np.float32],
    offsets: NDArray[np.int64],
    terms: NDArray[np.int32],
    weights: NDArray[np.float32],
    place_offsets: NDArray[np.int64],
    places: NDArray[np.int64],
    factors: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Score by a table of the query's weights by term, `factors`, which is all zeros before and after."""
    for query in range(len(query_offsets) - 1):
        begin, end = query_offsets[query], query_offsets[query + 1]
        for at in range(begin, end):
            factors[query_terms[at]] = query_weights[at]
        for number in range(place_offsets[query], place_offsets[query + 1]):
            total = np.float32(0)
            for at in range(offsets[places[number]], offsets[places[number] + 1]):
                total += weights[at] * factors[terms[at]]
            out[number] = total
        for at in range(begin, end):
            factors[query_terms[at]] = 0
