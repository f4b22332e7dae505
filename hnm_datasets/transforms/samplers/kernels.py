"""Draws of candidates that are unlike each other, compiled by numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled
from hnm_datasets.arrays.draws import keyed_uniform
from hnm_datasets.transforms.kernels import MARKS, compare


@compiled
def diverse_mask(
    offsets: NDArray[np.int64],
    log_weights: NDArray[np.float64],
    keys: NDArray[np.uint64],
    seed: int,
    strata: NDArray[np.bool_],
    counts: NDArray[np.int64],
    keep: NDArray[np.bool_],
    diversity: float,
    rows: NDArray[np.int64],
    vectors: NDArray[np.float32],
    shingle_offsets: NDArray[np.int64],
    shingles: NDArray[np.uint32],
    passages: int,
) -> None:
    """Mark candidates of each row as `sample_mask` does, each less likely the more it is like one that is drawn.

    The largest of log-weight plus Gumbel noise is a draw in proportion to the weights (Kool et al. 2019). Weights
    change with each draw, so each has noise of its own.

    Args:
        offsets: As for `sample_mask`, as are the next six.
        log_weights: Logarithm of each candidate's weight before anything is drawn.
        keys: 64 bits that identify each row.
        seed: Another seed gives another draw.
        strata: Which candidates belong to each stratum.
        counts: Candidates wanted of each stratum.
        keep: Filled.
        diversity: What a log-weight falls by where the similarity to the nearest one drawn is 1.
        rows: What candidates are compared by, see `compare`. Shape (C,).
        vectors: As for `compare`, as are the next three.
        shingle_offsets: Where the shingles of each form begin and end.
        shingles: The shingles.
        passages: N.
    """
    keep[:] = False
    wanted = counts.sum()
    marks = np.zeros(MARKS, dtype=np.bool_)
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        # The similarity to the nearest one that is drawn.
        nearest = np.full(stop - start, np.nan, dtype=np.float32)
        turn = 0
        for stratum in range(len(counts)):
            for _ in range(counts[stratum]):
                best, chosen = -np.inf, -1
                for place in range(start, stop):
                    if keep[place] or not strata[stratum, place]:
                        continue
                    uniform = keyed_uniform(keys[row], seed, turn * (stop - start) + place - start)
                    noisy = log_weights[place] - np.log(-np.log(uniform))
                    if turn:
                        noisy -= diversity * nearest[place - start]
                    if chosen < 0 or noisy > best:
                        best, chosen = noisy, place
                if chosen < 0:
                    break
                keep[chosen] = True
                turn += 1
                if turn == wanted:
                    break
                others = rows[start:stop]
                compare(rows[chosen], others, vectors, shingle_offsets, shingles, passages, marks, nearest)
