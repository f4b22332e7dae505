"""The passages that a search keeps because they may be among the best."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.indexes import dense_kernels
from hnm_datasets.indexes.bounds import BLOCK


class Kept:
    """The passages that may be among the k best of B queries.

    Scores are compared with each other alone, so they may lack what all scores of a query have in common.

    Attributes:
        lowest: What the score of each is at least. Shape (B, capacity).
        highest: What it is at most.
        rows: Their row numbers.
        counts: How many there are of each query. Shape (B,).
        limits: What the k-th best score is at least. Shape (B,).
    """

    def __init__(self, queries: int, k: int) -> None:
        self.k, self.room = k, _room(k)
        shape = (queries, self.room + BLOCK)
        self.lowest, self.highest = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
        self.rows = np.empty(shape, dtype=np.uint32)
        self.counts = np.zeros(queries, dtype=np.int64)
        self.limits = np.full(queries, -np.inf, dtype=np.float32)

    @staticmethod
    def nbytes_of(queries: int, k: int) -> int:
        """Return the bytes that it takes."""
        return 12 * queries * (_room(k) + BLOCK)

    def add(self, bits: NDArray[Any], shift: int, share: float, first: int, errors: NDArray[np.float32]) -> None:
        """Keep what may be among the k best of the passages from the row `first` on; see `dense_kernels.keep`."""
        dense_kernels.keep(
            bits, shift, share, first, errors, self.limits, self.lowest, self.highest, self.rows, self.counts
        )

    def add_whole(
        self, which: slice, products: NDArray[np.int32], scales: NDArray[Any], first: int, errors: NDArray[np.float32]
    ) -> None:
        """Do the same for some queries by products of whole numbers; see `dense_kernels.keep_whole`."""
        dense_kernels.keep_whole(
            products,
            scales,
            first,
            errors,
            self.limits[which],
            self.lowest[which],
            self.highest[which],
            self.rows[which],
            self.counts[which],
        )

    def thin_out(self, most: int) -> None:
        """Drop what cannot be among the k best, of the queries that keep more than `most`."""
        dense_kernels.thin_out(self.k, most, self.lowest, self.highest, self.rows, self.counts, self.limits)

    def crowded(self) -> NDArray[np.int64]:
        """Make room for a block, and return the queries that still keep more than they should."""
        # The first limit saves most of what comes next; later it pays only now and then to raise it.
        self.thin_out(self.k if self.limits.max(initial=-np.inf) == -np.inf else 4 * self.k + 384)
        return np.flatnonzero(self.counts > self.room)

    def replace(
        self,
        which: NDArray[np.int64],
        rows: NDArray[np.int64],
        lowest: NDArray[np.float32],
        highest: NDArray[np.float32],
    ) -> None:
        """Keep these k passages of some queries and no others."""
        self.rows[which, : self.k], self.counts[which] = rows, self.k
        self.lowest[which, : self.k], self.highest[which, : self.k] = lowest, highest
        self.limits[which] = np.maximum(self.limits[which], lowest.min(axis=1))


def _room(k: int) -> int:
    return 6 * k + 512
