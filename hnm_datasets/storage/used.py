"""The last use of cache folders, and the processes that use them now."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

#: An empty file with the time of the last use.
_MARK = ".used"
#: The lock in a temporary folder that other processes read.
IN_USE = "in_use.lock"
#: The minimum number of seconds between two updates.
_HOUR = 3600


def mark_used(folder: Path) -> None:
    """Record that a folder was opened, at most once an hour. Folders that cannot be written are skipped."""
    mark = folder / _MARK
    with contextlib.suppress(OSError):
        try:
            is_recent = time.time() - mark.stat().st_mtime < _HOUR
        except FileNotFoundError:
            is_recent = False
        if not is_recent:
            mark.touch()


def last_marked(folder: Path) -> float | None:
    """Return the last recorded use of a folder or its subfolders, in seconds since 1970; None if there is none."""
    times = []
    for mark in (folder / _MARK, *folder.glob(f"*/{_MARK}")):
        with contextlib.suppress(OSError):
            times.append(mark.stat().st_mtime)
    return max(times, default=None)


class Readers:
    """The processes that have files below a folder memory-mapped.

    Linux lists them in `/proc`; processes of other users are visible only to root. Other systems show none.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        inside = b" " + _as_listed(root)
        self._mapped: dict[int, set[bytes]] = {}
        for maps in Path("/proc").glob("[0-9]*/maps"):
            # The process may have ended, or belong to another user.
            with contextlib.suppress(OSError):
                lines = maps.read_bytes().split(b"\n")
                files = {line[line.index(inside) + 1 :] for line in lines if inside in line}
                if files:
                    self._mapped[int(maps.parent.name)] = files

    def of(self, folder: Path) -> list[int]:
        """Return the ids of the processes that have files of a subfolder mapped."""
        inside = _as_listed(folder)
        return sorted(process for process, files in self._mapped.items() if any(f.startswith(inside) for f in files))


def _as_listed(folder: Path) -> bytes:
    """Return the prefix of the paths of files in a folder, as `/proc` lists them."""
    # Line breaks are written as octal numbers.
    return os.fsencode(folder.resolve()).replace(b"\n", rb"\012") + b"/"
