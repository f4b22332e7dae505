"""A store of lists of different lengths, such as sparse vectors, in the same layout as `Results`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, first_positions, offsets_of
from hnm_datasets.storage.about import About
from hnm_datasets.storage.results import Store, mapped, mapped_table
from hnm_datasets.storage.tables import KeyTable


class _Segment(NamedTuple):
    """A table of keys and their lists, all memory-mapped."""

    table: KeyTable
    offsets: NDArray[np.int64]
    values: NDArray[Any]


class ListResults(Store[Ragged[NDArray[np.generic]], _Segment]):
    """Lists of values by 128-bit key, in a folder under the cache directory.

    Args:
        kind: A plural noun for the content, such as `"vectors"`.
        name: The fingerprint of the model and options that computed the lists.
        dtype: The type of a value.
        ndim: 1 for lists of values; 2 for lists of rows of values, all of the same length.
        about: A description of the content.

    Example:
        >>> from hnm_datasets.storage.digests import digest_strings
        >>> results = ListResults("vectors", "lists", np.dtype("<i4"))
        >>> results.add(digest_strings(["a", "b"]), Ragged(np.array([0, 1, 3]), np.int32([5, 6, 7])))
        >>> known, lists = results.find(digest_strings(["b", "c"]))
        >>> known.tolist(), lists.offsets.tolist(), lists.values.tolist()
        ([True, False], [0, 2, 2], [6, 7])
    """

    def __init__(self, kind: str, name: str, dtype: np.dtype[Any], ndim: int = 1, about: About | None = None) -> None:
        super().__init__(kind, name, about)
        self._dtype, self._ndim = dtype, ndim

    def _find(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], Ragged[NDArray[np.generic]]]:
        known, lengths = np.zeros(len(keys), dtype=bool), np.zeros(len(keys), dtype=np.int64)
        found = list(self._lookup(keys))
        for segment, which, rows in found:
            known[which] = True
            lengths[which] = segment.offsets[rows + 1] - segment.offsets[rows]
        offsets = offsets_of(lengths)
        # Set the width even if nothing is found, so that rows of another width are noticed before they are added.
        width = next((segment.values.shape[1:] for segment in self._segments.values()), (0,) * (self._ndim - 1))
        values = np.empty((offsets[-1], *width), dtype=self._dtype)
        for segment, which, rows in found:
            at = first_positions(offsets[which], lengths[which])
            values[at] = segment.values[first_positions(segment.offsets[rows], lengths[which])]
        return known, Ragged(offsets, values)

    def _arrays(self, rows: Ragged[NDArray[np.generic]]) -> tuple[NDArray[Any], ...]:
        return rows.offsets, np.asarray(rows.values, dtype=self._dtype)

    def _open(self, path: Path) -> _Segment:
        with path.open("rb") as file:
            table, offsets, values = mapped_table(file), mapped(file, "<i8", 1), mapped(file, self._dtype, self._ndim)
        if len(table.rows) >= len(offsets) or offsets[-1] != len(values):
            raise ValueError(f"{path} is not a segment of a store.")
        return _Segment(table, offsets, values)

    def _content(self, segments: list[_Segment]) -> Ragged[NDArray[np.generic]]:
        lengths = [np.diff(segment.offsets)[segment.table.rows] for segment in segments]
        values = [
            segment.values[first_positions(segment.offsets[segment.table.rows], segment_lengths)]
            for segment, segment_lengths in zip(segments, lengths, strict=True)
        ]
        return Ragged(offsets_of(np.concatenate(lengths)), np.concatenate(values))
