"""The loops of inverted indexes for BM25 and sparse vectors, compiled by numba.

They release the GIL and run in Python threads. Numba's parallel loops cannot be used: once they have run in a process,
its forked children crash, for example the workers of `Dataset.map(num_proc=...)`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled
from hnm_datasets.arrays.selection import bring_smallest
from hnm_datasets.indexes.keys import NO_KEY, key_of

#: The maximum of the sums is computed per block of rows. The rows of a block are _LANES apart, so that SIMD
#: instructions compute the maxima of adjacent blocks together. A tile is _LANES such blocks.
_BLOCK = 64
_LANES = 64
_TILE = _BLOCK * _LANES
#: The number of groups of blocks is this factor times k. The more groups, the fewer of the best rows share a group.
_GROUPS = 8
#: If a query has postings in less than 1 / _SPARSE of the passages, the hits are picked by its postings, not by reading
#: all sums.
_SPARSE = 64


@numba.njit(nogil=True)
def _bar(maxima: NDArray[np.int32], k: int, groups: NDArray[np.int32], keys: NDArray[np.uint64]) -> Any:
    """Return a positive threshold that at least k rows reach, if k rows have positive sums, given the maxima of blocks.

    It is the k-th largest among the maxima of groups of blocks. Selecting it among all blocks would be slow.
    """
    if len(groups) <= k:
        return np.int32(1)
    groups[:] = 0
    for first in range(0, len(maxima), len(groups)):
        part = maxima[first : first + len(groups)]
        for group in range(len(part)):
            groups[group] = max(groups[group], part[group])
    for group in range(len(groups)):
        keys[group] = key_of(np.uint32(groups[group]), np.uint32(group))
    return max(np.int32(1), groups[np.uint32(bring_smallest(keys, len(groups), k))])


@numba.njit(nogil=True)
def _pick_from_all(
    bits: NDArray[np.int32], maxima: NDArray[np.int32], groups: NDArray[np.int32], k: int, keys: NDArray[np.uint64]
) -> int:
    """Find the rows with the largest sums, given the bits of the sums; return the number of keys.

    At least k rows reach the threshold of `_bar`, so all blocks below it are skipped.
    """
    for tile in range(len(maxima) // _LANES):
        largest = maxima[tile * _LANES : (tile + 1) * _LANES]
        largest[:] = 0
        for line in range(tile * _BLOCK, (tile + 1) * _BLOCK):
            found = bits[line * _LANES : (line + 1) * _LANES]
            for lane in range(_LANES):
                largest[lane] = max(largest[lane], found[lane])
    bar = _bar(maxima, k, groups, keys)
    count, limit = 0, NO_KEY
    for block in range(len(maxima)):
        if maxima[block] < bar:
            continue
        if count > len(keys) - _BLOCK:
            limit = bring_smallest(keys, count, k)
            count = k
        first = block // _LANES * _TILE + block % _LANES
        for row in range(first, first + _TILE, _LANES):
            if bits[row] >= bar:
                key = key_of(np.uint32(bits[row]), row)
                if key < limit:
                    keys[count] = key
                    count += 1
    return count


@numba.njit(nogil=True)
def _pick_from_postings(
    bits: NDArray[np.int32],
    starts: NDArray[np.int64],
    postings: NDArray[np.int32],
    tokens: NDArray[np.int64],
    k: int,
    keys: NDArray[np.uint64],
) -> int:
    """Do the same as `_pick_from_all` by reading only the postings of the tokens, and reset the sums to zero."""
    count, limit = 0, NO_KEY
    for token in tokens:
        for row in postings[starts[token] : starts[token + 1]]:
            found = bits[row]
            if found == 0:
                continue
            bits[row] = 0
            # Negative sums have negative bits.
            if found > 0:
                key = key_of(np.uint32(found), row)
                if key < limit:
                    if count == len(keys):
                        limit = bring_smallest(keys, count, k)
                        count = k
                    keys[count] = key
                    count += 1
    return count


@compiled
def search(
    starts: NDArray[np.int64],
    postings: NDArray[np.int32],
    weights: NDArray[np.float32],
    offsets: NDArray[np.int64],
    tokens: NDArray[np.int64],
    factors: NDArray[np.float32] | None,
    n_passages: int,
    out: NDArray[np.uint64],
) -> None:
    """Find the best passages of each query, among those with positive sums.

    Args:
        starts: Where the postings of each token begin and end. Shape (V + 1,).
        postings: The rows that contain each token, ascending. Shape (P,).
        weights: The contribution of the token to the score of each of these rows. Shape (P,).
        offsets: Where the tokens of each query begin and end. Shape (B + 1,).
        tokens: The tokens of the queries. Shape (T,).
        factors: The factor for the weights of each token. Shape (T,); None: 1.
        n_passages: The number of passages, N.
        out: Receives the keys of the hits, for `hits_of`. Their scores do not include the per-query constant. Shape
            (B, K).
    """
    tiles = (n_passages + _TILE - 1) // _TILE
    sums = np.zeros(tiles * _TILE, dtype=np.float32)
    bits = sums.view(np.int32)
    maxima, k = np.empty(tiles * _LANES, dtype=np.int32), out.shape[1]
    groups = np.empty(min(len(maxima), _GROUPS * k), dtype=np.int32)
    # At least twice the size needed, so that cutting the keys to k is rare.
    keys = np.empty(max(2 * k + 8 * _BLOCK, len(groups)), dtype=np.uint64)
    for query in range(len(offsets) - 1):
        own = tokens[offsets[query] : offsets[query + 1]]
        touched = 0
        for number in range(len(own)):
            token = own[number]
            found, added = postings[starts[token] : starts[token + 1]], weights[starts[token] : starts[token + 1]]
            touched += len(found)
            if factors is None:
                for position in range(len(found)):
                    # An unsigned index avoids numba's check for negative indexes.
                    sums[np.uint32(found[position])] += added[position]
            else:
                factor = factors[offsets[query] + number]
                for position in range(len(found)):
                    sums[np.uint32(found[position])] += added[position] * factor
        if touched > n_passages // _SPARSE:
            count = _pick_from_all(bits, maxima, groups, k, keys)
            sums[:] = 0
        else:
            count = _pick_from_postings(bits, starts, postings, own, k, keys)
        if count > k:
            bring_smallest(keys, count, k)
        for position in range(k):
            out[query, position] = keys[position] if position < count else NO_KEY


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
    """Score given rows of each query with binary searches in the postings. See `search` for the arguments.

    The sum adds the tokens in the same order as `search`, so the scores are bit-identical.
    """
    for query in range(len(offsets) - 1):
        for position in range(row_offsets[query], row_offsets[query + 1]):
            total = np.float32(0)
            for token in tokens[offsets[query] : offsets[query + 1]]:
                low, high = starts[token], starts[token + 1]
                end = high
                while low < high:
                    middle = (low + high) >> 1
                    if postings[middle] < rows[position]:
                        low = middle + 1
                    else:
                        high = middle
                if low < end and postings[low] == rows[position]:
                    total += weights[low]
            out[position] = total + extras[query]


@compiled
def scatter(
    first_row: int,
    sizes: NDArray[np.int32],
    tokens: NDArray[np.int32],
    numbers: NDArray[np.float32],
    free: NDArray[np.int64],
    postings: NDArray[np.int32],
    counts: NDArray[np.float32],
) -> None:
    """Append the counts of passages to the postings of their tokens.

    Args:
        first_row: The row of the first of these passages.
        sizes: The number of distinct tokens in each passage. Shape (B,).
        tokens: The distinct tokens of all passages. Shape (C,).
        numbers: The count of each of these tokens. Shape (C,).
        free: The next free position in the postings of each token; it is advanced. Shape (V,).
        postings: Receives the rows. Shape (P,).
        counts: Receives the numbers. Shape (P,).
    """
    at = 0
    for passage in range(len(sizes)):
        for _ in range(sizes[passage]):
            token = tokens[at]
            postings[free[token]] = first_row + passage
            counts[free[token]] = numbers[at]
            free[token] += 1
            at += 1
