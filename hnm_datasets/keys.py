"""A memory-mapped table from strings to row numbers.

A Python dict of a hundred million ids takes tens of gigabytes in each process. This table is three sorted arrays of
24 bytes a key together, mapped from disk and shared by all processes; a look-up is a binary search over a whole batch.
Keys are compared by a 128-bit digest, so two different strings never meet in practice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.storage import open_array, save_array


@dataclass(frozen=True)
class KeyTable:
    """Row numbers by key.

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
        first = np.ones(len(order), dtype=bool)
        first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
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
        # One turn, unless two keys share their first 64 bits.
        while len(pending):
            same_high = self.high[place[pending]] == digests[pending, 0]
            same = same_high & (self.low[place[pending]] == digests[pending, 1])
            found[pending[same]] = self.rows[place[pending[same]]]
            pending = pending[same_high & ~same]
            place[pending] += 1
            pending = pending[place[pending] < len(self.high)]
        return found
