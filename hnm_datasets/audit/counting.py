"""Counters with bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

#: The number of examples per defect.
_EXAMPLES = 3
_MERGE = 1 << 20


class Counter:
    """Counts the occurrences of keys; keeps only the distinct keys and their counts."""

    def __init__(self) -> None:
        self.keys = np.empty(0, dtype=np.uint64)
        self.counts = np.empty(0, dtype=np.int64)
        self._waiting: list[NDArray[np.uint64]] = []
        self._size = 0

    def add(self, keys: NDArray[np.uint64]) -> None:
        """Count more keys."""
        self._waiting.append(keys)
        self._size += len(keys)
        if self._size > max(_MERGE, len(self.keys)):
            self.merge()

    def merge(self) -> None:
        """Update `keys` (ascending) and `counts`."""
        fresh, counts = np.unique(np.concatenate([*self._waiting, np.empty(0, dtype=np.uint64)]), return_counts=True)
        keys, back = np.unique(np.concatenate([self.keys, fresh]), return_inverse=True)
        weights = np.concatenate([self.counts, counts])
        self.keys, self.counts = keys, np.bincount(back, weights=weights, minlength=len(keys)).astype(np.int64)
        self._waiting, self._size = [], 0

    def of(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the counts of some keys, as of the last `merge`."""
        if not len(self.keys):
            return np.zeros(len(keys), dtype=np.int64)
        positions = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[positions] == keys, self.counts[positions], 0)


@dataclass
class Found:
    """The number of occurrences of a defect, and descriptions of the first ones."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, which: NDArray[np.bool_], describe: Callable[[int], str]) -> None:
        """Count the marked ones and describe the first ones."""
        positions = np.flatnonzero(which)
        self.count += len(positions)
        for position in positions[: _EXAMPLES - len(self.examples)]:
            self.examples.append(describe(int(position)))


@dataclass
class ScoreCounts:
    """The number of negatives compared with the score of a positive, and of those that score above it."""

    compared: int = 0
    above: int = 0
