"""Random numbers that depend on a key and a seed alone, compiled by numba."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled
from hnm_datasets.arrays.selection import bring_smallest


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


@compiled
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
            bar = -bring_smallest(-noisy, len(noisy), n)
            drawn = 0
            for place in range(start, stop):
                # Weights so far apart that all but the largest are nothing can leave several at the bar.
                if drawn < n and noisy[place - start] >= bar and strata[stratum, place] and not keep[place]:
                    keep[place] = True
                    drawn += 1


@compiled
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
