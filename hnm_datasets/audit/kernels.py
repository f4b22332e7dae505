"""Loops over pairs of texts, compiled by numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled


@compiled
def count_shared(
    offsets: NDArray[np.int64],
    values: NDArray[Any],
    lefts: NDArray[np.int64],
    rights: NDArray[np.int64],
    out: NDArray[np.int64],
) -> None:
    """Count the common elements of the two sets of each pair.

    Args:
        offsets: The start and end of each set. Shape (S + 1,).
        values: The elements of the sets, ascending within a set.
        lefts: The first set of each pair. Shape (P,).
        rights: The second set of each pair. Shape (P,).
        out: The counts. Shape (P,).
    """
    for pair in range(len(lefts)):
        i, i_end = offsets[lefts[pair]], offsets[lefts[pair] + 1]
        j, j_end = offsets[rights[pair]], offsets[rights[pair] + 1]
        shared = 0
        while i < i_end and j < j_end:
            if values[i] == values[j]:
                shared += 1
                i += 1
                j += 1
            elif values[i] < values[j]:
                i += 1
            else:
                j += 1
        out[pair] = shared
