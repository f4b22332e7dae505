"""Sampling of diverse candidates, compiled by numba."""

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
    """Sample candidates of each row as `sample_mask` does, but penalize similarity to the candidates drawn so far.

    The maximum of log-weight plus Gumbel noise is a draw in proportion to the weights (Kool et al. 2019). Since weights
    change with each draw, each draw uses new noise.

    Args:
        offsets: See `sample_mask`, also for the next six.
        log_weights: Logarithm of each candidate's weight before the first draw.
        keys: 64 bits that identify each row.
        seed: The random seed.
        strata: Which candidates belong to each stratum.
        counts: The number of candidates to draw from each stratum.
        keep: Output.
        diversity: The penalty on the log-weight at a similarity of 1 to the most similar candidate drawn.
        rows: The numbers of the candidates' vectors, or of their passages, see `compare`. Shape (C,).
        vectors: See `compare`, also for the next three.
        shingle_offsets: Where the shingles of each form begin and end.
        shingles: The shingles.
        passages: N.
    """
    keep[:] = False
    wanted = counts.sum()
    marks = np.zeros(MARKS, dtype=np.bool_)
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        # The similarity of each candidate to the most similar one drawn.
        nearest = np.full(stop - start, np.nan, dtype=np.float32)
        drawn = 0
        for stratum in range(len(counts)):
            for _ in range(counts[stratum]):
                best, chosen = -np.inf, -1
                for i in range(start, stop):
                    if keep[i] or not strata[stratum, i]:
                        continue
                    uniform = keyed_uniform(keys[row], seed, drawn * (stop - start) + i - start)
                    noisy = log_weights[i] - np.log(-np.log(uniform))
                    if drawn:
                        noisy -= diversity * nearest[i - start]
                    if chosen < 0 or noisy > best:
                        best, chosen = noisy, i
                if chosen < 0:
                    break
                keep[chosen] = True
                drawn += 1
                if drawn == wanted:
                    break
                others = rows[start:stop]
                compare(rows[chosen], others, vectors, shingle_offsets, shingles, passages, marks, nearest)
