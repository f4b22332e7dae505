"""How alike two passages are, compiled by numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled


@compiled
def nearest_positive(
    positive_offsets: NDArray[np.int64],
    positives: NDArray[np.int64],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    vectors: NDArray[np.float32],
    shingle_offsets: NDArray[np.int64],
    shingles: NDArray[np.uint32],
    passages: int,
    similarities: NDArray[np.float32],
) -> None:
    """Compare each candidate with the positives of its row.

    Args:
        positive_offsets: Where each row's positives begin and end. Shape (B + 1,).
        positives: What they are compared by: numbers of vectors, or of passages.
        offsets: Where each row's candidates begin and end. Shape (B + 1,).
        rows: What they are compared by. Shape (C,).
        vectors: As for `alike`, as are the next three.
        shingle_offsets: Where the shingles of each form begin and end.
        shingles: The shingles.
        passages: N.
        similarities: Receives the highest similarity to a positive, NaN in a row without positives. Shape (C,).
    """
    for line in range(len(offsets) - 1):
        for place in range(offsets[line], offsets[line + 1]):
            best = np.float32(np.nan)
            for positive in range(positive_offsets[line], positive_offsets[line + 1]):
                found = alike(rows[place], positives[positive], vectors, shingle_offsets, shingles, passages)
                if not found <= best:
                    best = found
            similarities[place] = best


@numba.njit(nogil=True)
def alike(first: Any, second: Any, vectors: Any, shingle_offsets: Any, shingles: Any, passages: Any) -> Any:
    """Return how alike two passages are, up to 1: the cosine of their vectors, or the Jaccard similarity of texts.

    Args:
        first: The number of a passage, or of its vector.
        second: The number of another.
        vectors: Shape (N, D); (0, 0): compare texts.
        shingle_offsets: See `Shingles`.
        shingles: See `Shingles`.
        passages: N, for texts.
    """
    if len(vectors):
        return _cosine(vectors[first], vectors[second])
    best = np.float32(0)
    for one in range(first, len(shingle_offsets) - 1, passages):
        a = shingles[shingle_offsets[one] : shingle_offsets[one + 1]]
        for other in range(second, len(shingle_offsets) - 1, passages):
            best = max(best, _jaccard(a, shingles[shingle_offsets[other] : shingle_offsets[other + 1]]))
    return best


@numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _cosine(first: Any, second: Any) -> Any:
    product, own, others = np.float32(0), np.float32(0), np.float32(0)
    for place in range(len(first)):
        product += first[place] * second[place]
        own += first[place] * first[place]
        others += second[place] * second[place]
    return product / np.sqrt(own * others)


@numba.njit(nogil=True)
def _jaccard(a: Any, b: Any) -> Any:
    """Return the share of the elements of two sorted sets that both have, 0 where one is empty."""
    shared = i = j = 0
    while i < len(a) and j < len(b):
        # Without a branch, which would be guessed wrong every other time.
        x, y = a[i], b[j]
        shared += x == y
        i += x <= y
        j += y <= x
    return np.float32(shared) / np.float32(max(len(a) + len(b) - shared, 1))
