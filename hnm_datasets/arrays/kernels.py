"""Looking up values in sorted lists of different lengths, compiled by numba."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled


@numba.njit
def holds(values: NDArray[np.int64], value: int) -> bool:
    """Return whether an ascending array contains a value."""
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
    searched: NDArray[np.int64],
    out: NDArray[np.bool_],
) -> None:
    """Mark the values that are in given lists.

    Args:
        offsets: Where each list begins and ends. Shape (B + 1,).
        values: The values of the lists, ascending within each list. Shape (K,).
        owners: The list to search for each value. Shape (C,).
        searched: The values to search. Shape (C,).
        out: Receives whether each value is in its list. Shape (C,).
    """
    for position in range(len(owners)):
        owner = owners[position]
        out[position] = holds(values[offsets[owner] : offsets[owner + 1]], searched[position])
