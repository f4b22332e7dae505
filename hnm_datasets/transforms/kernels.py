"""How alike passages are, compiled by numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled

#: Entries of a table that tells, by the last bits of a shingle, whether a passage may have it: a power of two.
MARKS = 1 << 13


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
        vectors: As for `compare`, as are the next three.
        shingle_offsets: Where the shingles of each form begin and end.
        shingles: The shingles.
        passages: N.
        similarities: Receives the highest similarity to a positive, NaN in a row without positives. Shape (C,).
    """
    marks = np.zeros(MARKS, dtype=np.bool_)
    for line in range(len(offsets) - 1):
        own = slice(offsets[line], offsets[line + 1])
        similarities[own] = np.nan
        for place in range(positive_offsets[line], positive_offsets[line + 1]):
            one = positives[place]
            compare(one, rows[own], vectors, shingle_offsets, shingles, passages, marks, similarities[own])


@numba.njit(nogil=True)
def compare(
    one: Any,
    others: Any,
    vectors: Any,
    shingle_offsets: Any,
    shingles: Any,
    passages: Any,
    marks: Any,
    similarities: Any,
) -> None:
    """Raise similarities to those of one passage with others: cosines of vectors, or Jaccard similarities of texts.

    Args:
        one: The number of a passage, or of its vector.
        others: The numbers of C others.
        vectors: Shape (N, D); (0, 0): compare texts.
        shingle_offsets: See `Shingles`.
        shingles: See `Shingles`.
        passages: N, for texts.
        marks: All False, before and after. Shape (MARKS,).
        similarities: Each becomes the higher one, up to 1; NaN is the lowest. Shape (C,).
    """
    if len(vectors):
        for place in range(len(others)):
            found = _cosine(vectors[one], vectors[others[place]])
            if not found <= similarities[place]:
                similarities[place] = found
        return
    forms = len(shingle_offsets) - 1
    for form in range(one, forms, passages):
        own = shingles[shingle_offsets[form] : shingle_offsets[form + 1]]
        for shingle in own:
            marks[shingle & (MARKS - 1)] = True
        for place in range(len(others)):
            for other in range(others[place], forms, passages):
                found = _jaccard(own, marks, shingles[shingle_offsets[other] : shingle_offsets[other + 1]])
                if not found <= similarities[place]:
                    similarities[place] = found
        for shingle in own:
            marks[shingle & (MARKS - 1)] = False


@numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _cosine(first: Any, second: Any) -> Any:
    product, own, others = np.float32(0), np.float32(0), np.float32(0)
    for place in range(len(first)):
        product += first[place] * second[place]
        own += first[place] * first[place]
        others += second[place] * second[place]
    return product / np.sqrt(own * others)


@numba.njit(nogil=True)
def _jaccard(own: Any, marks: Any, others: Any) -> Any:
    """Return the share of the elements of two sorted sets that both have, 0 where both are empty.

    Most shingles of two passages are different, and the marks of the first one exclude nearly all of them.
    """
    shared = 0
    for shingle in others:
        if marks[shingle & (MARKS - 1)]:
            low, high = 0, len(own)
            while low < high:
                middle = (low + high) // 2
                if own[middle] < shingle:
                    low = middle + 1
                else:
                    high = middle
            shared += low < len(own) and own[low] == shingle
    return np.float32(shared) / np.float32(max(len(own) + len(others) - shared, 1))
