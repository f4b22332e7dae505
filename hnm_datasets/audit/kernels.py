"""The loops over pairs of texts, compiled by numba: arrays in, arrays out."""

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
    """Count what the two sets of each pair have in common.

    Args:
        offsets: Where each set begins and ends. Shape (S + 1,).
        values: Their elements, ascending within a set.
        lefts: The one set of each pair. Shape (P,).
        rights: The other set of each pair. Shape (P,).
        out: Filled. Shape (P,).
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
