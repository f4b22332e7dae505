"""The compiled loops of exact dense search: selecting candidates from a block of scores, and scoring passages."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled
from hnm_datasets.indexes.keys import NO_KEY, key_of

#: Scores that are tested together. Most runs contain no candidate.
RUN = 64
#: Bisection steps in the search for the k-th best score.
_HALVINGS = 20


@compiled
def keep(
    bits: NDArray[np.uint16] | NDArray[np.uint32],
    shift: int,
    share: float,
    first: int,
    errors: NDArray[np.float32],
    limits: NDArray[np.float32],
    lowest: NDArray[np.float32],
    highest: NDArray[np.float32],
    rows: NDArray[np.uint32],
    counts: NDArray[np.int64],
) -> None:
    """Add the passages of the next block of C that may be among the k best of each of B queries.

    Args:
        bits: The bits of the products with the passages `first` to `first + C`. Shape (B, C).
        shift: The shift that turns these bits into those of a float32: 16 for bfloat16, 0 for float32.
        share: The relative error of the products.
        first: The row number of the first of these passages.
        errors: The absolute error of the products, in addition. Shape (B,).
        limits: A lower bound for the k-th best score. Shape (B,).
        lowest: Receives the lower bounds of the scores. Shape (B, at least counts + C).
        highest: Receives the upper bounds of the scores.
        rows: Receives the row numbers.
        counts: The number of candidates of each query; it is updated. Shape (B,).
    """
    width = bits.shape[1]
    behind, share_ = np.uint32(shift), np.float32(share)
    for query in range(bits.shape[0]):
        line, low, high, numbers = bits[query], lowest[query], highest[query], rows[query]
        error, count = errors[query], counts[query]
        # Products below this threshold cannot reach the limit, even with both errors added.
        threshold = limits[query] - error
        threshold = threshold / (1 + share_) if threshold > 0 else threshold / (1 - share_)
        threshold -= np.abs(threshold) * np.float32(1e-6)
        for start in range(0, width, RUN):
            stop = min(start + RUN, width)
            if stop - start == RUN and not _not_below(line[start:stop], behind, threshold):
                continue
            for position in range(start, stop):
                score = np.uint32(np.uint32(line[position]) << behind).view(np.float32)
                if score < threshold:
                    continue
                total_error = np.abs(score) * share_ + error
                lower, upper = score - total_error, score + total_error
                low[count] = lower if lower == lower else -np.inf
                high[count] = upper if upper == upper else np.inf
                numbers[count] = first + position
                count += 1
        counts[query] = count


@compiled
def keep_integers(
    products: NDArray[np.int32],
    scales: NDArray[np.float64],
    first: int,
    errors: NDArray[np.float32],
    limits: NDArray[np.float32],
    lowest: NDArray[np.float32],
    highest: NDArray[np.float32],
    rows: NDArray[np.uint32],
    counts: NDArray[np.int64],
) -> None:
    """Do the same as `keep` for integer products.

    Args:
        products: Shape (B, C).
        scales: The score of one unit, for each query. Shape (B,).
        first: The row number of the first passage. This and the following arguments are those of `keep`.
        errors: The absolute error of the products.
        limits: A lower bound for the k-th best score.
        lowest: Receives the lower bounds of the scores.
        highest: Receives the upper bounds of the scores.
        rows: Receives the row numbers.
        counts: The number of candidates of each query; it is updated.
    """
    width = products.shape[1]
    for query in range(products.shape[0]):
        line, low, high, numbers = products[query], lowest[query], highest[query], rows[query]
        scale, error, count = scales[query], errors[query], counts[query]
        # Round down and clip to the range of int32.
        threshold = np.int32(max(min(np.floor((limits[query] - error) / scale), 2.0**31 - 1), -(2.0**31)))
        for start in range(0, width, RUN):
            stop = min(start + RUN, width)
            if stop - start == RUN and not _reached(line[start:stop], threshold):
                continue
            for position in range(start, stop):
                if line[position] >= threshold:
                    score = line[position] * scale
                    low[count], high[count] = score - error, score + error
                    numbers[count] = first + position
                    count += 1
        counts[query] = count


@numba.njit(nogil=True)
def _not_below(bits: Any, behind: Any, threshold: Any) -> Any:
    # NaN, from overflow, does not count as below. Compilers vectorize the counting in loops of 64.
    found = 0
    for position in range(RUN):
        found += not np.uint32(np.uint32(bits[position]) << behind).view(np.float32) < threshold
    return found


@numba.njit(nogil=True)
def _reached(products: Any, threshold: Any) -> Any:
    found = 0
    for position in range(RUN):
        found += products[position] >= threshold
    return found


@compiled
def prune(
    k: int,
    size: int,
    lowest: NDArray[np.float32],
    highest: NDArray[np.float32],
    rows: NDArray[np.uint32],
    counts: NDArray[np.int64],
    limits: NDArray[np.float32],
) -> None:
    """Drop candidates that cannot be among the k best, for queries with more than `size`. See `keep` for the arrays."""
    for query in range(len(counts)):
        count = counts[query]
        if count <= size:
            continue
        low, high, numbers = lowest[query], highest[query], rows[query]
        limit = _reached_by(low[:count], k, limits[query])
        limits[query] = limit
        kept = 0
        for position in range(count):
            lower, upper, number = low[position], high[position], numbers[position]
            low[kept], high[kept], numbers[kept] = lower, upper, number
            kept += upper >= limit
        counts[query] = kept


@numba.njit(nogil=True)
def _reached_by(scores: Any, k: int, limit: Any) -> Any:
    """Return a limit, at least `limit`, that at least k of the scores reach, and not many more.

    Bisection takes one pass over the scores per step, but without branches that could be mispredicted.
    """
    best = limit
    for position in range(len(scores)):
        best = max(best, scores[position])
    low, high = _ordinal_of(limit), _ordinal_of(best)
    for _ in range(_HALVINGS):
        if high - low <= 1:
            break
        middle = (low + high) // 2
        tried = _number_at(middle)
        reached = 0
        for position in range(len(scores)):
            reached += scores[position] >= tried
        if reached >= k:
            low = middle
        else:
            high = middle
    return max(limit, _number_at(low))


@numba.njit(nogil=True)
def _ordinal_of(number: Any) -> Any:
    """Map a float32 to an integer, preserving the order of all float32 numbers."""
    bits = np.int64(np.float32(number).view(np.int32))
    return bits if bits >= 0 else -(bits & np.int64(0x7FFFFFFF))


@numba.njit(nogil=True)
def _number_at(ordinal: Any) -> Any:
    bits = ordinal if ordinal >= 0 else -ordinal | np.int64(0x80000000)
    return np.uint32(bits).view(np.float32)


@compiled
def score_found(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    found: NDArray[np.int64],
    counts: NDArray[np.int64],
    euclidean: bool,
    rows_at_once: int,
    keys: NDArray[np.uint64],
) -> None:
    """Score the candidates of a search. The scores do not depend on the batch.

    Args:
        queries: Shape (B, D).
        vectors: Shape (N, D).
        found: Row numbers, ascending. Shape (B, F).
        counts: The number of valid entries in each line. Shape (B,).
        euclidean: Score by the negative distance, otherwise by the dot product.
        rows_at_once: Passages per block. Each block is scored for all queries while it is in the CPU cache.
        keys: Receives keys of scores and rows, for `hits_of`. Shape (B, at least the largest of `counts`).
    """
    exact = np.empty(1, dtype=np.float32)
    bits = exact.view(np.uint32)
    positions = np.zeros(len(queries), dtype=np.int64)
    for start in range(0, len(vectors), rows_at_once):
        for query in range(len(queries)):
            position, count = positions[query], counts[query]
            while position < count and found[query, position] < start + rows_at_once:
                row = found[query, position]
                exact[0] = _score(queries[query], vectors[row], euclidean)
                keys[query, position] = key_of(bits[0], row)
                position += 1
            positions[query] = position
    for query in range(len(queries)):
        keys[query, counts[query] :] = NO_KEY


@compiled
def score_lists(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    euclidean: bool,
    scores: NDArray[np.float32],
) -> None:
    """Score given passages of each query. Shapes (B, D), (N, D), (B + 1,), (C,); `scores` receives (C,)."""
    for query in range(len(queries)):
        for position in range(offsets[query], offsets[query + 1]):
            scores[position] = _score(queries[query], vectors[rows[position]], euclidean)


@numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _score(query: Any, vector: Any, euclidean: bool) -> Any:
    total = np.float32(0)
    if euclidean:
        for position in range(len(query)):
            difference = query[position] - vector[position]
            total += difference * difference
        return -np.sqrt(total)
    for position in range(len(query)):
        total += query[position] * vector[position]
    return total
