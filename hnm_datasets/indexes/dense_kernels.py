"""The compiled loops of exact dense search: choosing the best of a block of scores, and scoring given passages."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled
from hnm_datasets.indexes.keys import NO_KEY, key_of

#: Scores looked at together; most such runs hold nothing better than what is kept already.
RUN = 64
#: Of the interval in which the k-th best score is looked for.
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
    """Keep the passages of the next block of C that may be among the k best of each of B queries.

    Args:
        bits: The bits of the products with the passages `first` to `first + C`. Shape (B, C).
        shift: How many bits of a float32 come after them: 16 for bfloat16, its first half.
        share: How far a product may be off, as a share of it.
        first: The row number of the first of these passages.
        errors: How far it may be off beside. Shape (B,).
        limits: What the k-th best score is at least. Shape (B,).
        lowest: Receives what a score is at least. Shape (B, at least counts + C).
        highest: Receives what it is at most.
        rows: Receives the row numbers.
        counts: How many are kept of each query. Shape (B,).
    """
    width = bits.shape[1]
    behind, share_ = np.uint32(shift), np.float32(share)
    for query in range(bits.shape[0]):
        line, low, high, numbers = bits[query], lowest[query], highest[query], rows[query]
        error, count = errors[query], counts[query]
        # What is below it cannot reach the limit, also with a share of itself and the error added.
        threshold = limits[query] - error
        threshold = threshold / (1 + share_) if threshold > 0 else threshold / (1 - share_)
        threshold -= np.abs(threshold) * np.float32(1e-6)
        for start in range(0, width, RUN):
            stop = min(start + RUN, width)
            if stop - start == RUN and not _not_below(line[start:stop], behind, threshold):
                continue
            for place in range(start, stop):
                score = np.uint32(np.uint32(line[place]) << behind).view(np.float32)
                if score < threshold:
                    continue
                off = np.abs(score) * share_ + error
                least, most = score - off, score + off
                low[count] = least if least == least else -np.inf
                high[count] = most if most == most else np.inf
                numbers[count] = first + place
                count += 1
        counts[query] = count


@compiled
def keep_whole(
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
    """Do what `keep` does for products of whole numbers.

    Args:
        products: Shape (B, C).
        scales: What a unit stands for, for each query. Shape (B,).
        first: As for `keep`, as is all that follows.
        errors: How far it may be off.
        limits: What the k-th best score is at least.
        lowest: Receives what a score is at least.
        highest: Receives what it is at most.
        rows: Receives the row numbers.
        counts: How many are kept of each query.
    """
    width = products.shape[1]
    for query in range(products.shape[0]):
        line, low, high, numbers = products[query], lowest[query], highest[query], rows[query]
        scale, error, count = scales[query], errors[query], counts[query]
        # Rounded down, and cut to what a product can be.
        threshold = np.int32(max(min(np.floor((limits[query] - error) / scale), 2.0**31 - 1), -(2.0**31)))
        for start in range(0, width, RUN):
            stop = min(start + RUN, width)
            if stop - start == RUN and not _reached(line[start:stop], threshold):
                continue
            for place in range(start, stop):
                if line[place] >= threshold:
                    score = line[place] * scale
                    low[count], high[count] = score - error, score + error
                    numbers[count] = first + place
                    count += 1
        counts[query] = count


@numba.njit(nogil=True)
def _not_below(bits: Any, behind: Any, threshold: Any) -> Any:
    # What is no number, where sums overflow, is not below. Counting becomes vector instructions, in loops of 64.
    found = 0
    for place in range(RUN):
        found += not np.uint32(np.uint32(bits[place]) << behind).view(np.float32) < threshold
    return found


@numba.njit(nogil=True)
def _reached(products: Any, threshold: Any) -> Any:
    found = 0
    for place in range(RUN):
        found += products[place] >= threshold
    return found


@compiled
def thin_out(
    k: int,
    most: int,
    lowest: NDArray[np.float32],
    highest: NDArray[np.float32],
    rows: NDArray[np.uint32],
    counts: NDArray[np.int64],
    limits: NDArray[np.float32],
) -> None:
    """Drop what cannot be among the k best, of queries that keep more than `most`; see `keep` for the arrays."""
    for query in range(len(counts)):
        count = counts[query]
        if count <= most:
            continue
        low, high, numbers = lowest[query], highest[query], rows[query]
        limit = _reached_by(low[:count], k, limits[query])
        limits[query] = limit
        kept = 0
        for place in range(count):
            least, greatest, number = low[place], high[place], numbers[place]
            low[kept], high[kept], numbers[kept] = least, greatest, number
            kept += greatest >= limit
        counts[query] = kept


@numba.njit(nogil=True)
def _reached_by(scores: Any, k: int, limit: Any) -> Any:
    """Return a limit, no lower than the one given, that at least k of the scores reach, and few more.

    Halving an interval takes a pass over the scores each time, but without a branch that could be guessed wrong.
    """
    best = limit
    for place in range(len(scores)):
        best = max(best, scores[place])
    low, high = _place_of(limit), _place_of(best)
    for _ in range(_HALVINGS):
        if high - low <= 1:
            break
        middle = (low + high) // 2
        tried = _number_at(middle)
        reached = 0
        for place in range(len(scores)):
            reached += scores[place] >= tried
        if reached >= k:
            low = middle
        else:
            high = middle
    return max(limit, _number_at(low))


@numba.njit(nogil=True)
def _place_of(number: Any) -> Any:
    """Return the place of a float32 among all of them in their order."""
    bits = np.int64(np.float32(number).view(np.int32))
    return bits if bits >= 0 else -(bits & np.int64(0x7FFFFFFF))


@numba.njit(nogil=True)
def _number_at(place: Any) -> Any:
    bits = place if place >= 0 else -place | np.int64(0x80000000)
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
    """Score what a search found, the same way for all batches.

    Args:
        queries: Shape (B, D).
        vectors: Shape (N, D).
        found: Row numbers, ascending. Shape (B, F).
        counts: How many of them count, in each line. Shape (B,).
        euclidean: Score by the negative distance, else by the dot product.
        rows_at_once: Passages that are scored for all queries before the next ones, while a cache holds them.
        keys: Filled with keys of scores and rows, for `hits_of`. Shape (B, at least the largest of `counts`).
    """
    exact = np.empty(1, dtype=np.float32)
    bits = exact.view(np.uint32)
    places = np.zeros(len(queries), dtype=np.int64)
    for start in range(0, len(vectors), rows_at_once):
        for query in range(len(queries)):
            place, count = places[query], counts[query]
            while place < count and found[query, place] < start + rows_at_once:
                row = found[query, place]
                exact[0] = _score(queries[query], vectors[row], euclidean)
                keys[query, place] = key_of(bits[0], row)
                place += 1
            places[query] = place
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
