"""What is counted of a corpus, or of its parts, before BM25 weighs it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.keys import KeyTable
from hnm_datasets.storage import open_array, save_array


@dataclass(frozen=True)
class Counts:
    """How often each of n passages holds each of V tokens, by token.

    Attributes:
        starts: Where each token's postings begin and end. Shape (V + 1,).
        postings: Passages, from 0 on, ascending for each token. Shape (P,).
        counts: How often. Shape (P,), float32.
        lengths: How many tokens each passage has. Shape (n,).
        vocabulary: The digest of each token, ascending. Shape (V, 2).
    """

    starts: NDArray[np.int64]
    postings: NDArray[np.int32]
    counts: NDArray[np.float32]
    lengths: NDArray[np.float64]
    vocabulary: NDArray[np.uint64]

    def save(self, folder: Path) -> None:
        """Write them to a folder."""
        for field in fields(self):
            save_array(folder, field.name, getattr(self, field.name))

    @classmethod
    def open(cls, folder: Path) -> Counts:
        """Map what `save` wrote."""
        arrays: Any = {field.name: open_array(folder, field.name) for field in fields(cls)}
        return cls(**arrays)


@dataclass(frozen=True)
class Statistics:
    """What the formulas need to know of a whole corpus.

    Attributes:
        vocabulary: The number of each token.
        frequencies: In how many passages each is. Shape (V,).
        passages: How many there are.
        tokens: How many tokens they have.
    """

    vocabulary: KeyTable
    frequencies: NDArray[np.int64]
    passages: int
    tokens: float

    @classmethod
    def of(cls, parts: list[Counts]) -> Statistics:
        """Add up what all parts hold."""
        digests = np.concatenate([part.vocabulary for part in parts])
        frequencies = np.concatenate([np.diff(part.starts) for part in parts])
        order = np.lexsort((digests[:, 1], digests[:, 0]))
        digests, frequencies = digests[order], frequencies[order]
        first = np.ones(len(digests), dtype=bool)
        first[1:] = (digests[1:] != digests[:-1]).any(axis=1)
        totals = np.add.reduceat(frequencies, np.flatnonzero(first)) if len(first) else frequencies
        return cls(
            KeyTable.from_digests(digests[first]),
            totals,
            sum(len(part.lengths) for part in parts),
            float(sum(part.lengths.sum() for part in parts)),
        )

    def save(self, folder: Path) -> None:
        """Write them to a folder."""
        self.vocabulary.save(folder, "vocabulary")
        save_array(folder, "frequencies", self.frequencies)
        save_array(folder, "sizes", np.array([self.passages, self.tokens]))

    @classmethod
    def open(cls, folder: Path) -> Statistics:
        """Map what `save` wrote."""
        sizes = open_array(folder, "sizes")
        frequencies: Any = open_array(folder, "frequencies")
        return cls(KeyTable.open(folder, "vocabulary"), frequencies, int(sizes[0]), float(sizes[1]))
