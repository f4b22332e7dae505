"""Finding passages with the same text, with or without their titles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.storage.mapped import open_array, save_array
from hnm_datasets.storage.tables import KeyTable

#: Passages processed at a time.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Copies:
    """The copies among N passages, memory-mapped.

    Two passages are copies if their texts are equal, each with or without its title. The relation is transitive.

    Attributes:
        codes: The lowest row among the copies of each passage. Shape (N,).
        by_body: Row lookup by the text without the title, for passages that have both.
    """

    codes: NDArray[np.int64]
    by_body: KeyTable

    @classmethod
    def of(
        cls,
        bodies: NDArray[np.uint64],
        has_both: NDArray[np.bool_],
        by_text: KeyTable,
        text_codes: NDArray[np.int64],
    ) -> Copies:
        """Find the copies.

        Args:
            bodies: The `normalized_digests` of the texts without titles. Shape (N, 2).
            has_both: Which passages have a title and a text. Shape (N,).
            by_text: Row lookup by title and text.
            text_codes: The first row with the same title and text. Shape (N,).
        """
        rows = np.flatnonzero(has_both)
        bodies = bodies[rows]
        found = KeyTable.from_digests(bodies)
        by_body = KeyTable(found.high, found.low, rows[found.rows])
        as_text = by_text.find(bodies)
        pairs = [
            (np.arange(len(text_codes)), text_codes),
            (rows, by_body.find(bodies)),
            (rows[as_text >= 0], as_text[as_text >= 0]),
        ]
        first, second = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
        return cls(_first_of_linked(len(text_codes), first, second), by_body)

    def save(self, folder: Path) -> None:
        """Write the files."""
        save_array(folder, "copy_codes", self.codes)
        self.by_body.save(folder, "by_body")

    @classmethod
    def open(cls, folder: Path) -> Copies:
        """Map the files that `save` wrote."""
        return cls(open_array(folder, "copy_codes"), KeyTable.open(folder, "by_body"))  # type: ignore[arg-type]


class CodeCounts(NamedTuple):
    """The number of passages per code. Most codes belong to one passage, so only the others are stored.

    Attributes:
        codes: The codes that several passages share, ascending. Shape (C,).
        counts: The number of passages with each code. Shape (C,).
    """

    codes: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, codes: NDArray[np.int64]) -> CodeCounts:
        """Count the codes. Shape (N,): the code of a passage is the first row with the same code."""
        others = [
            start + np.flatnonzero(part != np.arange(start, start + len(part)))
            for start in range(0, len(codes), _CHUNK)
            for part in (codes[start : start + _CHUNK],)
        ]
        repeated, counts = np.unique(codes[np.concatenate(others)], return_counts=True)
        return cls(repeated, counts + 1)

    def passages(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of passages with each code, 0 for code -1. Shape (B,) → (B,)."""
        counts = (codes >= 0).astype(np.int64)
        if len(self.codes):
            positions = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
            found = self.codes[positions] == codes
            counts[found] = self.counts[positions[found]]
        return counts


def _first_of_linked(count: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the lowest node in the connected component of each node.

    Args:
        count: The number of nodes, N.
        first: One end of each link. Shape (L,).
        second: The other end. Shape (L,).

    Returns:
        Shape (N,).
    """
    differ = first != second
    first, second = first[differ], second[differ]
    codes = np.arange(count)
    while True:
        low = np.minimum(codes[first], codes[second])
        closer = codes.copy()
        np.minimum.at(closer, first, low)
        np.minimum.at(closer, second, low)
        # Replace each code by its own code, so that long chains converge in few rounds.
        closer = closer[closer]
        if np.array_equal(closer, codes):
            return codes
        codes = closer
