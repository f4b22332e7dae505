"""Compiling loops with numba, and caching the compiled code.

Numba caches compiled code in pickle files, which it executes. So the cache folder must be private to this user.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import multiprocess
import numba

from hnm_datasets.arrays.numba_internals import FunctionCache, NullCache, keep_in

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function that Python calls. It releases the GIL, and the compiled code is cached for later processes.

    The cache is that of numba: `NUMBA_CACHE_DIR`, next to the package, or the cache folder of the user. If none of them
    is writable, such as in a container without a home folder, the cache is a private folder in the system's folder for
    temporary files. Without such a folder, each process compiles.

    Use this decorator only for functions that Python calls. Their helpers use `numba.njit`: helpers with their own
    cache fail occasionally when two processes compile at the same time.

    Example:
        >>> @compiled
        ... def total(numbers):
        ...     return numbers.sum()
        >>> import numpy as np
        >>> int(total(np.arange(4)))
        6
    """
    dispatcher: Any = numba.njit(nogil=True)(function)
    try:
        keep_in(dispatcher, _cache_of(function))
    except RuntimeError:
        keep_in(dispatcher, _NoCache(function))
    return dispatcher  # type: ignore[no-any-return]


#: The messages that this process has logged.
_logged: set[str] = set()


def _warn(part: str, how_often: str) -> None:
    """Log once per process, but not in workers of a pool, why the first call takes longer.

    Args:
        part: The module of the first function that is compiled.
        how_often: How often its functions are compiled.
    """
    if how_often in _logged or any(one.parent_process() is not None for one in (multiprocessing, multiprocess)):
        return
    _logged.add(how_often)
    logger.warning(
        "Compiling the loops of %s, and of other parts when they are first used. This takes some seconds, %s.",
        part,
        how_often,
    )


class _NoCache(NullCache):  # type: ignore[misc]
    """A cache that stores nothing."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.part = function.__module__

    def load_overload(self, sig: Any, target_context: Any) -> None:
        """Return None."""
        _warn(self.part, "in each process. To cache the compiled code, set NUMBA_CACHE_DIR to a folder that you own")


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache, which ignores write errors."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self.part = function.__module__

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return compiled code, or None if it is not cached."""
        found = super().load_overload(sig, target_context)
        if found is None:
            _warn(self.part, "once per part on this machine: the compiled code is cached")
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Cache compiled code, unless the disk is full."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


def _cache_of(function: Callable[..., Any]) -> _Cache:
    """Return the cache of a function. Raise a RuntimeError if there is no folder for it."""
    try:
        return _Cache(function)
    except RuntimeError:
        folder = _private_folder()
        if folder is None:
            raise
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
    try:
        return _Cache(function)
    finally:
        numba.config.CACHE_DIR = before


@functools.cache
def _private_folder() -> Path | None:
    """Return a folder that only this user can write to, created on first use; None if there is no such folder."""
    if not hasattr(os, "geteuid"):
        return None
    try:
        parent = Path(tempfile.gettempdir())
        folder = parent / f"hnm_datasets-compiled-{os.geteuid()}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        usable = _is_trusted(parent) and _is_private(folder)
    except OSError:
        usable = False
    if usable:
        logger.info("Compiled loops are cached in %s. Set NUMBA_CACHE_DIR to use another folder.", folder)
        return folder
    return None


def _is_private(folder: Path) -> bool:
    """Return whether this is a folder (not a link) that only this user can access."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _is_trusted(parent: Path) -> bool:
    """Return whether no other user can replace the folders of this user."""
    found = parent.stat()
    closed = not found.st_mode & 0o022 or bool(found.st_mode & stat.S_ISVTX)
    return closed and found.st_uid in (0, os.geteuid())
