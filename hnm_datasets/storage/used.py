"""When a folder of the cache was last used, and which processes use it now."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

#: An empty file whose time is that of the last use.
_MARK = ".used"
#: The lock in a temporary folder that other processes read.
IN_USE = "in_use.lock"
#: Seconds after which a use is noted again.
_HOUR = 3600


def mark_used(folder: Path) -> None:
    """Note that a folder was opened, at most once an hour; a folder that cannot be written stays as it is."""
    mark = folder / _MARK
    with contextlib.suppress(OSError):
        try:
            is_noted = time.time() - mark.stat().st_mtime < _HOUR
        except FileNotFoundError:
            is_noted = False
        if not is_noted:
            mark.touch()


def last_marked(folder: Path) -> float | None:
    """Return when a folder, or a folder in it, was last noted as used, in seconds since 1970; None: never."""
    times = []
    for mark in (folder / _MARK, *folder.glob(f"*/{_MARK}")):
        with contextlib.suppress(OSError):
            times.append(mark.stat().st_mtime)
    return max(times, default=None)


class Readers:
    """The processes that have mapped files below a folder, as far as the system shows them.

    Linux lists them in `/proc`, those of other users only to root. Elsewhere none are known.

    Args:
        root: The folder, as it is read now.
    """

    def __init__(self, root: Path) -> None:
        inside = b" " + _as_listed(root)
        self._mapped: dict[int, set[bytes]] = {}
        for maps in Path("/proc").glob("[0-9]*/maps"):
            # It may have ended, or be another user's.
            with contextlib.suppress(OSError):
                lines = maps.read_bytes().split(b"\n")
                files = {line[line.index(inside) + 1 :] for line in lines if inside in line}
                if files:
                    self._mapped[int(maps.parent.name)] = files

    def of(self, folder: Path) -> list[int]:
        """Return the ids of the processes that have mapped files of a folder below."""
        inside = _as_listed(folder)
        return sorted(process for process, files in self._mapped.items() if any(f.startswith(inside) for f in files))


def _as_listed(folder: Path) -> bytes:
    """Return how the paths of the files in a folder begin in a list of what is mapped."""
    # An octal number stands for a line break.
    return os.fsencode(folder.resolve()).replace(b"\n", rb"\012") + b"/"
