"""Vectors that are lists of unequal length, such as the terms of a sparse vector or the token vectors of a text.

On disk, each shard is one file: the offsets of the lists, then the arrays of their values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import first_positions, offsets_of
from hnm_datasets.storage.mapped import map_next


class ListVectors(ABC):
    """B lists of unequal length, each with values in one or more aligned arrays.

    Attributes:
        offsets: The start and end of each list. Shape (B + 1,).
    """

    offsets: NDArray[np.int64]

    @property
    @abstractmethod
    def values(self) -> tuple[NDArray[Any], ...]:
        """The arrays of the values, each of shape (T, …)."""

    @classmethod
    @abstractmethod
    def of(cls, offsets: NDArray[np.int64], *values: NDArray[Any]) -> Self:
        """Create lists from their offsets and values; raise a ValueError if the arrays have other types or shapes."""

    @classmethod
    @abstractmethod
    def empty(cls, count: int) -> Self:
        """Return `count` empty lists."""

    @abstractmethod
    def bad(self) -> int | None:
        """Return the first list with invalid values; None if all are valid."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The length of each list. Shape (B,)."""
        return np.diff(self.offsets)

    def take(self, which: NDArray[np.integer]) -> Self:
        """Return the lists with some numbers, in the given order."""
        lengths = self.lengths[which]
        at = first_positions(self.offsets[which], lengths)
        return self.of(offsets_of(lengths), *(values[at] for values in self.values))

    def part(self, start: int, stop: int) -> Self:
        """Return consecutive lists, without copying them."""
        own = slice(self.offsets[start], self.offsets[stop])
        return self.of(self.offsets[start : stop + 1] - own.start, *(values[own] for values in self.values))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Concatenate the lists of several parts."""
        parts = [cls.empty(0), *parts]
        # Parts without values have no known shape.
        filled = [part for part in parts if part.offsets[-1]] or parts[:1]
        check_one_width(values.shape[1:] for part in filled for values in part.values if values.ndim > 1)
        values = (np.concatenate(arrays) for arrays in zip(*(part.values for part in filled), strict=True))
        return cls.of(offsets_of(np.concatenate([part.lengths for part in parts])), *values)


def check_one_width(widths: Iterable[tuple[int, ...]]) -> None:
    """Raise a ValueError if vectors differ in their number of dimensions."""
    found = sorted(set(widths))
    if len(found) > 1:
        raise ValueError(
            f"The model returns vectors of {' and of '.join(str(width[0]) for width in found)} dimensions with the "
            f"same fingerprint. Choose another name for the new vectors: fingerprint='...'."
        )


Lists = TypeVar("Lists", bound=ListVectors)


def shard_file(folder: Path, shard: int) -> Path:
    """Return the file of a shard."""
    return folder / f"{shard:06d}.csr"


def read_shard(kind: type[Lists], folder: Path, shard: int) -> Lists:
    """Memory-map the lists of a shard.

    Raises:
        ValueError: The file does not contain lists.
    """
    path = shard_file(folder, shard)
    with path.open("rb") as file:
        arrays = [map_next(file) for _ in range(1 + len(kind.empty(0).values))]
    offsets = arrays[0]
    if offsets.dtype != np.int64 or offsets.ndim != 1 or any(len(values) != offsets[-1] for values in arrays[1:]):
        raise ValueError(f"{path} contains no lists.")
    return kind.of(*arrays)
