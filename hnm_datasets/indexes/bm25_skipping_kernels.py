"""The loops of a BM25 search that reads a part of the postings, compiled by numba when a large corpus is searched.

A query is searched in three steps:

1. The sum of each passage is bounded from above, in one byte. The most frequent tokens, which have most of the
   postings, have a bound for each block of four passages; of the other tokens, all postings are read.
2. The passages with the highest bounds are scored. The k-th best score is the bar.
3. The other passages whose bounds reach the bar are scored, highest bounds first; the bar rises meanwhile.

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
#: Blocks in a quad, and quads in a group. They are _LANES apart, so that neighboring maxima are found at once.
_QUAD, _GROUP = 4, 16
_LANES = 64
#: The number of blocks is a multiple of it.
TILE = _LANES * _QUAD * _GROUP
#: The largest level of a block's bound, in the unit of the index.
LEVELS = 254
#: Bounds of sums are bytes, and so is the bound of the longest query that is searched here.
_TOP, _LONGEST = 250, 60
#: Of queries that touch less than this part of the passages, it is faster to read all postings; also where more than
#: this part of the passages has to be scored.
_FEW, _MANY = 64, 256
#: How many times as many groups the next step looks at.
_GROWTH = 4


class Bounds(NamedTuple):
    """What is known of the frequent tokens of an index, F in all.

    Attributes:
        tokens: Which they are, ascending. Shape (F,).
        tops: The largest weight of each. Shape (F,).
        shifts: How many rows a segment of each has, as a power of 2. Shape (F,).
        offsets: Where the segments of each begin and end in `marks`. Shape (F + 1,).
        marks: The number of the token's postings before each segment, and after the last.
        lines: The line of each in `maxima`, -1 for none. Shape (F,).
        maxima: The level that the weights in each block do not exceed, for the most frequent. Shape (D, blocks).
        units: What a level of 1 stands for. Shape (1,).
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
        starts: Where each token's postings begin and end. Shape (V + 1,).
        postings: The rows that hold each token, ascending. Shape (P,).
        weights: What the token adds to each such row's score. Shape (P,).
        bounds: The maxima are zeros.
    """
    maxima, unit = bounds.maxima, bounds.units[0]
    for place in range(len(bounds.tokens)):
        start, stop = starts[bounds.tokens[place]], starts[bounds.tokens[place] + 1]
        own, segment = bounds.marks[bounds.offsets[place] : bounds.offsets[place + 1]], 0
        line, shift = bounds.lines[place], bounds.shifts[place]
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
    """Put a key in the place of the largest, which is the first of a heap."""
    place, child = 0, 1
    while child < len(heap):
        if child + 1 < len(heap) and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= key:
            break
        heap[place] = heap[child]
        place, child = child, 2 * child + 1
    heap[place] = key


@numba.njit(nogil=True)
def _add_levels(levels: NDArray[np.uint64], shift: Any, sums: NDArray[np.uint64]) -> None:
    """Divide bytes by a power of 2 and add them to others, eight at a time; no sum exceeds a byte."""
    mask = np.uint64(0x0101010101010101) * (np.uint64(0xFF) >> shift)
    for place in range(len(sums)):
        sums[place] += (levels[place] >> shift) & mask


@numba.njit(nogil=True)
def _largest(found: NDArray[np.uint8], size: int, out: NDArray[np.uint8]) -> None:
    """Find the largest of each `size` numbers that are _LANES apart."""
    for tile in range(len(out) // _LANES):
        largest = out[tile * _LANES : (tile + 1) * _LANES]
        largest[:] = 0
        for line in range(tile * size, (tile + 1) * size):
            part = found[line * _LANES : (line + 1) * _LANES]
            for lane in range(_LANES):
                largest[lane] = max(largest[lane], part[lane])


@numba.njit(nogil=True)
def _bound_blocks(rare: NDArray[np.uint8], frequent: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Find the largest bound in each block; the bounds of the first passage of each block come first, and so on."""
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
    """Collect the rows whose bound is at least `low` and below `high`; return how many there are, -1 for too many."""
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
                for place in range(BLOCK):
                    level = np.int64(rare[place * n + block]) + np.int64(frequent[block])
                    # Without a branch, which processors could not foretell.
                    rows[count], levels[count] = BLOCK * block + place, rare[place * n + block]
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
    """Add a token's weights in some rows to their sums.

    The binary searches take their steps together, so that the processor waits for many postings at once.
    """
    longest: Any = 0
    lows, highs = room[0], room[1]
    for place in range(len(rows)):
        segment = rows[place] >> shift
        lows[place], highs[place] = marks[segment], marks[segment + 1]
        longest = max(longest, highs[place] - lows[place])
    step = 1
    while 2 * step <= longest:
        step *= 2
    while longest and step:
        for place in range(len(rows)):
            after = lows[place] + step
            last = max(min(after, highs[place]) - 1, 0)
            lows[place] = after if (after <= highs[place]) & (postings[last] < rows[place]) else lows[place]
        step >>= 1
    for place in range(len(rows)):
        if lows[place] < highs[place] and postings[lows[place]] == rows[place]:
            sums[place] += weights[lows[place]]


@numba.njit(nogil=True)
def _largest_sum(
    starts: NDArray[np.int64],
    weights: NDArray[np.float32],
    bounds: Bounds,
    tokens: NDArray[np.int64],
    places: NDArray[np.int64],
) -> float:
    """Return what no passage's sum of a query's tokens exceeds."""
    total = 0.0
    for number in range(len(tokens)):
        largest: Any = np.float32(0)
        if places[number] >= 0:
            largest = bounds.tops[places[number]]
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
    places: NDArray[np.int64],
    shift: int,
    rare: NDArray[np.uint8],
    frequent: NDArray[np.uint8],
) -> None:
    """Bound the sums over the tokens without maxima, for each passage, and those over the others, for each block."""
    # A little more levels for a weight, so that rounding makes no bound too low.
    per_unit = np.float32((1 + 1e-6) / (bounds.units[0] * 2.0**shift))
    stride = np.uint32(len(frequent))
    frequent[:] = 0
    rare[:] = 0
    for number in range(len(tokens)):
        line = bounds.lines[places[number]] if places[number] >= 0 else -1
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
    places: NDArray[np.int64],
    bar: float,
    rows: NDArray[np.int32],
    room: NDArray[np.int64],
    sums: NDArray[np.float32],
    rests: NDArray[np.float32],
) -> int:
    """Keep the rows that can reach the bar, once tokens with maxima are looked up; return how many.

    `sums` holds the bounds over the other tokens.
    """
    count, unit = len(rows), np.float32(bounds.units[0])
    rests[:count] = 0
    for looks_up in (False, True):
        for number in range(len(tokens)):
            line = bounds.lines[places[number]] if places[number] >= 0 else -1
            if line < 0:
                continue
            maxima = bounds.maxima[line]
            if not looks_up:
                for place in range(count):
                    rests[place] += maxima[rows[place] // BLOCK] * unit
                continue
            start, stop, token = starts[tokens[number]], starts[tokens[number] + 1], places[number]
            marks = bounds.marks[bounds.offsets[token] : bounds.offsets[token + 1]]
            found, added = postings[start:stop], weights[start:stop]
            _add_weights(found, added, marks, bounds.shifts[token], rows[:count], room, sums)
            kept = 0
            for place in range(count):
                row, rest = rows[place], rests[place] - maxima[rows[place] // BLOCK] * unit
                rows[kept], sums[kept], rests[kept] = row, sums[place], rest
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
    places: NDArray[np.int64],
    rows: NDArray[np.int32],
    room: NDArray[np.int64],
    sums: NDArray[np.float32],
    heap: NDArray[np.uint64],
) -> None:
    """Score rows, over the tokens in their order as always, and put the best into the heap."""
    whole = np.zeros(2, dtype=np.int32)
    sums[: len(rows)] = 0
    for number in range(len(tokens)):
        start, stop, place = starts[tokens[number]], starts[tokens[number] + 1], places[number]
        marks, shift = whole, np.uint8(31)
        if place >= 0:
            marks, shift = bounds.marks[bounds.offsets[place] : bounds.offsets[place + 1]], bounds.shifts[place]
        whole[1] = stop - start
        _add_weights(postings[start:stop], weights[start:stop], marks, shift, rows, room, sums)
    bits = sums.view(np.uint32)
    for place in range(len(rows)):
        if sums[place] > 0:
            key = key_of(bits[place], rows[place])
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
    places: NDArray[np.int64],
    out: NDArray[np.uint64],
    done: NDArray[np.bool_],
) -> None:
    """Find the best passages of each query, the same as `bm25_kernels.search`, unless reading all postings is faster.

    Args:
        starts: As in `bm25_kernels.search`, and so are the next five.
        postings: Shape (P,).
        weights: Shape (P,).
        offsets: Shape (B + 1,).
        tokens: Shape (T,).
        n_passages: N.
        bounds: The frequent tokens.
        places: Where each of the queries' tokens is among the frequent ones, -1 for others. Shape (T,).
        out: Filled with keys, for `hits_of`. Shape (B, K).
        done: Filled with whether the query was searched; if not, its keys mean nothing. Shape (B,).
    """
    n_blocks, k = bounds.maxima.shape[1], out.shape[1]
    rare, frequent = np.empty(BLOCK * n_blocks, dtype=np.uint8), np.empty(n_blocks, dtype=np.uint8)
    blocks, quads = np.empty(n_blocks, dtype=np.uint8), np.empty(n_blocks // _QUAD, dtype=np.uint8)
    groups, histogram = np.empty(len(quads) // _GROUP, dtype=np.uint8), np.empty(256, dtype=np.int64)
    most = max(n_passages // _MANY, 4 * k) + _QUAD * BLOCK
    rows, levels, room = np.empty(most, np.int32), np.empty(most, np.uint8), np.empty((2, most), np.int64)
    sums, rests = np.empty(most, dtype=np.float32), np.empty(most, dtype=np.float32)
    bar_bits = np.empty(1, dtype=np.uint32)
    for query in range(len(offsets) - 1):
        own, own_places = tokens[offsets[query] : offsets[query + 1]], places[offsets[query] : offsets[query + 1]]
        touched, rounded_down = 0, 0
        for number in range(len(own)):
            touched += starts[own[number] + 1] - starts[own[number]]
            rounded_down += own_places[number] >= 0 and bounds.lines[own_places[number]] >= 0
        done[query] = False
        if touched <= n_passages // _FEW or len(own) > _LONGEST:
            continue
        largest, shift = _largest_sum(starts, weights, bounds, own, own_places), 0
        while largest / (bounds.units[0] * 2.0**shift) + len(own) > _TOP:
            shift += 1
        unit = bounds.units[0] * 2.0**shift
        # More than what the order of additions can change.
        margin = (largest + len(own) * unit) * (len(own) + 8) * 2.0**-21
        _bound(starts, postings, weights, bounds, own, own_places, shift, rare, frequent)
        _bound_blocks(rare, frequent, blocks)
        _largest(blocks, _QUAD, quads)
        _largest(quads, _GROUP, groups)
        histogram[:] = 0
        for level in groups:
            histogram[level] += 1
        heap, bar, low, least, seen, wanted = out[query], 0.0, 256, 1, 0, k
        heap[:] = NO_KEY
        # Until the k-th best score is above all other bounds.
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
                for place in range(count):
                    sums[place] = levels[place] * unit
                count = _thin_out(
                    starts, postings, weights, bounds, own, own_places, bar - margin, rows[:count], room, sums, rests
                )
            _score(starts, postings, weights, bounds, own, own_places, rows[:count], room, sums, heap)
            if heap[0] == NO_KEY:
                break
            bar_bits[0] = ~np.uint32(heap[0] >> np.uint64(32)) & np.uint32(0x7FFFFFFF)
            bar = np.float64(bar_bits.view(np.float32)[0])
            least = int((bar - margin) / unit) - rounded_down
            if least < 1:
                break
            done[query] = low <= least
