"""Look-ups in a string column, compiled."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled


@numba.njit(nogil=True, inline="always")
def _hash(data: NDArray[np.uint8], start: int, stop: int) -> np.uint64:
    """Hash some bytes: FNV-1a, and a last mixing, as only the low bits are used."""
    mixed = np.uint64(0xCBF29CE484222325)
    for place in range(start, stop):
        mixed = (mixed ^ np.uint64(data[place])) * np.uint64(0x100000001B3)
    mixed ^= mixed >> np.uint64(32)
    return np.uint64(mixed * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(8)


@numba.njit(nogil=True, inline="always")
def _same(a: NDArray[np.uint8], start: int, stop: int, b: NDArray[np.uint8], b_start: int, b_stop: int) -> bool:
    if stop - start != b_stop - b_start:
        return False
    for place in range(stop - start):  # noqa: SIM110 - numba compiles no generator
        if a[start + place] != b[b_start + place]:
            return False
    return True


@compiled
def fill(slots: NDArray[np.int64], offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> tuple[int, int]:
    """Enter all strings in an open hash table.

    Args:
        slots: Zeros; filled with row numbers plus 1. Shape (S,), a power of two greater than N.
        offsets: Where each string begins and ends. Shape (N + 1,).
        data: The bytes of all strings.

    Returns:
        The first two rows with the same string, or -1 twice.
    """
    mask = np.uint64(len(slots) - 1)
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        slot = _hash(data, start, stop) & mask
        while slots[slot]:
            other = slots[slot] - 1
            if _same(data, start, stop, data, offsets[other], offsets[other + 1]):
                return other, row
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = row + 1
    return -1, -1


@compiled
def find(
    slots: NDArray[np.int64],
    offsets: NDArray[np.int64],
    data: NDArray[np.uint8],
    asked_offsets: NDArray[np.int64],
    asked: NDArray[np.uint8],
    found: NDArray[np.int64],
) -> None:
    """Look strings up in a table that `fill` has made.

    Args:
        slots: The table. Shape (S,).
        offsets: Where each of its strings begins and ends. Shape (N + 1,).
        data: Their bytes.
        asked_offsets: Where each asked string begins and ends. Shape (B + 1,).
        asked: Their bytes.
        found: Filled with the row number of each, -1 for none. Shape (B,).
    """
    mask = np.uint64(len(slots) - 1)
    for place in range(len(found)):
        start, stop = asked_offsets[place], asked_offsets[place + 1]
        slot = _hash(asked, start, stop) & mask
        found[place] = -1
        while slots[slot]:
            row = slots[slot] - 1
            if _same(asked, start, stop, data, offsets[row], offsets[row + 1]):
                found[place] = row
                break
            slot = (slot + np.uint64(1)) & mask
