"""Results that cost a model's time, kept on disk by the text that they were computed from.

A store is a folder of segments. A segment is written aside and renamed, and never changed, so that any number of
processes may add to a store at once, a killed one loses at most its last batch, and nothing half-written is ever read.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from hnm_datasets.storage.folders import cache_root, umask
from hnm_datasets.storage.tables import KeyTable

#: Segments that a store may have before small ones are merged.
_SEGMENTS = 32


class Results:
    """Rows of float32 numbers by 128-bit key, in a folder under the cache directory.

    Args:
        kind: The plural noun of what is kept, such as `"vectors"`.
        name: The fingerprint of what computed the rows.

    Example:
        >>> from hnm_datasets.storage.digests import digest_strings
        >>> results = Results("vectors", "example")
        >>> results.add(digest_strings(["a", "b"]), np.float32([[1, 2], [3, 4]]))
        >>> known, rows = results.find(digest_strings(["b", "c"]))
        >>> known.tolist(), rows[0].tolist()
        ([True, False], [3.0, 4.0])
    """

    def __init__(self, kind: str, name: str) -> None:
        self._folder = cache_root() / kind / name
        self._segments: dict[str, _Segment] = {}

    def find(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Look rows up.

        Args:
            keys: Digests of shape (B, 2).

        Returns:
            Which keys are known, shape (B,), and their rows, shape (B, D); what stands in the rows of unknown keys has
            no meaning. D is 0 in an empty store.
        """
        known, rows = self._find(keys)
        if not known.all() and self._refresh():
            known, rows = self._find(keys)
        return known, rows

    def _find(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        known = np.zeros(len(keys), dtype=bool)
        width = next((segment.rows.shape[1] for segment in self._segments.values()), 0)
        rows = np.empty((len(keys), width), dtype=np.float32)
        for segment in self._segments.values():
            pending = np.flatnonzero(~known)
            if not len(pending):
                break
            places = segment.table.find(keys[pending])
            here = places >= 0
            rows[pending[here]] = segment.rows[places[here]]
            known[pending[here]] = True
        return known, rows

    def add(self, keys: NDArray[np.uint64], rows: NDArray[np.float32]) -> None:
        """Keep rows. Shapes (B, 2) and (B, D); D is the same in all calls."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write(keys, rows)
        if len(self._segments) > _SEGMENTS:
            self._merge()

    def _write(self, keys: NDArray[np.uint64], rows: NDArray[np.float32]) -> None:
        table = KeyTable.from_digests(keys)
        handle, aside = tempfile.mkstemp(dir=self._folder, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                for part in (table.high, table.low, table.rows, np.asarray(rows, dtype=np.float32)):
                    np.save(file, part, allow_pickle=False)
            # Temporary files are for their owner alone; a cache may be shared.
            Path(aside).chmod(0o666 & ~umask())
            path = Path(aside).with_suffix(".npy")
            Path(aside).rename(path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
        self._open(path)

    def _open(self, path: Path) -> None:
        try:
            self._segments[path.name] = _Segment.open(path)
        except (OSError, EOFError, ValueError):
            # Cut short since it was written, or merged by another process a moment ago.
            return

    def _refresh(self) -> bool:
        """Open what other processes have written; tell whether there was anything."""
        if not self._folder.is_dir():
            return False
        before = len(self._segments)
        for path in self._folder.glob("*.npy"):
            if path.name not in self._segments:
                self._open(path)
        return len(self._segments) > before

    def _merge(self) -> None:
        """Write the smaller segments as one, so that a look-up stays a look-up in few tables."""
        try:
            with FileLock(self._folder / "merge.lock").acquire(timeout=0):
                names = {path.name for path in self._folder.glob("*.npy")}
                self._segments = {name: segment for name, segment in self._segments.items() if name in names}
                by_size = sorted(self._segments, key=lambda name: len(self._segments[name].rows))
                small = by_size[: max(2, len(by_size) * 3 // 4)]
                if len(small) < _SEGMENTS // 2:
                    return
                keys, rows = zip(*(self._segments[name].content() for name in small), strict=True)
                self._write(np.concatenate(keys), np.concatenate(rows))
                for name in small:
                    (self._folder / name).unlink(missing_ok=True)
                    del self._segments[name]
        except Timeout:
            # Another process is at it.
            return


class _Segment(NamedTuple):
    """One file of a store: a table of keys and the rows, both memory-mapped, so that a large store takes no memory."""

    table: KeyTable
    rows: NDArray[np.float32]

    @classmethod
    def open(cls, path: Path) -> _Segment:
        """Map a segment; a ValueError or OSError if it is none."""
        with path.open("rb") as file:
            high, low, places = _mapped(file, "<u8", 1), _mapped(file, "<u8", 1), _mapped(file, "<i8", 1)
            rows = _mapped(file, "<f4", 2)
        if not len(high) == len(low) == len(places) <= len(rows):
            raise ValueError(f"{path} is not a segment of a store.")
        return cls(KeyTable(high, low, places), rows)

    def content(self) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Return all keys and their rows."""
        return np.stack([self.table.high, self.table.low], axis=1), self.rows[self.table.rows]


def _mapped(file: BinaryIO, dtype: str, ndim: int) -> NDArray[Any]:
    """Map the array that begins where the file stands, and move to its end."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("The array is in another version of numpy's format.")
    shape, fortran_order, found = np.lib.format.read_array_header_1_0(file)
    if found != np.dtype(dtype) or len(shape) != ndim or fortran_order:
        raise ValueError(f"The array is {found} with shape {shape}, expected {dtype} of {ndim} dimensions.")
    begins = file.tell()
    # Nothing cannot be mapped. What can becomes a plain array: numpy's own class slows each slice down.
    array = np.asarray(np.memmap(file, found, "r", begins, shape)) if 0 not in shape else np.empty(shape, found)
    file.seek(begins + array.nbytes)
    return array
