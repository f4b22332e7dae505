"""Stores of model results on disk, by a hash of the input text.

A store is a folder of segments. A segment is written to a temporary file, renamed and never changed. So several
processes can add to a store at the same time, a killed process loses at most its last batch, and incomplete files are
never read. The name of a segment is the hash of its bytes: damaged segments are removed and computed again.
"""

from __future__ import annotations

import contextlib
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from hnm_datasets.storage.about import ABOUT, About
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.storage.manifest import State, digest_file, read_stamp, state_of, write_stamp
from hnm_datasets.storage.mapped import map_next, write_array
from hnm_datasets.storage.tables import KeyTable
from hnm_datasets.storage.used import mark_used
from hnm_datasets.storage.writing import removed_on_error, sync, writing

logger = logging.getLogger(__name__)

#: The number of segments above which small segments are merged.
_SEGMENTS = 32
_NAME = re.compile(r"[0-9a-f]{32}\.npy")


class SegmentOf(Protocol):
    """A file of a store: a table of keys, and their content."""

    @property
    def table(self) -> KeyTable:
        """The row number of each key in the segment."""


#: The content of B keys.
Rows = TypeVar("Rows")
Segment = TypeVar("Segment", bound=SegmentOf)


class Store(ABC, Generic[Rows, Segment]):
    """A map from 128-bit keys to results, in a folder in the cache directory.

    Args:
        kind: A plural noun for the content, such as `"vectors"`.
        name: The fingerprint of the model and options that computed the content.
        about: A description of the content.
    """

    def __init__(self, kind: str, name: str, about: About | None = None) -> None:
        self._folder = cache_root() / kind / name
        self._about = about
        self._segments: dict[str, Segment] = {}
        #: The names of damaged segments, which cannot be removed from a read-only folder.
        self._damaged: set[str] = set()

    @abstractmethod
    def _find(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], Rows]:
        """Look up keys of shape (B, 2) in the open segments; see `find`."""

    @abstractmethod
    def _arrays(self, rows: Rows) -> tuple[NDArray[Any], ...]:
        """Return the arrays to write for rows."""

    @abstractmethod
    def _open(self, path: Path) -> Segment:
        """Map a segment. Raise a ValueError or OSError if the file is invalid."""

    @abstractmethod
    def _content(self, segments: list[Segment]) -> Rows:
        """Concatenate the rows of segments, each in the order of its keys."""

    def find(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], Rows]:
        """Look up rows.

        Args:
            keys: Digests of shape (B, 2).

        Returns:
            Which keys are known, shape (B,), and their rows. The rows of unknown keys are undefined.
        """
        known, rows = self._find(keys)
        if not known.all() and self._refresh():
            known, rows = self._find(keys)
        return known, rows

    def _lookup(self, keys: NDArray[np.uint64]) -> Iterator[tuple[Segment, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield each segment with the numbers of its keys and their rows in the segment."""
        pending = np.arange(len(keys))
        for segment in self._segments.values():
            if not len(pending):
                break
            rows = segment.table.find(keys[pending])
            here = rows >= 0
            yield segment, pending[here], rows[here]
            pending = pending[~here]

    def add(self, keys: NDArray[np.uint64], rows: Rows) -> None:
        """Add the rows of keys of shape (B, 2).

        Raises:
            FolderWriteError: The disk is full, or writing is not permitted.
        """
        self._write(keys, rows)
        if len(self._segments) > _SEGMENTS:
            self._merge()

    def _write(self, keys: NDArray[np.uint64], rows: Rows) -> None:
        table = KeyTable.from_digests(keys)
        parts = (table.high, table.low, table.rows, *self._arrays(rows))
        aside = self._folder / ".segment.tmp"
        with writing(self._folder, sum(part.nbytes for part in parts)):
            self._folder.mkdir(parents=True, exist_ok=True)
            # Writers hold the lock, so an existing temporary file is from a killed process and can be overwritten.
            with FileLock(self._folder / "write.lock"), removed_on_error(aside):
                # A store is never finished, so its first segment says what it holds.
                if self._about is not None and not (self._folder / ABOUT).exists():
                    self._about.write(self._folder)
                with aside.open("wb") as file:
                    for part in parts:
                        write_array(file, part)
                sync(aside)
                path = self._folder / f"{digest_file(aside)}.npy"
                aside.replace(path)
                sync(self._folder)
        # Another process may already have merged the segment.
        with contextlib.suppress(FileNotFoundError):
            self._segments[path.name] = self._open(path)

    def _refresh(self) -> bool:
        """Open the segments of other processes; return whether there are new ones."""
        paths = [path for path in self._folder.glob("*.npy") if _NAME.fullmatch(path.name)]
        if paths:
            mark_used(self._folder)
        new = [path for path in paths if path.name not in self._segments and path.name not in self._damaged]
        if not new:
            return False
        before, stamp = len(self._segments), read_stamp(self._folder)
        verified: dict[str, State] = {}
        for path in new:
            # Another process may have merged and removed the segment.
            with contextlib.suppress(FileNotFoundError):
                state = state_of(path)
                if stamp.states.get(path.name) != state or not stamp.is_settled(path.name):
                    if digest_file(path) != path.stem:
                        self._remove(path)
                        continue
                    verified[path.name] = state
                self._segments[path.name] = self._open(path)
        if verified:
            existing = {path.name for path in paths}
            kept = {name: state for name, state in stamp.states.items() if name in existing and stamp.is_settled(name)}
            write_stamp(self._folder, kept | verified)
        return len(self._segments) > before

    def _remove(self, path: Path) -> None:
        """Remove a damaged segment, so that its rows are computed again."""
        logger.warning("%s is damaged: it has changed since it was written. Its rows are computed again.", path)
        self._damaged.add(path.name)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)

    def _merge(self) -> None:
        """Merge the smaller segments into one, so that lookups search few tables."""
        try:
            with FileLock(self._folder / "merge.lock").acquire(timeout=0):
                names = {path.name for path in self._folder.glob("*.npy")}
                self._segments = {name: segment for name, segment in self._segments.items() if name in names}
                by_size = sorted(self._segments, key=lambda name: len(self._segments[name].table.rows))
                small = by_size[: max(2, len(by_size) * 3 // 4)]
                if len(small) < _SEGMENTS // 2:
                    return
                segments = [self._segments[name] for name in small]
                tables = [segment.table for segment in segments]
                keys = [np.stack([table.high, table.low], axis=1) for table in tables]
                self._write(np.concatenate(keys), self._content(segments))
                for name in small:
                    (self._folder / name).unlink(missing_ok=True)
                    del self._segments[name]
        except Timeout:
            # Another process is merging.
            return


class _Segment(NamedTuple):
    """A table of keys and the rows, both memory-mapped."""

    table: KeyTable
    rows: NDArray[np.float32]


class Results(Store[NDArray[np.float32], _Segment]):
    """A store of float32 rows by 128-bit key, all of the same length D.

    Example:
        >>> from hnm_datasets.storage.digests import digest_strings
        >>> results = Results("vectors", "example")
        >>> results.add(digest_strings(["a", "b"]), np.float32([[1, 2], [3, 4]]))
        >>> known, rows = results.find(digest_strings(["b", "c"]))
        >>> known.tolist(), rows[0].tolist()
        ([True, False], [3.0, 4.0])
    """

    def _find(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Look up rows. Shape (B, D); D is 0 in an empty store."""
        known = np.zeros(len(keys), dtype=bool)
        width = next((segment.rows.shape[1] for segment in self._segments.values()), 0)
        rows = np.empty((len(keys), width), dtype=np.float32)
        for segment, which, numbers in self._lookup(keys):
            rows[which] = segment.rows[numbers]
            known[which] = True
        return known, rows

    def _arrays(self, rows: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        return (np.asarray(rows, dtype=np.float32),)

    def _open(self, path: Path) -> _Segment:
        with path.open("rb") as file:
            table, rows = mapped_table(file), mapped(file, "<f4", 2)
        if len(table.rows) > len(rows):
            raise ValueError(f"{path} is not a segment of a store.")
        return _Segment(table, rows)

    def _content(self, segments: list[_Segment]) -> NDArray[np.float32]:
        return np.concatenate([segment.rows[segment.table.rows] for segment in segments])


def mapped_table(file: BinaryIO) -> KeyTable:
    """Map the table of keys at the current position of a file, and move to its end."""
    high, low, rows = mapped(file, "<u8", 1), mapped(file, "<u8", 1), mapped(file, "<i8", 1)
    if not len(high) == len(low) == len(rows):
        raise ValueError("The table of keys is damaged.")
    return KeyTable(high, low, rows)


def mapped(file: BinaryIO, dtype: Any, ndim: int) -> NDArray[Any]:
    """Map the array at the current position of a file, and move to its end."""
    array = map_next(file)
    if array.dtype != np.dtype(dtype) or array.ndim != ndim:
        raise ValueError(f"The array is {array.dtype} with shape {array.shape}, expected {dtype}, {ndim} dimensions.")
    return array
