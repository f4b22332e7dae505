"""Lookups in a string column, compiled by numba."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled


@numba.njit(nogil=True, inline="always")
def _hash(data: NDArray[np.uint8], start: int, stop: int) -> np.uint64:
    """Hash bytes with FNV-1a and a final mixing step, because only the low bits are used."""
    mixed = np.uint64(0xCBF29CE484222325)
    for position in range(start, stop):
        mixed = (mixed ^ np.uint64(data[position])) * np.uint64(0x100000001B3)
    mixed ^= mixed >> np.uint64(32)
    return np.uint64(mixed * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(8)


@numba.njit(nogil=True, inline="always")
def _same(a: NDArray[np.uint8], start: int, stop: int, b: NDArray[np.uint8], b_start: int, b_stop: int) -> bool:
    if stop - start != b_stop - b_start:
        return False
    for position in range(stop - start):  # noqa: SIM110 - numba does not support generator expressions
        if a[start + position] != b[b_start + position]:
            return False
    return True


@compiled
def fill(slots: NDArray[np.int64], offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> tuple[int, int]:
    """Insert all strings into a hash table with open addressing.

    Args:
        slots: Zeros; receives row numbers plus 1. Shape (S,), a power of two greater than N.
        offsets: Where each string begins and ends. Shape (N + 1,).
        data: The bytes of all strings.

    Returns:
        The first two rows with the same string, or (-1, -1).
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
    query_offsets: NDArray[np.int64],
    queries: NDArray[np.uint8],
    found: NDArray[np.int64],
) -> None:
    """Look up strings in a table from `fill`.

    Args:
        slots: The table. Shape (S,).
        offsets: Where each string of the table begins and ends. Shape (N + 1,).
        data: The bytes of the strings of the table.
        query_offsets: Where each string to look up begins and ends. Shape (B + 1,).
        queries: The bytes of the strings to look up.
        found: Receives the row number of each string, -1 if it is not in the table. Shape (B,).
    """
    mask = np.uint64(len(slots) - 1)
    for number in range(len(found)):
        start, stop = query_offsets[number], query_offsets[number + 1]
        slot = _hash(queries, start, stop) & mask
        found[number] = -1
        while slots[slot]:
            row = slots[slot] - 1
            if _same(queries, start, stop, data, offsets[row], offsets[row + 1]):
                found[number] = row
                break
            slot = (slot + np.uint64(1)) & mask
