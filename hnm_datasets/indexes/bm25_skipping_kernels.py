"""A BM25 search that skips postings, compiled by numba on the first search of a large corpus.

The search of a query has three steps:

1. Compute an upper bound for the sum of each passage, in one byte. The most frequent tokens, which have most of the
   postings, have a bound for each block of four passages. For the other tokens, read all postings.
2. Score the passages with the highest bounds. The k-th best score is the threshold (`bar`).
3. Score the other passages whose bounds reach the threshold, highest bounds first, raising the threshold on the way.

This is block-max pruning (Mallia et al. 2024, *Faster Learned Sparse Retrieval with Block-Max Pruning*), with blocks
for the frequent tokens only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled
from hnm_datasets.indexes.keys import NO_KEY, key_of

#: Passages in a block.
BLOCK = 4
#: Blocks in a quad, and quads in a group. They are _LANES apart, so that SIMD instructions compute adjacent maxima.
_QUAD, _GROUP = 4, 16
_LANES = 64
#: The number of blocks is a multiple of this.
TILE = _LANES * _QUAD * _GROUP
#: The largest level of the bound of a block, in the unit of the index.
LEVELS = 254
#: The largest bound of a sum, which must fit into a byte, and the number of tokens of the longest supported query.
_TOP, _LONGEST = 250, 60
#: Reading all postings is faster for queries with postings in less than 1 / _FEWEST of the passages, and for queries
#: that need the scores of more than 1 / _SCORED of the passages.
_FEWEST, _SCORED = 64, 256
#: Each round examines this many times the groups of the previous rounds.
_GROWTH = 4


class Bounds(NamedTuple):
    """Upper bounds for the weights of the F frequent tokens of an index.

    Attributes:
        tokens: The frequent tokens, ascending. Shape (F,).
        tops: The largest weight of each. Shape (F,).
        shifts: The base-2 logarithm of the number of rows in a segment of each. Shape (F,).
        offsets: Where the segments of each begin and end in `marks`. Shape (F + 1,).
        marks: The number of postings of the token before each segment, and at the end the number of all.
        lines: The line of each in `maxima`, -1 for none. Shape (F,).
        maxima: An upper bound for the weights in each block, as a level, for the most frequent. Shape (D, blocks).
        units: The weight of one level. Shape (1,).
    """

    tokens: NDArray[np.int64]
    tops: NDArray[np.float32]
    shifts: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    marks: NDArray[np.int32]
    lines: NDArray[np.int32]
    maxima: NDArray[np.uint8]
    units: NDArray[np.float64]


@compiled
def measure(
    starts: NDArray[np.int64], postings: NDArray[np.int32], weights: NDArray[np.float32], bounds: Bounds
) -> None:
    """Fill the marks and maxima of `Bounds`.

    Args:
        starts: Where the postings of each token begin and end. Shape (V + 1,).
        postings: The rows that contain each token, ascending. Shape (P,).
        weights: The contribution of the token to the score of each of these rows. Shape (P,).
        bounds: Receives the marks and maxima; the maxima must be zeros.
    """
    maxima, unit = bounds.maxima, bounds.units[0]
    for position in range(len(bounds.tokens)):
        start, stop = starts[bounds.tokens[position]], starts[bounds.tokens[position] + 1]
        own, segment = bounds.marks[bounds.offsets[position] : bounds.offsets[position + 1]], 0
        line, shift = bounds.lines[position], bounds.shifts[position]
        for posting in range(start, stop):
            row = postings[posting]
            while segment <= row >> shift:
                own[segment] = posting - start
                segment += 1
            if line >= 0:
                level = np.uint8(int(weights[posting] / unit) + 1)
                maxima[line, row // BLOCK] = max(maxima[line, row // BLOCK], level)
        own[segment:] = stop - start


@numba.njit(nogil=True)
def _replace(heap: NDArray[np.uint64], key: Any) -> None:
    """Replace the largest key of a heap, which is the first one."""
    position, child = 0, 1
    while child < len(heap):
        if child + 1 < len(heap) and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= key:
            break
        heap[position] = heap[child]
        position, child = child, 2 * child + 1
    heap[position] = key


@numba.njit(nogil=True)
def _add_levels(levels: NDArray[np.uint64], shift: Any, sums: NDArray[np.uint64]) -> None:
    """Divide bytes by a power of 2 and add them to `sums`, eight at a time. No sum may exceed a byte."""
    mask = np.uint64(0x0101010101010101) * (np.uint64(0xFF) >> shift)
    for position in range(len(sums)):
        sums[position] += (levels[position] >> shift) & mask


@numba.njit(nogil=True)
def _largest(found: NDArray[np.uint8], size: int, out: NDArray[np.uint8]) -> None:
    """Compute the maximum of each group of `size` numbers that are _LANES apart."""
    for tile in range(len(out) // _LANES):
        largest = out[tile * _LANES : (tile + 1) * _LANES]
        largest[:] = 0
        for line in range(tile * size, (tile + 1) * size):
            part = found[line * _LANES : (line + 1) * _LANES]
            for lane in range(_LANES):
                largest[lane] = max(largest[lane], part[lane])


@numba.njit(nogil=True)
def _bound_blocks(rare: NDArray[np.uint8], frequent: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Compute the largest bound in each block. `rare` starts with the bounds of the first passage of each block."""
    n = len(frequent)
    first, second, third, fourth = rare[:n], rare[n : 2 * n], rare[2 * n : 3 * n], rare[3 * n :]
    for block in range(n):
        out[block] = max(max(first[block], second[block]), max(third[block], fourth[block])) + frequent[block]


@numba.njit(nogil=True)
def _pick(
    rare: NDArray[np.uint8],
    frequent: NDArray[np.uint8],
    quads: NDArray[np.uint8],
    groups: NDArray[np.uint8],
    low: int,
    high: int,
    rows: NDArray[np.int32],
    levels: NDArray[np.uint8],
) -> int:
    """Collect the rows with `low` <= bound < `high`; return their number, or -1 if there are too many."""
    count: Any = 0
    n, least = len(frequent), np.uint8(low)
    for group in range(len(groups)):
        if groups[group] < least:
            continue
        first_quad = group // _LANES * (_LANES * _GROUP) + group % _LANES
        for quad in range(first_quad, first_quad + _LANES * _GROUP, _LANES):
            if quads[quad] < least:
                continue
            if count + _QUAD * BLOCK > len(rows):
                return -1
            first_block = quad // _LANES * (_LANES * _QUAD) + quad % _LANES
            for block in range(first_block, first_block + _LANES * _QUAD, _LANES):
                for position in range(BLOCK):
                    level = np.int64(rare[position * n + block]) + np.int64(frequent[block])
                    # Branchless: a branch would often be mispredicted.
                    rows[count], levels[count] = BLOCK * block + position, rare[position * n + block]
                    count += (low <= level) & (level < high)
    return count  # type: ignore[no-any-return]


@numba.njit(nogil=True)
def _add_weights(
    postings: NDArray[np.int32],
    weights: NDArray[np.float32],
    marks: NDArray[np.int32],
    shift: Any,
    rows: NDArray[np.int32],
    room: NDArray[np.int64],
    sums: NDArray[np.float32],
) -> None:
    """Add the weights of a token in given rows to the sums of these rows.

    The binary searches of all rows advance together, so that memory accesses overlap.
    """
    longest: Any = 0
    lows, highs = room[0], room[1]
    for position in range(len(rows)):
        segment = rows[position] >> shift
        lows[position], highs[position] = marks[segment], marks[segment + 1]
        longest = max(longest, highs[position] - lows[position])
    step = 1
    while 2 * step <= longest:
        step *= 2
    while longest and step:
        for position in range(len(rows)):
            after = lows[position] + step
            last = max(min(after, highs[position]) - 1, 0)
            lows[position] = after if (after <= highs[position]) & (postings[last] < rows[position]) else lows[position]
        step >>= 1
    for position in range(len(rows)):
        if lows[position] < highs[position] and postings[lows[position]] == rows[position]:
            sums[position] += weights[lows[position]]


@numba.njit(nogil=True)
def _largest_sum(
    starts: NDArray[np.int64],
    weights: NDArray[np.float32],
    bounds: Bounds,
    tokens: NDArray[np.int64],
    positions: NDArray[np.int64],
) -> float:
    """Return an upper bound for the sum of the weights of a query's tokens in any passage."""
    total = 0.0
    for number in range(len(tokens)):
        largest: Any = np.float32(0)
        if positions[number] >= 0:
            largest = bounds.tops[positions[number]]
        else:
            for weight in weights[starts[tokens[number]] : starts[tokens[number] + 1]]:
                largest = max(largest, weight)
        total += largest
    return total


@numba.njit(nogil=True)
def _bound(
    starts: NDArray[np.int64],
    postings: NDArray[np.int32],
    weights: NDArray[np.float32],
    bounds: Bounds,
    tokens: NDArray[np.int64],
    positions: NDArray[np.int64],
    shift: int,
    rare: NDArray[np.uint8],
    frequent: NDArray[np.uint8],
) -> None:
    """Compute the bounds of the tokens without maxima per passage, and of the other tokens per block."""
    # Slightly more levels per weight, so that rounding never makes a bound too low.
    per_unit = np.float32((1 + 1e-6) / (bounds.units[0] * 2.0**shift))
    stride = np.uint32(len(frequent))
    frequent[:] = 0
    rare[:] = 0
    for number in range(len(tokens)):
        line = bounds.lines[positions[number]] if positions[number] >= 0 else -1
        if line >= 0:
            _add_levels(bounds.maxima[line].view(np.uint64), np.uint64(shift), frequent.view(np.uint64))
            continue
        start, stop = starts[tokens[number]], starts[tokens[number] + 1]
        found, added = postings[start:stop], weights[start:stop]
        for posting in range(len(found)):
            row = np.uint32(found[posting])
            at = row % np.uint32(BLOCK) * stride + row // np.uint32(BLOCK)
            rare[at] += np.uint8(np.int32(added[posting] * per_unit) + 1)


@numba.njit(nogil=True)
def _thin_out(
    starts: NDArray[np.int64],
    postings: NDArray[np.int32],
    weights: NDArray[np.float32],
    bounds: Bounds,
    tokens: NDArray[np.int64],
    positions: NDArray[np.int64],
    bar: float,
    rows: NDArray[np.int32],
    room: NDArray[np.int64],
    sums: NDArray[np.float32],
    rests: NDArray[np.float32],
) -> int:
    """Keep the rows that can reach `bar` given the exact weights of the tokens with maxima; return their number.

    On entry, `sums` contains the bounds over the other tokens.
    """
    count, unit = len(rows), np.float32(bounds.units[0])
    rests[:count] = 0
    for looks_up in (False, True):
        for number in range(len(tokens)):
            line = bounds.lines[positions[number]] if positions[number] >= 0 else -1
            if line < 0:
                continue
            maxima = bounds.maxima[line]
            if not looks_up:
                for position in range(count):
                    rests[position] += maxima[rows[position] // BLOCK] * unit
                continue
            start, stop, token = starts[tokens[number]], starts[tokens[number] + 1], positions[number]
            marks = bounds.marks[bounds.offsets[token] : bounds.offsets[token + 1]]
            found, added = postings[start:stop], weights[start:stop]
            _add_weights(found, added, marks, bounds.shifts[token], rows[:count], room, sums)
            kept = 0
            for position in range(count):
                row, rest = rows[position], rests[position] - maxima[rows[position] // BLOCK] * unit
                rows[kept], sums[kept], rests[kept] = row, sums[position], rest
                kept += sums[kept] + rest >= bar
            count = kept
    return count


@numba.njit(nogil=True)
def _score(
    starts: NDArray[np.int64],
    postings: NDArray[np.int32],
    weights: NDArray[np.float32],
    bounds: Bounds,
    tokens: NDArray[np.int64],
    positions: NDArray[np.int64],
    rows: NDArray[np.int32],
    room: NDArray[np.int64],
    sums: NDArray[np.float32],
    heap: NDArray[np.uint64],
) -> None:
    """Score rows, adding the tokens in the same order as all searches, and put the best rows into the heap."""
    whole = np.zeros(2, dtype=np.int32)
    sums[: len(rows)] = 0
    for number in range(len(tokens)):
        start, stop, position = starts[tokens[number]], starts[tokens[number] + 1], positions[number]
        marks, shift = whole, np.uint8(31)
        if position >= 0:
            marks = bounds.marks[bounds.offsets[position] : bounds.offsets[position + 1]]
            shift = bounds.shifts[position]
        whole[1] = stop - start
        _add_weights(postings[start:stop], weights[start:stop], marks, shift, rows, room, sums)
    bits = sums.view(np.uint32)
    for position in range(len(rows)):
        if sums[position] > 0:
            key = key_of(bits[position], rows[position])
            if key < heap[0]:
                _replace(heap, key)


@compiled
def search(
    starts: NDArray[np.int64],
    postings: NDArray[np.int32],
    weights: NDArray[np.float32],
    offsets: NDArray[np.int64],
    tokens: NDArray[np.int64],
    n_passages: int,
    bounds: Bounds,
    positions: NDArray[np.int64],
    out: NDArray[np.uint64],
    done: NDArray[np.bool_],
) -> None:
    """Find the same passages as `bm25_kernels.search`, except for queries where reading all postings is faster.

    Args:
        starts: As in `bm25_kernels.search`, like the next five arguments.
        postings: Shape (P,).
        weights: Shape (P,).
        offsets: Shape (B + 1,).
        tokens: Shape (T,).
        n_passages: N.
        bounds: The frequent tokens.
        positions: The position of each token in `bounds.tokens`, -1 for other tokens. Shape (T,).
        out: Receives the keys of the hits, for `hits_of`. Shape (B, K).
        done: Receives whether the query was searched; if not, its keys are undefined. Shape (B,).
    """
    n_blocks, k = bounds.maxima.shape[1], out.shape[1]
    rare, frequent = np.empty(BLOCK * n_blocks, dtype=np.uint8), np.empty(n_blocks, dtype=np.uint8)
    blocks, quads = np.empty(n_blocks, dtype=np.uint8), np.empty(n_blocks // _QUAD, dtype=np.uint8)
    groups, histogram = np.empty(len(quads) // _GROUP, dtype=np.uint8), np.empty(256, dtype=np.int64)
    size = max(n_passages // _SCORED, 4 * k) + _QUAD * BLOCK
    rows, levels, room = np.empty(size, np.int32), np.empty(size, np.uint8), np.empty((2, size), np.int64)
    sums, rests = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.float32)
    bar_bits = np.empty(1, dtype=np.uint32)
    for query in range(len(offsets) - 1):
        own, own_positions = tokens[offsets[query] : offsets[query + 1]], positions[offsets[query] : offsets[query + 1]]
        touched, rounded_down = 0, 0
        for number in range(len(own)):
            touched += starts[own[number] + 1] - starts[own[number]]
            rounded_down += own_positions[number] >= 0 and bounds.lines[own_positions[number]] >= 0
        done[query] = False
        if touched <= n_passages // _FEWEST or len(own) > _LONGEST:
            continue
        largest, shift = _largest_sum(starts, weights, bounds, own, own_positions), 0
        while largest / (bounds.units[0] * 2.0**shift) + len(own) > _TOP:
            shift += 1
        unit = bounds.units[0] * 2.0**shift
        # An upper bound for the rounding error of the sums.
        margin = (largest + len(own) * unit) * (len(own) + 8) * 2.0**-21
        _bound(starts, postings, weights, bounds, own, own_positions, shift, rare, frequent)
        _bound_blocks(rare, frequent, blocks)
        _largest(blocks, _QUAD, quads)
        _largest(quads, _GROUP, groups)
        histogram[:] = 0
        for level in groups:
            histogram[level] += 1
        heap, bar, low, least, seen, wanted = out[query], 0.0, 256, 1, 0, k
        heap[:] = NO_KEY
        # Repeat until the k-th best score is above all remaining bounds.
        while not done[query]:
            high = low
            while low > least and (seen < wanted or low == high):
                low -= 1
                seen += histogram[low]
            wanted = _GROWTH * seen
            count = _pick(rare, frequent, quads, groups, low, high, rows, levels)
            if count < 0:
                break
            if bar > 0:
                for position in range(count):
                    sums[position] = levels[position] * unit
                count = _thin_out(
                    starts, postings, weights, bounds, own, own_positions, bar - margin, rows[:count], room, sums, rests
                )
            _score(starts, postings, weights, bounds, own, own_positions, rows[:count], room, sums, heap)
            if heap[0] == NO_KEY:
                break
            bar_bits[0] = ~np.uint32(heap[0] >> np.uint64(32)) & np.uint32(0x7FFFFFFF)
            bar = np.float64(bar_bits.view(np.float32)[0])
            least = int((bar - margin) / unit) - rounded_down
            if least < 1:
                break
            done[query] = low <= least
