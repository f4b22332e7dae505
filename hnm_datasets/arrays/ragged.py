"""Lists of unequal length as one flat array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Values = TypeVar(
    "Values",
    pa.Array,
    NDArray[np.int64],
    NDArray[np.float32],
    NDArray[np.uint32],
    NDArray[np.uint64],
    NDArray[np.generic],
)


@dataclass(frozen=True)
class Ragged(Generic[Values]):
    """B lists of unequal length: list i is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        offsets: Where each list begins and ends. Shape (B + 1,), starts at 0.
        values: The lists' values one after another. Shape (C,).
    """

    offsets: NDArray[np.int64]
    values: Values

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The length of each list. Shape (B,)."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> NDArray[np.int64]:
        """The list that each value belongs to. Shape (C,)."""
        return np.repeat(np.arange(len(self)), self.lengths)


def offsets_of(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return where lists of these lengths begin and end. Shape (B,) → (B + 1,)."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def list_array(offsets: NDArray[np.int64], values: pa.Array) -> pa.ListArray:
    """Make the Arrow list column that `datasets` writes as `List(...)`."""
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)


def kept_offsets(offsets: NDArray[np.int64], keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the offsets that remain when only the values marked in `keep` (shape (C,)) stay in their lists."""
    before = np.zeros(len(keep) + 1, dtype=np.int64)
    np.cumsum(keep, out=before[1:])
    return before[offsets]


def turns(sizes: NDArray[np.integer], limit: int) -> list[slice]:
    """Cut rows into runs that are no larger than a limit together; a row that is larger makes a run of its own.

    Example:
        >>> turns(np.array([3, 1, 9, 2, 2]), 4)
        [slice(0, 2, None), slice(2, 3, None), slice(3, 5, None)]
    """
    ends = np.cumsum(sizes)
    found: list[slice] = []
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + limit, side="right")))
        found.append(slice(start, stop))
        start = stop
    return found


def part_of(lists: Ragged[NDArray[np.int64]], rows: slice) -> Ragged[NDArray[np.int64]]:
    """Return some of the lists, consecutive ones."""
    start, stop = lists.offsets[rows.start], lists.offsets[rows.stop]
    return Ragged(lists.offsets[rows.start : rows.stop + 1] - start, lists.values[start:stop])


def first_positions(offsets: NDArray[np.int64], counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the flat positions of the first `counts[i]` values of each list i, list by list."""
    within = np.arange(int(counts.sum())) - np.repeat(offsets_of(counts)[:-1], counts)
    return np.repeat(offsets[:-1], counts) + within
