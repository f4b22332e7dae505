"""A running n-th greatest value, compiled by numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled


@compiled
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
