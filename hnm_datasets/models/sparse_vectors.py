"""Sparse vectors as arrays: the terms of each text and their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import kept_offsets, positions_within
from hnm_datasets.models.list_vectors import ListVectors

#: The largest valid weight: sums of products of such weights over all terms stay far below the limit of float32.
_LARGEST = 1e15
#: A term and its weight, as stored by `ListResults`.
ENTRY = np.dtype([("term", "<i4"), ("weight", "<f4")])


@dataclass(frozen=True, eq=False)
class SparseVectors(ListVectors):
    """B sparse vectors.

    Attributes:
        offsets: The start and end of each vector's terms. Shape (B + 1,).
        terms: The numbers of the terms, ascending in each vector. Shape (T,), int32.
        weights: The weight of each term, never 0. Shape (T,), float32.
    """

    offsets: NDArray[np.int64]
    terms: NDArray[np.int32]
    weights: NDArray[np.float32]

    @property
    def values(self) -> tuple[NDArray[Any], ...]:
        """The terms and the weights."""
        return self.terms, self.weights

    @classmethod
    def of(cls, offsets: NDArray[np.int64], *values: NDArray[Any]) -> SparseVectors:
        """Create vectors from their offsets, terms and weights."""
        terms, weights = values
        if terms.dtype != np.int32 or weights.dtype != np.float32 or terms.ndim != 1 or weights.ndim != 1:
            raise ValueError("The arrays are not sparse vectors.")
        return cls(offsets, terms, weights)

    @classmethod
    def empty(cls, count: int) -> SparseVectors:
        """Return `count` vectors without terms."""
        return cls(np.zeros(count + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))

    def where(self, keep: NDArray[np.bool_]) -> SparseVectors:
        """Return the vectors with only the marked terms. Shape (T,)."""
        return SparseVectors(kept_offsets(self.offsets, keep), self.terms[keep], self.weights[keep])

    def strongest(self, n: int) -> SparseVectors:
        """Return the vectors with only their n largest weights, by magnitude; ties keep the lower terms.

        Example:
            >>> vectors = sparse_vectors([[0, 3, 1, -2], [0, 0, 1, 1]])
            >>> vectors.strongest(2).terms.tolist(), vectors.strongest(1).terms.tolist()
            ([1, 3, 2, 3], [1, 2])
        """
        lengths = np.diff(self.offsets)
        if not (lengths > n).any():
            return self
        owners = np.repeat(np.arange(len(self)), lengths)
        # A stable sort keeps the order of the terms among equal weights.
        order = np.lexsort((-np.abs(self.weights), owners))
        keep = np.empty(len(order), dtype=bool)
        keep[order] = positions_within(self.offsets) < n
        return self.where(keep)

    def normalized(self) -> SparseVectors:
        """Return the vectors normalized to length 1; vectors without terms are unchanged."""
        lengths = np.diff(self.offsets)
        squares = np.square(self.weights, dtype=np.float64)
        sums = np.bincount(np.repeat(np.arange(len(self)), lengths), weights=squares, minlength=len(self))
        scaled = (self.weights / np.repeat(np.sqrt(sums), lengths)).astype(np.float32)
        # A weight much smaller than the others may round to 0.
        return SparseVectors(self.offsets, self.terms, scaled).where(scaled != 0)

    def bad(self) -> int | None:
        """Return the first vector with a weight that is NaN, infinite or huge; None if all are valid."""
        wrong = np.flatnonzero(~(np.abs(self.weights) <= _LARGEST))
        return int(np.searchsorted(self.offsets, wrong[0], side="right")) - 1 if len(wrong) else None

    def entries(self) -> NDArray[Any]:
        """Return the terms and weights as one array of type `ENTRY`. Shape (T,)."""
        entries = np.empty(len(self.terms), dtype=ENTRY)
        entries["term"], entries["weight"] = self.terms, self.weights
        return entries

    @classmethod
    def of_entries(cls, offsets: NDArray[np.int64], entries: NDArray[Any]) -> SparseVectors:
        """Create the vectors from their `entries`."""
        return cls(offsets, np.ascontiguousarray(entries["term"]), np.ascontiguousarray(entries["weight"]))


def sparse_vectors(matrix: Any) -> SparseVectors:
    """Convert a matrix to sparse vectors.

    Args:
        matrix: A sparse or dense matrix of SciPy or torch, or anything that NumPy converts to an array. Shape (B, V).

    Raises:
        ValueError: It is not a matrix of numbers.

    Example:
        >>> import scipy.sparse
        >>> vectors = sparse_vectors(scipy.sparse.csr_array([[0, 2.5, 0], [1, 0, 4]]))
        >>> vectors.offsets.tolist(), vectors.terms.tolist(), vectors.weights.tolist()
        ([0, 1, 3], [1, 0, 2], [2.5, 1.0, 4.0])
    """
    if hasattr(matrix, "is_sparse") and hasattr(matrix, "detach"):
        matrix = _from_torch(matrix)
    try:
        found = scipy.sparse.csr_array(matrix, dtype=np.float32, copy=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Sparse vectors must be a matrix of numbers of shape (B, V), got {error}.") from None
    if found.ndim != 2:
        raise ValueError(f"Sparse vectors must be a matrix of shape (B, V), got {found.shape}.")
    found.sum_duplicates()
    found.eliminate_zeros()
    return SparseVectors(found.indptr.astype(np.int64), found.indices.astype(np.int32), found.data)


def _from_torch(tensor: Any) -> Any:
    tensor = tensor.detach().float().cpu()
    if not tensor.is_sparse:
        return (tensor.to_dense() if str(tensor.layout) != "torch.strided" else tensor).numpy()
    tensor = tensor.coalesce()
    return scipy.sparse.coo_array((tensor.values().numpy(), tuple(tensor.indices().numpy())), shape=tuple(tensor.shape))
