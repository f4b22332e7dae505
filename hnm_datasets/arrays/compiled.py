"""Compiling loops with numba, and where the compiled code is kept.

Numba keeps compiled code as pickles, which it executes. So a folder of ours must belong to this user alone.
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
from numba.core.caching import FunctionCache, NullCache

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a loop that Python calls: it releases the interpreter lock, and its code is kept for the next process.

    The code is kept where numba keeps it: in `NUMBA_CACHE_DIR`, beside the package, or in the user's cache. Where none
    of them can be written, such as in a container without a home, it is kept in a folder of this user alone under the
    folder for temporary files; without such a folder, each process compiles.

    Only what Python calls is kept. Its helpers take plain `numba.njit`: helpers that are kept on their own fail now and
    then, when two processes compile at once.

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
        dispatcher._cache = _cache_of(function)
    except RuntimeError:
        dispatcher._cache = _NoCache()
    return dispatcher  # type: ignore[no-any-return]


@functools.cache
def _tell(how_often: str) -> None:
    """Say why the first call takes longer, once a process, but not in each worker of a pool."""
    if any(module.parent_process() is not None for module in (multiprocessing, multiprocess)):
        return
    logger.warning("Compiling loops, which takes some seconds, %s.", how_often)


class _NoCache(NullCache):  # type: ignore[misc]
    """Keeps nothing."""

    def load_overload(self, sig: Any, target_context: Any) -> None:
        """Find nothing."""
        _tell("in each process: set NUMBA_CACHE_DIR to a folder of your own to keep them")


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache, without which a loop runs as well."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return compiled code, None where there is none yet."""
        found = super().load_overload(sig, target_context)
        if found is None:
            _tell("once on this machine")
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep compiled code, unless the disk is full."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


def _cache_of(function: Callable[..., Any]) -> _Cache:
    """Return where the code of a function is kept; a RuntimeError if there is no folder for it."""
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
    """Return a folder that no other user can write to, made if need be; None: there is none."""
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
        logger.info("Compiled loops are kept in %s; set NUMBA_CACHE_DIR to keep them elsewhere.", folder)
        return folder
    return None


def _is_private(folder: Path) -> bool:
    """Return whether this is a folder, no link to one, of this user and closed to all others."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _is_trusted(parent: Path) -> bool:
    """Return whether no other user can exchange the folders of this one."""
    found = parent.stat()
    closed = not found.st_mode & 0o022 or bool(found.st_mode & stat.S_ISVTX)
    return closed and found.st_uid in (0, os.geteuid())
