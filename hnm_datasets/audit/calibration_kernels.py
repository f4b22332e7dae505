"""A running n-th greatest value, compiled by numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled


@compiled
def nth_greatest_before(
    offsets: NDArray[np.int64], values: NDArray[np.float64], n: int, out: NDArray[np.float64]
) -> None:
    """For each value, find the n-th greatest value before it in its row; -infinity if there are fewer than n.

    Args:
        offsets: The start and end of each row's values. Shape (B + 1,).
        values: The values. Shape (C,).
        n: At least 1.
        out: The result. Shape (C,).
    """
    best = np.empty(n, dtype=np.float64)
    for row in range(len(offsets) - 1):
        # Greatest first.
        best[:] = -np.inf
        for position in range(offsets[row], offsets[row + 1]):
            out[position] = best[n - 1]
            slot = n - 1
            if values[position] <= best[slot]:
                continue
            while slot > 0 and best[slot - 1] < values[position]:
                best[slot] = best[slot - 1]
                slot -= 1
            best[slot] = values[position]
