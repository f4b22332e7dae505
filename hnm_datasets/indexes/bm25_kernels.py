"""The loops of inverted indexes, of BM25 and of sparse vectors, compiled by numba.

They release the interpreter lock and are run from Python threads. Numba's own parallel loops are not used: after they
have run once, a process that forks, as `Dataset.map(num_proc=...)` does, dies in the child.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled
from hnm_datasets.arrays.selection import bring_smallest
from hnm_datasets.indexes.keys import NO_KEY, key_of

#: Rows whose largest sum is found together form a block. The rows of a block are _LANES apart, so that the largest sums
#: of neighboring blocks are found at once; a tile is _LANES such blocks.
_BLOCK = 64
_LANES = 64
_TILE = _BLOCK * _LANES
#: Groups of blocks per wanted row, among whose largest sums the bar is chosen: few of the best rows share a group.
_GROUPS = 8
#: A query that touches less than this part of the passages follows its postings again instead of reading all sums.
_FEW = 64


@numba.njit(nogil=True)
def _bar(maxima: NDArray[np.int32], k: int, groups: NDArray[np.int32], keys: NDArray[np.uint64]) -> Any:
    """Return a number above 0 that k rows reach if as many have such sums, given the largest sums of blocks of rows.

    It is the k-th largest among the maxima of groups of blocks: to choose it among all blocks takes much of a search.
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
    """Find the rows of the largest sums, given the sums' bits; return how many keys there are.

    At least k rows reach the bar, if there are as many, so all blocks below it are skipped.
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
    """Do what `_pick_from_all` does by the postings of the tokens alone, and set the sums to zero."""
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
    """Find the best passages of each query, of those whose sums are above 0.

    Args:
        starts: Where each token's postings begin and end. Shape (V + 1,).
        postings: The rows that hold each token, ascending. Shape (P,).
        weights: What the token adds to each such row's score. Shape (P,).
        offsets: Where each query's tokens begin and end. Shape (B + 1,).
        tokens: The queries' tokens. Shape (T,).
        factors: What the weights of each token are multiplied by. Shape (T,); None: by 1.
        n_passages: The number of passages, N.
        out: Filled with their keys, for `hits_of`; their scores are without what all of a query get on top. Shape
            (B, K).
    """
    tiles = (n_passages + _TILE - 1) // _TILE
    sums = np.zeros(tiles * _TILE, dtype=np.float32)
    bits = sums.view(np.int32)
    maxima, k = np.empty(tiles * _LANES, dtype=np.int32), out.shape[1]
    groups = np.empty(min(len(maxima), _GROUPS * k), dtype=np.int32)
    # As many again as are wanted: they are cut to k not often.
    keys = np.empty(max(2 * k + 8 * _BLOCK, len(groups)), dtype=np.uint64)
    for query in range(len(offsets) - 1):
        own = tokens[offsets[query] : offsets[query + 1]]
        touched = 0
        for number in range(len(own)):
            token = own[number]
            found, added = postings[starts[token] : starts[token + 1]], weights[starts[token] : starts[token + 1]]
            touched += len(found)
            if factors is None:
                for place in range(len(found)):
                    # An unsigned index spares the test for a negative one.
                    sums[np.uint32(found[place])] += added[place]
            else:
                factor = factors[offsets[query] + number]
                for place in range(len(found)):
                    sums[np.uint32(found[place])] += added[place] * factor
        if touched > n_passages // _FEW:
            count = _pick_from_all(bits, maxima, groups, k, keys)
            sums[:] = 0
        else:
            count = _pick_from_postings(bits, starts, postings, own, k, keys)
        if count > k:
            bring_smallest(keys, count, k)
        for place in range(k):
            out[query, place] = keys[place] if place < count else NO_KEY


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
