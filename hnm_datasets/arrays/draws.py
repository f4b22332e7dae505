"""Random numbers that depend only on a key and a seed, compiled by numba."""

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
    """Draw from the open interval (0, 1), depending only on key, seed and counter."""
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
    """Sample candidates of each row without replacement, with given weights and a given number per stratum.

    The n largest values of log-weight plus Gumbel noise are such a sample (Efraimidis and Spirakis 2006; Kool et al.
    2019).

    Args:
        offsets: Where the candidates of each row begin and end. Shape (B + 1,).
        log_weights: The logarithm of the weight of each candidate, up to a constant per row. Shape (C,).
        keys: 64 bits that identify each row. Shape (B,).
        seed: The random seed.
        strata: Which candidates belong to each stratum. Candidates drawn for one stratum are not drawn again. Shape
            (S, C).
        counts: The number of candidates to draw per stratum; smaller strata are drawn completely. Shape (S,).
        keep: Receives whether each candidate is drawn. Shape (C,).
    """
    keep[:] = False
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        noisy = np.empty(stop - start, dtype=np.float64)
        for stratum in range(len(counts)):
            n, size = counts[stratum], 0
            for position in range(start, stop):
                size += strata[stratum, position] and not keep[position]
            if size <= n:
                for position in range(start, stop):
                    keep[position] |= strata[stratum, position]
                continue
            for position in range(start, stop):
                # Each stratum needs new noise: candidates left over from an earlier stratum have low noise there.
                uniform = keyed_uniform(keys[row], seed + stratum * 1_000_003, position - start)
                free = strata[stratum, position] and not keep[position]
                noisy[position - start] = log_weights[position] - np.log(-np.log(uniform)) if free else -np.inf
            bar = -bring_smallest(-noisy, len(noisy), n)
            drawn = 0
            for position in range(start, stop):
                # With extreme weights, several candidates can be equal to the threshold.
                if drawn < n and noisy[position - start] >= bar and strata[stratum, position] and not keep[position]:
                    keep[position] = True
                    drawn += 1


@compiled
def permuted_rows(keys: NDArray[np.uint64], seed: int, n_rows: int, out: NDArray[np.int64]) -> None:
    """Fill each line with the start of a random permutation of all row numbers, depending only on key and seed.

    A Feistel network permutes the numbers below the smallest power of four that is at least N; results outside the
    range are permuted again (Black and Rogaway 2002). This gives distinct row numbers in random order without memory.

    Args:
        keys: 64 bits that identify each line. Shape (B,).
        seed: The random seed.
        n_rows: The number of rows, N.
        out: Receives row numbers, padded with -1 after N. Shape (B, K).
    """
    half = np.uint64(1)
    while (np.uint64(1) << (half + half)) < np.uint64(n_rows):
        half += np.uint64(1)
    mask = (np.uint64(1) << half) - np.uint64(1)
    step = np.uint64(0x9E3779B97F4A7C15)
    for line in range(len(keys)):
        key = _mixed(keys[line] + step * np.uint64(seed + 1))
        for position in range(out.shape[1]):
            if position >= n_rows:
                out[line, position] = -1
                continue
            value = np.uint64(position)
            while True:
                left, right = value >> half, value & mask
                for round_ in range(4):
                    left, right = right, left ^ (_mixed(right + key + step * np.uint64(round_ + 1)) & mask)
                value = (left << half) | right
                if value < np.uint64(n_rows):
                    break
            out[line, position] = np.int64(value)
