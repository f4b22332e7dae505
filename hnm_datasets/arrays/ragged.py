"""Lists of different lengths as a flat array with offsets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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
    """B lists of different lengths: list i is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        offsets: Where each list begins and ends, starting at 0. Shape (B + 1,).
        values: The concatenated values of the lists. Shape (C,).
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
    """Return the offsets of lists with these lengths. Shape (B,) → (B + 1,)."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def kept_offsets(offsets: NDArray[np.int64], keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the offsets after removing all values except those marked in `keep`, shape (C,)."""
    before = np.zeros(len(keep) + 1, dtype=np.int64)
    np.cumsum(keep, out=before[1:])
    return before[offsets]


def runs_within(sizes: NDArray[np.integer], limit: int) -> list[slice]:
    """Split rows into consecutive runs with a total size of at most `limit`. A larger row is a run of its own.

    Example:
        >>> runs_within(np.array([3, 1, 9, 2, 2]), 4)
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


def slice_lists(lists: Ragged[Values], rows: slice) -> Ragged[Values]:
    """Return consecutive lists, without a copy of the values."""
    start, stop = lists.offsets[rows.start], lists.offsets[rows.stop]
    return Ragged(lists.offsets[rows.start : rows.stop + 1] - start, lists.values[start:stop])


def take_lists(lists: Ragged[Values], which: NDArray[np.integer]) -> Ragged[Values]:
    """Return lists by number, in the given order.

    Example:
        >>> lists = Ragged(np.array([0, 2, 2, 5]), np.array([1, 2, 3, 4, 5]))
        >>> taken = take_lists(lists, np.array([2, 0]))
        >>> taken.offsets.tolist(), taken.values.tolist()
        ([0, 3, 5], [3, 4, 5, 1, 2])
    """
    lengths = lists.lengths[which]
    at = first_positions(lists.offsets[which], lengths)
    values: Any = lists.values
    return Ragged(offsets_of(lengths), values.take(pa.array(at) if isinstance(values, pa.Array) else at))


def positions_within(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position of each value in its list, counted from 0. Shape (B + 1,) → (C,).

    Example:
        >>> positions_within(np.array([0, 2, 2, 5])).tolist()
        [0, 1, 0, 1, 2]
    """
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))


def first_positions(starts: NDArray[np.int64], counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the flat positions of `counts[i]` values starting at `starts[i]`, for all i. Shapes (B,), (B,) → (C,).

    Example:
        >>> first_positions(np.array([0, 7]), np.array([2, 3])).tolist()
        [0, 1, 7, 8, 9]
    """
    return np.repeat(starts, counts) + positions_within(offsets_of(counts))


def first_of_runs(*keys: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the values that differ from the previous value in any key. For sorted keys, this is the first of each group.

    Example:
        >>> first_of_runs(np.array([1, 1, 2, 2]), np.array([5, 5, 5, 6])).tolist()
        [True, False, True, True]
    """
    first = np.zeros(len(keys[0]), dtype=bool)
    first[:1] = True
    for key in keys:
        first[1:] |= key[1:] != key[:-1]
    return first


def interleave_lists(first: Ragged[Any], second: Ragged[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Concatenate two columns of lists row by row.

    Args:
        first: B lists, C values in total.
        second: B lists, D values in total.

    Returns:
        The offsets of the joined lists, shape (B + 1,), and the order in which to take the concatenated values of
        `first` and `second`, shape (C + D,).

    Example:
        >>> ids, more = Ragged(np.array([0, 1, 3]), np.array([1, 2, 3])), Ragged(np.array([0, 1, 1]), np.array([9]))
        >>> offsets, order = interleave_lists(ids, more)
        >>> offsets.tolist(), np.concatenate([ids.values, more.values])[order].tolist()
        ([0, 2, 4], [1, 9, 2, 3])
    """
    order = np.argsort(np.concatenate([first.owners, second.owners]), kind="stable")
    return first.offsets + second.offsets, order
