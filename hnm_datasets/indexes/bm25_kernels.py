"""The loops of BM25, compiled by numba.

They release the interpreter lock and are run from Python threads. Numba's own parallel loops are not used: after they
have run once, a process that forks, as `Dataset.map(num_proc=...)` does, dies in the child.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled


@numba.njit
def _worse(score: float, row: int, than_score: float, than_row: int) -> bool:
    return score < than_score or (score == than_score and row > than_row)


@numba.njit
def _sift_down(scores: NDArray[np.float32], rows: NDArray[np.int64], place: int, size: int) -> None:
    """Restore the heap whose root is its worst member, after the member at `place` has become better."""
    score, row = scores[place], rows[place]
    child = 2 * place + 1
    while child < size:
        if child + 1 < size and _worse(scores[child + 1], rows[child + 1], scores[child], rows[child]):
            child += 1
        if not _worse(scores[child], rows[child], score, row):
            break
        scores[place], rows[place] = scores[child], rows[child]
        place = child
        child = 2 * place + 1
    scores[place], rows[place] = score, row


@numba.njit
def _offer(scores: NDArray[np.float32], rows: NDArray[np.int64], size: int, score: float, row: int) -> int:
    """Put a passage into the heap of the best ones if it belongs there; return the heap's size."""
    k = len(scores)
    if size == k:
        if _worse(scores[0], rows[0], score, row):
            scores[0], rows[0] = score, row
            _sift_down(scores, rows, 0, k)
        return size
    place = size
    while place > 0:
        parent = (place - 1) >> 1
        if not _worse(score, row, scores[parent], rows[parent]):
            break
        scores[place], rows[place] = scores[parent], rows[parent]
        place = parent
    scores[place], rows[place] = score, row
    return size + 1


@numba.njit
def _sort_heap(scores: NDArray[np.float32], rows: NDArray[np.int64], size: int) -> None:
    """Turn the heap into a list, best first."""
    for end in range(size - 1, 0, -1):
        scores[0], scores[end] = scores[end], scores[0]
        rows[0], rows[end] = rows[end], rows[0]
        _sift_down(scores, rows, 0, end)


#: Rows whose largest sum is found together.
_BLOCK = 64
#: A query that touches less than this part of the passages follows its postings again instead of reading all sums.
_FEW = 64


@numba.njit
def _pick_from_all(
    sums: NDArray[np.float32], maxima: NDArray[np.int32], scores: NDArray[np.float32], rows: NDArray[np.int64]
) -> int:
    """Fill the heap with the largest sums and return its size.

    The k-th largest of the blocks' maxima is a bar that at least k rows reach, so all blocks below it are skipped. Sums
    are not negative, and such floats have the order of their bits, whose maximum the compiler takes for many at once.
    """
    bits = sums.view(np.int32)
    for block in range(len(maxima)):
        largest = np.int32(0)
        for place in range(block * _BLOCK, (block + 1) * _BLOCK):
            largest = max(largest, bits[place])
        maxima[block] = largest
    k = len(rows)
    bar = np.int32(1)
    if len(maxima) > k:
        bar = max(bar, np.partition(maxima, len(maxima) - k)[len(maxima) - k])
    size = 0
    for block in range(len(maxima)):
        if maxima[block] < bar:
            continue
        for row in range(block * _BLOCK, (block + 1) * _BLOCK):
            if bits[row] >= bar:
                size = _offer(scores, rows, size, sums[row], row)
    return size


@compiled
def search(
    starts: NDArray[np.int64],
    postings: NDArray[np.int32],
    weights: NDArray[np.float32],
    offsets: NDArray[np.int64],
    tokens: NDArray[np.int64],
    n_passages: int,
    out_rows: NDArray[np.int64],
    out_scores: NDArray[np.float32],
) -> None:
    """Find the best passages of each query: highest score first, among equal scores the lowest row first.

    Args:
        starts: Where each token's postings begin and end. Shape (V + 1,).
        postings: The rows that hold each token, ascending. Shape (P,).
        weights: What the token adds to each such row's score. Shape (P,).
        offsets: Where each query's tokens begin and end. Shape (B + 1,).
        tokens: The queries' tokens. Shape (T,).
        n_passages: The number of passages, N.
        out_rows: Filled with rows, beyond the last found with -1. Shape (B, K).
        out_scores: Filled with scores, without what all of a query get on top, beyond the last found with -inf. Shape
            (B, K).
    """
    blocks = (n_passages + _BLOCK - 1) // _BLOCK
    sums = np.zeros(blocks * _BLOCK, dtype=np.float32)
    maxima = np.empty(blocks, dtype=np.int32)
    for query in range(len(offsets) - 1):
        scores, rows = out_scores[query], out_rows[query]
        touched = 0
        for token in tokens[offsets[query] : offsets[query + 1]]:
            found, added = postings[starts[token] : starts[token + 1]], weights[starts[token] : starts[token + 1]]
            touched += len(found)
            for place in range(len(found)):
                # An unsigned index spares the test for a negative one.
                sums[np.uint32(found[place])] += added[place]
        if touched > n_passages // _FEW:
            size = _pick_from_all(sums, maxima, scores, rows)
            sums[:] = 0
        else:
            size = 0
            for token in tokens[offsets[query] : offsets[query + 1]]:
                for row in postings[starts[token] : starts[token + 1]]:
                    if sums[row] > 0:
                        size = _offer(scores, rows, size, sums[row], row)
                        sums[row] = 0
        _sort_heap(scores, rows, size)
        for place in range(size, len(rows)):
            scores[place], rows[place] = -np.inf, -1


@compiled
def score(
    starts: NDArray[np.int64],
    postings: NDArray[np.int32],
    weights: NDArray[np.float32],
    offsets: NDArray[np.int64],
    tokens: NDArray[np.int64],
    extras: NDArray[np.float32],
    row_offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    """Score certain rows of each query, by a binary search in each token's postings; its arguments are as in `search`.

    The sum runs over the tokens in the same order as in `search`, so that it is the same to the last bit.
    """
    for query in range(len(offsets) - 1):
        for place in range(row_offsets[query], row_offsets[query + 1]):
            total = np.float32(0)
            for token in tokens[offsets[query] : offsets[query + 1]]:
                low, high = starts[token], starts[token + 1]
                end = high
                while low < high:
                    middle = (low + high) >> 1
                    if postings[middle] < rows[place]:
                        low = middle + 1
                    else:
                        high = middle
                if low < end and postings[low] == rows[place]:
                    total += weights[low]
            out[place] = total + extras[query]


@compiled
def place(
    first_row: int,
    sizes: NDArray[np.int32],
    tokens: NDArray[np.int32],
    numbers: NDArray[np.float32],
    free: NDArray[np.int64],
    postings: NDArray[np.int32],
    counts: NDArray[np.float32],
) -> None:
    """Put the tokens of passages where the postings of each token have their next free place.

    Args:
        first_row: The row of the first of these passages.
        sizes: How many different tokens each passage has. Shape (B,).
        tokens: Its tokens, C in all. Shape (C,).
        numbers: How often it has them. Shape (C,).
        free: The next free place of each token, which moves on. Shape (V,).
        postings: Filled with rows. Shape (P,).
        counts: Filled with numbers. Shape (P,).
    """
    at = 0
    for passage in range(len(sizes)):
        for _ in range(sizes[passage]):
            token = tokens[at]
            postings[free[token]] = first_row + passage
            counts[free[token]] = numbers[at]
            free[token] += 1
            at += 1
