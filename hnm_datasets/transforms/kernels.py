"""Similarities of passages, compiled by numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled

#: Size of the table that shows, by the last bits of a shingle, whether a passage may contain it: a power of two.
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
        positives: The numbers of the positives' vectors, or of their passages.
        offsets: Where each row's candidates begin and end. Shape (B + 1,).
        rows: The numbers of the candidates' vectors, or of their passages. Shape (C,).
        vectors: See `compare`, also for the next three.
        shingle_offsets: Where the shingles of each form begin and end.
        shingles: The shingles.
        passages: N.
        similarities: Output: the highest similarity to a positive, NaN in a row without positives. Shape (C,).
    """
    marks = np.zeros(MARKS, dtype=np.bool_)
    for line in range(len(offsets) - 1):
        own = slice(offsets[line], offsets[line + 1])
        similarities[own] = np.nan
        for position in range(positive_offsets[line], positive_offsets[line + 1]):
            positive = positives[position]
            compare(positive, rows[own], vectors, shingle_offsets, shingles, passages, marks, similarities[own])


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
    """Compare one passage with others, and update their highest similarities so far.

    Similarities are cosines of vectors or Jaccard similarities of texts.

    Args:
        one: The number of a passage, or of its vector.
        others: The numbers of C others.
        vectors: Shape (N, D); (0, 0) to compare texts.
        shingle_offsets: See `Shingles`.
        shingles: See `Shingles`.
        passages: N, for texts.
        marks: Scratch memory, all False before and after. Shape (MARKS,).
        similarities: In and out: the highest similarity so far, up to 1; NaN counts as the lowest. Shape (C,).
    """
    if len(vectors):
        for i in range(len(others)):
            found = _cosine(vectors[one], vectors[others[i]])
            if not found <= similarities[i]:
                similarities[i] = found
        return
    forms = len(shingle_offsets) - 1
    for form in range(one, forms, passages):
        own = shingles[shingle_offsets[form] : shingle_offsets[form + 1]]
        for shingle in own:
            marks[shingle & (MARKS - 1)] = True
        for i in range(len(others)):
            for other in range(others[i], forms, passages):
                found = _jaccard(own, marks, shingles[shingle_offsets[other] : shingle_offsets[other + 1]])
                if not found <= similarities[i]:
                    similarities[i] = found
        for shingle in own:
            marks[shingle & (MARKS - 1)] = False


@numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _cosine(first: Any, second: Any) -> Any:
    product, own, others = np.float32(0), np.float32(0), np.float32(0)
    for i in range(len(first)):
        product += first[i] * second[i]
        own += first[i] * first[i]
        others += second[i] * second[i]
    return product / np.sqrt(own * others)


@numba.njit(nogil=True)
def _jaccard(own: Any, marks: Any, others: Any) -> Any:
    """Return the Jaccard similarity of two sorted sets, 0 if both are empty.

    Most shingles of two passages differ, and the marks of the first passage exclude nearly all of them.
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
