"""The compiled loops of exact dense search: choosing the best of a block of scores, and scoring given passages."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled

#: Scores looked at together; most such runs hold nothing better than what is kept already.
RUN = 16
_MAGNITUDE = np.uint32(0x7FFFFFFF)


@compiled
def keep_best(
    scores: NDArray[np.float32],
    first: int,
    k: int,
    kept_scores: NDArray[np.float32],
    kept_rows: NDArray[np.uint32],
    counts: NDArray[np.int64],
    limits: NDArray[np.float32],
) -> None:
    """Add the scores of the next C passages to what is kept of each of B queries.

    Args:
        scores: Of passages `first` to `first + C`. Shape (B, C).
        first: The row number of the first of these passages.
        k: How many are wanted in the end.
        kept_scores: What may be among the k best, in no order. Shape (B, at least k + RUN).
        kept_rows: Their row numbers.
        counts: How many are kept of each query. Shape (B,).
        limits: What does not exceed it is not among the k best. Shape (B,), -inf at first.
    """
    width = scores.shape[1]
    full = kept_scores.shape[1] - RUN
    for query in range(scores.shape[0]):
        line = scores[query]
        kept, rows = kept_scores[query], kept_rows[query]
        limit = limits[query]
        count = counts[query]
        for start in range(0, width - width % RUN, RUN):
            better = False
            for place in range(start, start + RUN):
                better |= line[place] > limit
            if not better:
                continue
            if count > full:
                limit = _shrink(kept[:count], rows[:count], k)
                count = k
            # Written always and counted if better: a branch here would be guessed wrong every time.
            for place in range(start, start + RUN):
                kept[count] = line[place]
                rows[count] = first + place
                count += line[place] > limit
        for place in range(width - width % RUN, width):
            if count > full:
                limit = _shrink(kept[:count], rows[:count], k)
                count = k
            kept[count] = line[place]
            rows[count] = first + place
            count += line[place] > limit
        limits[query] = limit
        counts[query] = count


@compiled
def cut(k: int, kept_scores: NDArray[np.float32], kept_rows: NDArray[np.uint32], counts: NDArray[np.int64]) -> None:
    """Bring the k best of what is kept to the front; the arguments are those of `keep_best`."""
    for query in range(len(counts)):
        if counts[query] > k:
            _shrink(kept_scores[query, : counts[query]], kept_rows[query, : counts[query]], k)
            counts[query] = k


@numba.njit(nogil=True)
def _shrink(scores: Any, rows: Any, k: int) -> Any:
    """Bring the k best to the front, of equal ones the first rows, and return the least score of them."""
    # Hoare's selection, by score and then by row, so that which of many equal ones stay does not depend on the way.
    low, high = 0, len(scores) - 1
    while low < high:
        pivot, pivot_row = scores[(low + high) // 2], rows[(low + high) // 2]
        left, right = low, high
        while left <= right:
            while scores[left] > pivot or (scores[left] == pivot and rows[left] < pivot_row):
                left += 1
            while scores[right] < pivot or (scores[right] == pivot and rows[right] > pivot_row):
                right -= 1
            if left <= right:
                scores[left], scores[right] = scores[right], scores[left]
                rows[left], rows[right] = rows[right], rows[left]
                left += 1
                right -= 1
        if k - 1 <= right:
            high = right
        elif k - 1 >= left:
            low = left
        else:
            break
    least = scores[0]
    for place in range(1, k):
        least = min(least, scores[place])
    return least


@compiled
def rank(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    found: NDArray[np.int64] | NDArray[np.uint32],
    counts: NDArray[np.int64],
    euclidean: bool,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> None:
    """Score what a search found, the same way for all batches, and put the best first, equal ones in corpus order.

    Args:
        queries: Shape (B, D).
        vectors: Shape (N, D).
        found: Row numbers. Shape (B, F).
        counts: How many of them count, in each line. Shape (B,).
        euclidean: Score by the negative distance, else by the dot product.
        rows: Receives the best row numbers, -1 where there is none. Shape (B, K).
        scores: Receives their scores, -inf where there is none. Shape (B, K).
    """
    order = np.empty(found.shape[1], dtype=np.uint64)
    exact = np.empty(1, dtype=np.float32)
    bits = exact.view(np.uint32)
    for query in range(len(queries)):
        count = counts[query]
        for place in range(count):
            row = found[query, place]
            exact[0] = _score(queries[query], vectors[row], euclidean)
            # A better score has the smaller first half, the lower row the smaller second half.
            first = bits[0] if bits[0] >> np.uint32(31) else ~bits[0] & _MAGNITUDE
            order[place] = (np.uint64(first) << np.uint64(32)) | np.uint64(row)
        best = np.sort(order[:count])
        for place in range(rows.shape[1]):
            if place >= count:
                rows[query, place], scores[query, place] = -1, -np.inf
                continue
            rows[query, place] = best[place] & np.uint64(0xFFFFFFFF)
            first = np.uint32(best[place] >> np.uint64(32))
            bits[0] = first if first >> np.uint32(31) else ~first & _MAGNITUDE
            scores[query, place] = exact[0]


@compiled
def score_lists(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    euclidean: bool,
    scores: NDArray[np.float32],
) -> None:
    """Score certain passages of each query. Shapes (B, D), (N, D), (B + 1,), (C,); receives (C,)."""
    for query in range(len(queries)):
        for place in range(offsets[query], offsets[query + 1]):
            scores[place] = _score(queries[query], vectors[rows[place]], euclidean)


@numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _score(query: Any, vector: Any, euclidean: bool) -> Any:
    total = np.float32(0)
    if euclidean:
        for place in range(len(query)):
            gap = query[place] - vector[place]
            total += gap * gap
        return -np.sqrt(total)
    for place in range(len(query)):
        total += query[place] * vector[place]
    return total
