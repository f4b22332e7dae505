"""The loops over candidates, compiled by numba: arrays in, arrays out."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit
def _holds(values: NDArray[np.int64], value: int) -> bool:
    """Tell whether a sorted array holds a value."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) >> 1
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < len(values) and values[low] == value


@numba.njit(nogil=True, cache=True)
def pick_candidates(
    rows: NDArray[np.int64],
    text_codes: NDArray[np.int64],
    text_offsets: NDArray[np.int64],
    excluded_texts: NDArray[np.int64],
    group_codes: NDArray[np.int64],
    group_offsets: NDArray[np.int64],
    excluded_groups: NDArray[np.int64],
    k: int,
    out: NDArray[np.int64],
) -> None:
    """Find the places of the first k allowed passages of each query.

    Args:
        rows: The retriever's list, best first, -1 beyond its end. Shape (B, K).
        text_codes: Passages with the same text have the same code. Shape (N,).
        text_offsets: Where each query's excluded codes begin and end. Shape (B + 1,).
        excluded_texts: Codes that are no candidates, ascending within each query.
        group_codes: Passages of the same group have the same code; of shape (0,) when groups do not matter.
        group_offsets: Where each query's excluded groups begin and end. Shape (B + 1,).
        excluded_groups: Group codes that are no candidates, ascending within each query.
        k: Candidates wanted per query.
        out: Filled with places in the retriever's list, 0-based, -1 beyond the last. Shape (B, k).
    """
    taken = np.empty(k, dtype=np.int64)
    for query in range(len(rows)):
        texts = excluded_texts[text_offsets[query] : text_offsets[query + 1]]
        groups = excluded_groups[group_offsets[query] : group_offsets[query + 1]]
        size = 0
        for place in range(rows.shape[1]):
            row = rows[query, place]
            if row < 0 or size == k:
                break
            code = text_codes[row]
            if _holds(texts, code):
                continue
            if len(groups) and _holds(groups, group_codes[row]):
                continue
            # Only a passage that is not the first of its text can repeat one, and then only a taken one matters.
            repeats = False
            for other in range(size):
                if taken[other] == code:
                    repeats = True
                    break
            if repeats:
                continue
            taken[size] = code
            out[query, size] = place
            size += 1
        for place in range(size, k):
            out[query, place] = -1


@numba.njit
def _mixed(state: np.uint64) -> np.uint64:
    """Scramble 64 bits (the finaliser of splitmix64, Steele et al. 2014)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@numba.njit
def keyed_uniform(key: np.uint64, seed: int, counter: int) -> float:
    """Draw from the open interval (0, 1), by key, seed and counter alone."""
    step = np.uint64(0x9E3779B97F4A7C15)
    state = _mixed(_mixed(key + step * np.uint64(seed + 1)) + step * np.uint64(counter + 1))
    return (np.float64(state >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@numba.njit(nogil=True, cache=True)
def sample_mask(
    offsets: NDArray[np.int64],
    log_weights: NDArray[np.float64],
    keys: NDArray[np.uint64],
    seed: int,
    strata: NDArray[np.bool_],
    counts: NDArray[np.int64],
    keep: NDArray[np.bool_],
) -> None:
    """Mark candidates of each row, drawn without replacement with the given weights, a number from each stratum.

    The n largest of log-weight plus Gumbel noise are such a draw (Efraimidis and Spirakis 2006; Kool et al. 2019).

    Args:
        offsets: Where each row's candidates begin and end. Shape (B + 1,).
        log_weights: Logarithm of each candidate's weight, up to a constant per row. Shape (C,).
        keys: 64 bits that identify each row. Shape (B,).
        seed: Another seed gives another draw.
        strata: Which candidates belong to each stratum. What an earlier one has drawn is not drawn again. Shape (S, C).
        counts: Candidates wanted of each stratum; one that has no more gives all. Shape (S,).
        keep: Filled. Shape (C,).
    """
    keep[:] = False
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        noisy = np.empty(stop - start, dtype=np.float64)
        for stratum in range(len(counts)):
            n, size = counts[stratum], 0
            for place in range(start, stop):
                size += strata[stratum, place] and not keep[place]
            if size <= n:
                for place in range(start, stop):
                    keep[place] |= strata[stratum, place]
                continue
            for place in range(start, stop):
                # Noise of its own: what an earlier stratum left has drawn low there.
                uniform = keyed_uniform(keys[row], seed + stratum * 1_000_003, place - start)
                free = strata[stratum, place] and not keep[place]
                noisy[place - start] = log_weights[place] - np.log(-np.log(uniform)) if free else -np.inf
            bar = np.partition(noisy, len(noisy) - n)[len(noisy) - n]
            drawn = 0
            for place in range(start, stop):
                # Weights so far apart that all but the largest are nothing can leave several at the bar.
                if drawn < n and noisy[place - start] >= bar and strata[stratum, place] and not keep[place]:
                    keep[place] = True
                    drawn += 1


@numba.njit(nogil=True, cache=True)
def nth_greatest_before(
    offsets: NDArray[np.int64], values: NDArray[np.float64], n: int, out: NDArray[np.float64]
) -> None:
    """Fill in the n-th greatest of the values before each one in its row, -infinity where there are fewer.

    Args:
        offsets: Where each row's values begin and end. Shape (B + 1,).
        values: Shape (C,).
        n: At least 1.
        out: Filled. Shape (C,).
    """
    best = np.empty(n, dtype=np.float64)
    for row in range(len(offsets) - 1):
        # Greatest first.
        best[:] = -np.inf
        for place in range(offsets[row], offsets[row + 1]):
            out[place] = best[n - 1]
            slot = n - 1
            if values[place] <= best[slot]:
                continue
            while slot > 0 and best[slot - 1] < values[place]:
                best[slot] = best[slot - 1]
                slot -= 1
            best[slot] = values[place]


@numba.njit(nogil=True, cache=True)
def permuted_rows(keys: NDArray[np.uint64], seed: int, n_rows: int, out: NDArray[np.int64]) -> None:
    """Fill each line with the beginning of a random permutation of all row numbers, by key and seed alone.

    A Feistel network permutes the smallest power of four that holds all rows; what falls outside is sent through again
    (Black and Rogaway 2002). So row numbers come in random order, none twice, and nothing is stored.

    Args:
        keys: 64 bits that identify each line. Shape (B,).
        seed: Another seed gives another permutation.
        n_rows: The number of rows, N.
        out: Filled with row numbers, -1 beyond the N-th. Shape (B, K).
    """
    half = np.uint64(1)
    while (np.uint64(1) << (half + half)) < np.uint64(n_rows):
        half += np.uint64(1)
    mask = (np.uint64(1) << half) - np.uint64(1)
    step = np.uint64(0x9E3779B97F4A7C15)
    for line in range(len(keys)):
        key = _mixed(keys[line] + step * np.uint64(seed + 1))
        for place in range(out.shape[1]):
            if place >= n_rows:
                out[line, place] = -1
                continue
            value = np.uint64(place)
            while True:
                left, right = value >> half, value & mask
                for turn in range(4):
                    left, right = right, left ^ (_mixed(right + key + step * np.uint64(turn + 1)) & mask)
                value = (left << half) | right
                if value < np.uint64(n_rows):
                    break
            out[line, place] = np.int64(value)


@numba.njit(nogil=True, cache=True)
def drop_near_duplicates(
    shingle_offsets: NDArray[np.int64],
    shingles: NDArray[np.uint32],
    positive_offsets: NDArray[np.int64],
    positives: NDArray[np.int64],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    threshold: float,
    keep: NDArray[np.bool_],
) -> None:
    """Mark the candidates that are not nearly the same text as a positive or as a better candidate that is kept.

    Args:
        shingle_offsets: Where each passage's shingles begin and end. Shape (N + 1,).
        shingles: Sorted within each passage. Shape (S,).
        positive_offsets: Where each row's positives begin and end. Shape (B + 1,).
        positives: Their row numbers in the corpus.
        offsets: Where each row's candidates begin and end. Shape (B + 1,).
        rows: Their row numbers in the corpus. Shape (C,).
        threshold: The Jaccard similarity from which on two texts are nearly the same.
        keep: Receives the answer. Shape (C,).
    """
    for line in range(len(offsets) - 1):
        known = positive_offsets[line + 1] - positive_offsets[line]
        texts = np.concatenate(
            (
                positives[positive_offsets[line] : positive_offsets[line + 1]],
                rows[offsets[line] : offsets[line + 1]],
            )
        )
        total = 0
        for row in texts:
            total += _prefix_length(shingle_offsets[row + 1] - shingle_offsets[row], threshold)
        # The shingles by which a text that stays is found again, in chains that begin where they hash to.
        size = 1
        while size < 2 * total:
            size *= 2
        heads = np.full(size, -1, dtype=np.int64)
        nexts = np.empty(total, dtype=np.int64)
        values = np.empty(total, dtype=np.uint32)
        owners = np.empty(total, dtype=np.int64)
        compared = np.full(len(texts), -1, dtype=np.int64)
        count = 0
        for text in range(len(texts)):
            begin, end = shingle_offsets[texts[text]], shingle_offsets[texts[text] + 1]
            prefix = begin + _prefix_length(end - begin, threshold)
            near = False
            if text >= known:
                for place in range(begin, prefix):
                    entry = heads[shingles[place] & (size - 1)]
                    while entry >= 0 and not near:
                        other = owners[entry]
                        if values[entry] == shingles[place] and compared[other] != text:
                            compared[other] = text
                            row = texts[other]
                            near = _is_near(
                                shingles[begin:end],
                                shingles[shingle_offsets[row] : shingle_offsets[row + 1]],
                                threshold,
                            )
                        entry = nexts[entry]
                    if near:
                        break
                keep[offsets[line] + text - known] = not near
            if not near:
                for place in range(begin, prefix):
                    slot = shingles[place] & (size - 1)
                    values[count], owners[count], nexts[count] = shingles[place], text, heads[slot]
                    heads[slot] = count
                    count += 1


@numba.njit(nogil=True)
def _prefix_length(size: Any, threshold: float) -> Any:
    """Return how many of a set's first elements hold one of any set that is near enough.

    Of two sorted sets whose Jaccard similarity reaches the threshold, one of the first elements of either is among the
    first of the other (Bayardo et al. 2007, *Scaling up all pairs similarity search*).
    """
    return size - int(np.ceil(threshold * size - 1e-9)) + 1 if size else 0


@numba.njit(nogil=True)
def _is_near(a: Any, b: Any, threshold: float) -> Any:
    """Tell whether two sorted sets have a Jaccard similarity of at least the threshold."""
    # shared / (|a| + |b| - shared) >= t solved for shared; what cannot get there any more is left early.
    needed = threshold / (1 + threshold) * (len(a) + len(b)) - 1e-9
    shared = 0
    i = j = 0
    while i < len(a) and j < len(b):
        if shared + min(len(a) - i, len(b) - j) < needed:
            return False
        if a[i] == b[j]:
            shared += 1
            i += 1
            j += 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return shared >= needed
