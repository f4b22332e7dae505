"""Looking values up in sorted lists of unequal length, compiled by numba."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled


@numba.njit
def holds(values: NDArray[np.int64], value: int) -> bool:
    """Tell whether an ascending array holds a value."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) >> 1
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < len(values) and values[low] == value


@compiled
def mark_held(
    offsets: NDArray[np.int64],
    values: NDArray[np.int64],
    owners: NDArray[np.int64],
    wanted: NDArray[np.int64],
    out: NDArray[np.bool_],
) -> None:
    """Mark the values that the list of their owner holds.

    Args:
        offsets: Where each list begins and ends. Shape (B + 1,).
        values: Its values, ascending within each list. Shape (K,).
        owners: The list to look in. Shape (C,).
        wanted: The value to look for. Shape (C,).
        out: Receives the answer. Shape (C,).
    """
    for place in range(len(owners)):
        owner = owners[place]
        out[place] = holds(values[offsets[owner] : offsets[owner + 1]], wanted[place])
