"""Scoring sparse vectors, compiled by numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.models.sparse_vectors import SparseVectors


def score(queries: SparseVectors, passages: SparseVectors, lists: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Return the dot products of queries with given passages.

    The sum adds the terms in ascending order, as a search does, so the scores are bit-identical.

    Args:
        queries: B vectors.
        passages: P vectors.
        lists: The passage numbers of each query, C in total.

    Returns:
        Shape (C,), aligned with `lists.values`.

    Example:
        >>> from hnm_datasets.models.sparse_vectors import sparse_vectors
        >>> passages = sparse_vectors([[1, 0, 2], [0, 3, 0]])
        >>> score(sparse_vectors([[2, 1, 0.5]]), passages, Ragged(np.array([0, 2]), np.array([1, 0]))).tolist()
        [3.0, 3.0]
    """
    terms = 1 + max(int(vectors.terms.max(initial=-1)) for vectors in (queries, passages))
    out = np.empty(len(lists.values), dtype=np.float32)
    query_arrays, passage_arrays = (
        (vectors.offsets, vectors.terms, vectors.weights) for vectors in (queries, passages)
    )
    _score(*query_arrays, *passage_arrays, lists.offsets, lists.values, np.zeros(terms, dtype=np.float32), out)
    return out


@compiled
def _score(
    query_offsets: NDArray[np.int64],
    query_terms: NDArray[np.int32],
    query_weights: NDArray[np.float32],
    offsets: NDArray[np.int64],
    terms: NDArray[np.int32],
    weights: NDArray[np.float32],
    list_offsets: NDArray[np.int64],
    passages: NDArray[np.int64],
    factors: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Score passages with a dense table of the query weights, `factors`, which is all zeros before and after."""
    for query in range(len(query_offsets) - 1):
        begin, end = query_offsets[query], query_offsets[query + 1]
        for at in range(begin, end):
            factors[query_terms[at]] = query_weights[at]
        for number in range(list_offsets[query], list_offsets[query + 1]):
            total = np.float32(0)
            for at in range(offsets[passages[number]], offsets[passages[number] + 1]):
                total += weights[at] * factors[terms[at]]
            out[number] = total
        for at in range(begin, end):
            factors[query_terms[at]] = 0
