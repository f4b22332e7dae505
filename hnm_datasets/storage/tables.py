"""Memory-mapped tables from strings to row numbers.

A Python dict of a hundred million ids takes tens of gigabytes in each process. These tables are arrays that are mapped
from disk and shared by all processes, and look up a whole batch at a time: `KeyTable` by digests, wherever the strings
are; `IdTable` in a string column itself, a fraction of a microsecond each.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import string_buffers
from hnm_datasets.arrays.ragged import first_of_runs
from hnm_datasets.runtime.workers import threads
from hnm_datasets.storage import table_kernels as key_kernels
from hnm_datasets.storage.mapped import open_array, save_array

#: Look-ups that one thread does at a time.
_LOOKUPS = 16_384


@dataclass(frozen=True)
class KeyTable:
    """Row numbers by the 128-bit digest of a key, three sorted arrays: two different strings never meet in practice.

    Attributes:
        high: The first 64 bits of each key's digest, ascending. Shape (N,).
        low: The other 64 bits, ascending among equal `high`. Shape (N,).
        rows: The row number of each key. Shape (N,).
    """

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    rows: NDArray[np.int64]

    @classmethod
    def from_digests(cls, digests: NDArray[np.uint64]) -> KeyTable:
        """Build a table in which key i has row number i; of equal keys the first counts.

        Args:
            digests: Shape (N, 2), see `digest_strings`.
        """
        order = np.lexsort((digests[:, 1], digests[:, 0]))
        high, low = digests[order, 0], digests[order, 1]
        first = first_of_runs(high, low)
        return cls(high[first], low[first], order[first])

    def save(self, folder: Path, name: str) -> None:
        """Write the table's three arrays to a folder."""
        save_array(folder, f"{name}.high", self.high)
        save_array(folder, f"{name}.low", self.low)
        save_array(folder, f"{name}.rows", self.rows)

    @classmethod
    def open(cls, folder: Path, name: str) -> KeyTable:
        """Map a table written by `save`."""
        high, low, rows = (open_array(folder, f"{name}.{part}") for part in ("high", "low", "rows"))
        return cls(high, low, rows)  # type: ignore[arg-type]

    def find(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the row number of each key, -1 where the table has none.

        Args:
            digests: Shape (B, 2), see `digest_strings`.

        Returns:
            Shape (B,).
        """
        found = np.full(len(digests), -1, dtype=np.int64)
        place = np.searchsorted(self.high, digests[:, 0])
        pending = np.flatnonzero(place < len(self.high))
        # One pass, unless two keys share their first 64 bits.
        while len(pending):
            same_high = self.high[place[pending]] == digests[pending, 0]
            same = same_high & (self.low[place[pending]] == digests[pending, 1])
            found[pending[same]] = self.rows[place[pending[same]]]
            pending = pending[same_high & ~same]
            place[pending] += 1
            pending = pending[place[pending] < len(self.high)]
        return found


@dataclass(frozen=True)
class IdTable:
    """Row numbers of the strings of a column: a hash table whose look-ups end by comparing the strings themselves.

    Attributes:
        slots: Row numbers plus 1 at the places that their strings hash to or the next free ones, 0 elsewhere. Shape
            (S,), a power of two.
        ids: The column. Shape (N,).

    Example:
        >>> table = IdTable.of(pa.array(["a", "b"], pa.large_string()))
        >>> table.find(pa.array(["b", "c", "a"])).tolist()
        [1, -1, 0]
    """

    slots: NDArray[np.int64]
    ids: pa.LargeStringArray

    @classmethod
    def of(cls, ids: pa.LargeStringArray) -> IdTable:
        """Build the table of a column.

        Raises:
            RepeatedIdError: A string is there twice.
        """
        # Half empty at most, so that a look-up takes one or two steps.
        slots = np.zeros(1 << int(2 * len(ids)).bit_length(), dtype=np.int64)
        first, second = key_kernels.fill(slots, *string_buffers(ids))
        if second >= 0:
            raise RepeatedIdError(first, second)
        return cls(slots, ids)

    def save(self, folder: Path, name: str) -> None:
        """Write the table to a folder; the column is for the caller to keep."""
        save_array(folder, name, self.slots)

    @classmethod
    def open(cls, folder: Path, name: str, ids: pa.LargeStringArray) -> IdTable:
        """Map a table written by `save`."""
        return cls(open_array(folder, name), ids)  # type: ignore[arg-type]

    def find(self, asked: pa.Array) -> NDArray[np.int64]:
        """Return the row number of each string, -1 where the column has none. Shape (B,)."""
        found = np.empty(len(asked), dtype=np.int64)
        own, (offsets, data) = string_buffers(self.ids), string_buffers(asked)

        def look_up(start: int) -> None:
            part = slice(start, start + _LOOKUPS)
            key_kernels.find(self.slots, *own, offsets[start : start + _LOOKUPS + 1], data, found[part])

        if len(asked) <= _LOOKUPS:
            look_up(0)
        else:
            with ThreadPoolExecutor(threads()) as pool:
                list(pool.map(look_up, range(0, len(asked), _LOOKUPS)))
        return found


class RepeatedIdError(ValueError):
    """A column of ids has one of them twice, in the rows `first` and `second`."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"Rows {first} and {second} have the same id.")
        self.first, self.second = first, second
