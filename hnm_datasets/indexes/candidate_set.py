"""The candidates of a search: passages that may be among the best."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.indexes import dense_kernels
from hnm_datasets.indexes.bounds import BLOCK


class CandidateSet:
    """The passages that may be among the k best of B queries.

    Scores may omit a per-query constant, because they are only compared within a query.

    Attributes:
        lowest: The lower bound of the score of each candidate. Shape (B, capacity + BLOCK).
        highest: The upper bound.
        rows: The row number.
        counts: The number of candidates of each query. Shape (B,).
        limits: A lower bound for the k-th best score. Shape (B,).
    """

    def __init__(self, queries: int, k: int) -> None:
        self.k, self.capacity = k, _capacity(k)
        shape = (queries, self.capacity + BLOCK)
        self.lowest, self.highest = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
        self.rows = np.empty(shape, dtype=np.uint32)
        self.counts = np.zeros(queries, dtype=np.int64)
        self.limits = np.full(queries, -np.inf, dtype=np.float32)

    @staticmethod
    def nbytes_of(queries: int, k: int) -> int:
        """Return the size in bytes of the candidates of this many queries."""
        return 12 * queries * (_capacity(k) + BLOCK)

    def add(self, bits: NDArray[Any], shift: int, share: float, first: int, errors: NDArray[np.float32]) -> None:
        """Add the candidates of the block of passages that starts at row `first`; see `dense_kernels.keep`."""
        dense_kernels.keep(
            bits, shift, share, first, errors, self.limits, self.lowest, self.highest, self.rows, self.counts
        )

    def add_integers(
        self, which: slice, products: NDArray[np.int32], scales: NDArray[Any], first: int, errors: NDArray[np.float32]
    ) -> None:
        """Do the same as `add` for integer products of some queries; see `dense_kernels.keep_integers`."""
        dense_kernels.keep_integers(
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

    def prune(self, size: int) -> None:
        """Drop passages that cannot be among the k best, for queries with more than `size` candidates."""
        dense_kernels.prune(self.k, size, self.lowest, self.highest, self.rows, self.counts, self.limits)

    def overfull(self) -> NDArray[np.int64]:
        """Prune the candidates before the next block. Return the queries that are still above capacity."""
        # The first limit excludes most of the later passages. After that, raising it is rarely worth the time.
        self.prune(self.k if self.limits.max(initial=-np.inf) == -np.inf else 4 * self.k + 384)
        return np.flatnonzero(self.counts > self.capacity)

    def replace(
        self,
        which: NDArray[np.int64],
        rows: NDArray[np.int64],
        lowest: NDArray[np.float32],
        highest: NDArray[np.float32],
    ) -> None:
        """Replace the candidates of some queries by these k passages."""
        self.rows[which, : self.k], self.counts[which] = rows, self.k
        self.lowest[which, : self.k], self.highest[which, : self.k] = lowest, highest
        self.limits[which] = np.maximum(self.limits[which], lowest.min(axis=1))


def _capacity(k: int) -> int:
    return 6 * k + 512
