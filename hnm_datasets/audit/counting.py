"""Counts that do not keep everything that they count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

#: Examples that are described of each thing found.
_EXAMPLES = 3
_MERGE = 1 << 20


class Counter:
    """How often each of many numbers came, without keeping them all."""

    def __init__(self) -> None:
        self.keys = np.empty(0, dtype=np.uint64)
        self.counts = np.empty(0, dtype=np.int64)
        self._waiting: list[NDArray[np.uint64]] = []
        self._size = 0

    def add(self, keys: NDArray[np.uint64]) -> None:
        """Count some more."""
        self._waiting.append(keys)
        self._size += len(keys)
        if self._size > max(_MERGE, len(self.keys)):
            self.merge()

    def merge(self) -> None:
        """Bring `keys` (ascending) and `counts` up to date."""
        fresh, counts = np.unique(np.concatenate([*self._waiting, np.empty(0, dtype=np.uint64)]), return_counts=True)
        keys, back = np.unique(np.concatenate([self.keys, fresh]), return_inverse=True)
        weights = np.concatenate([self.counts, counts])
        self.keys, self.counts = keys, np.bincount(back, weights=weights, minlength=len(keys)).astype(np.int64)
        self._waiting, self._size = [], 0

    def of(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return how often each of these came, as of the last `merge`."""
        if not len(self.keys):
            return np.zeros(len(keys), dtype=np.int64)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, self.counts[places], 0)


@dataclass
class Found:
    """A number of things found, and the first of them, described."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, which: NDArray[np.bool_], describe: Callable[[int], str]) -> None:
        """Count what is marked, and describe the first few."""
        places = np.flatnonzero(which)
        self.count += len(places)
        for place in places[: _EXAMPLES - len(self.examples)]:
            self.examples.append(describe(int(place)))


@dataclass
class ScoreCounts:
    """How many negatives have a score beside one of a positive, and how many score above it."""

    compared: int = 0
    above: int = 0
