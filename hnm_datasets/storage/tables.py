"""Memory-mapped tables from strings to row numbers.

A Python dict of a hundred million ids takes tens of gigabytes in each process. These tables are memory-mapped arrays
that processes share. They look up whole batches: `KeyTable` by digests, without the strings; `IdTable` in the string
column itself, in a fraction of a microsecond per string.
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

#: Lookups per task of a thread.
_LOOKUPS = 16_384


@dataclass(frozen=True)
class KeyTable:
    """Row numbers by 128-bit digest, as three sorted arrays. Collisions do not occur in practice.

    Attributes:
        high: The first 64 bits of each digest, ascending. Shape (N,).
        low: The other 64 bits, ascending within equal `high`. Shape (N,).
        rows: The row number of each key. Shape (N,).
    """

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    rows: NDArray[np.int64]

    @classmethod
    def from_digests(cls, digests: NDArray[np.uint64]) -> KeyTable:
        """Build a table in which key i has row number i. For equal keys, the first row number is used.

        Args:
            digests: Shape (N, 2), see `digest_strings`.
        """
        order = np.lexsort((digests[:, 1], digests[:, 0]))
        high, low = digests[order, 0], digests[order, 1]
        first = first_of_runs(high, low)
        return cls(high[first], low[first], order[first])

    def save(self, folder: Path, name: str) -> None:
        """Write the arrays of the table to a folder."""
        save_array(folder, f"{name}.high", self.high)
        save_array(folder, f"{name}.low", self.low)
        save_array(folder, f"{name}.rows", self.rows)

    @classmethod
    def open(cls, folder: Path, name: str) -> KeyTable:
        """Map a table that `save` wrote."""
        high, low, rows = (open_array(folder, f"{name}.{part}") for part in ("high", "low", "rows"))
        return cls(high, low, rows)  # type: ignore[arg-type]

    def find(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the row number of each key, -1 for keys that are not in the table.

        Args:
            digests: Shape (B, 2), see `digest_strings`.

        Returns:
            Shape (B,).
        """
        found = np.full(len(digests), -1, dtype=np.int64)
        position = np.searchsorted(self.high, digests[:, 0])
        pending = np.flatnonzero(position < len(self.high))
        # This takes one pass, unless two keys have the same first 64 bits.
        while len(pending):
            same_high = self.high[position[pending]] == digests[pending, 0]
            same = same_high & (self.low[position[pending]] == digests[pending, 1])
            found[pending[same]] = self.rows[position[pending[same]]]
            pending = pending[same_high & ~same]
            position[pending] += 1
            pending = pending[position[pending] < len(self.high)]
        return found


@dataclass(frozen=True)
class IdTable:
    """A hash table from the strings of a column to row numbers. Lookups compare the strings themselves.

    Attributes:
        slots: Row numbers plus 1 in an open-addressing hash table, 0 in empty slots. Shape (S,), a power of two.
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
            RepeatedIdError: A string is repeated.
        """
        # At most half full, so that a lookup takes one or two steps.
        slots = np.zeros(1 << int(2 * len(ids)).bit_length(), dtype=np.int64)
        first, second = key_kernels.fill(slots, *string_buffers(ids))
        if second >= 0:
            raise RepeatedIdError(first, second)
        return cls(slots, ids)

    def save(self, folder: Path, name: str) -> None:
        """Write the table to a folder, without the column."""
        save_array(folder, name, self.slots)

    @classmethod
    def open(cls, folder: Path, name: str, ids: pa.LargeStringArray) -> IdTable:
        """Map a table that `save` wrote."""
        return cls(open_array(folder, name), ids)  # type: ignore[arg-type]

    def find(self, strings: pa.Array) -> NDArray[np.int64]:
        """Return the row number of each string, -1 for strings that are not in the column. Shape (B,)."""
        found = np.empty(len(strings), dtype=np.int64)
        column, (offsets, data) = string_buffers(self.ids), string_buffers(strings)

        def look_up(start: int) -> None:
            part = slice(start, start + _LOOKUPS)
            key_kernels.find(self.slots, *column, offsets[start : start + _LOOKUPS + 1], data, found[part])

        if len(strings) <= _LOOKUPS:
            look_up(0)
        else:
            with ThreadPoolExecutor(threads()) as pool:
                list(pool.map(look_up, range(0, len(strings), _LOOKUPS)))
        return found


class RepeatedIdError(ValueError):
    """A column of ids has a repeated id, in the rows `first` and `second`."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"Rows {first} and {second} have the same id.")
        self.first, self.second = first, second
