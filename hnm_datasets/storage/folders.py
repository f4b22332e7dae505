"""Folders in the `datasets` cache directory: written under a temporary name, renamed when complete, memory-mapped.

A folder is named by the fingerprint of its content, so it is written once and never changed. All code uses
`build_once`, which returns a complete folder or builds it. The folders contain plain numpy files and string columns
(offsets and bytes), so that processes share the mapped memory. No pickle files are loaded.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

import datasets
from filelock import FileLock, Timeout

from hnm_datasets.runtime.interrupts import interruptible
from hnm_datasets.storage.about import About
from hnm_datasets.storage.manifest import fault, finish, is_complete
from hnm_datasets.storage.used import mark_used
from hnm_datasets.storage.writing import sync, umask, writing

logger = logging.getLogger(__name__)

#: The suffix of folders under construction.
_ASIDE = ".tmp"
#: The cache directory of this context, if it is not that of `datasets`.
_ROOT: ContextVar[Path | None] = ContextVar("cache_root", default=None)


def cache_root() -> Path:
    """Return the cache directory of the library: corpora, indexes, vectors, scores."""
    return _ROOT.get() or Path(datasets.config.HF_DATASETS_CACHE) / "hnm_datasets"


@contextlib.contextmanager
def cache_root_at(folder: Path | None) -> Iterator[None]:
    """Use another cache directory in this block; None: no change. Other threads are not affected."""
    token = _ROOT.set(cache_root() if folder is None else folder)
    try:
        yield
    finally:
        _ROOT.reset(token)


def build_once(
    parent: Path, name: str, build: Callable[[Path], None], about: About | None = None, *, timeout: float = -1
) -> Path:
    """Return the complete folder `parent/name`. Build it if it does not exist.

    If several processes make this call, only one of them builds the folder. An interrupted build leaves no folder that
    could be opened. A damaged folder is built again, with a warning.

    Args:
        parent: The parent folder, such as `cache_root() / "corpora"`.
        name: The name of the folder, usually the fingerprint of its content.
        build: A function that fills an empty folder.
        about: A description of the content. Every folder of the cache directory has one.
        timeout: Seconds to wait for another process that builds the folder; -1: no limit.

    Returns:
        The folder.

    Raises:
        filelock.Timeout: Another process is still building the folder.
        FolderWriteError: The disk is full, or writing is not permitted.
    """
    folder = parent / name
    if is_complete(folder):
        mark_used(folder)
        return folder
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / f"{name}.lock", timeout=timeout):
            found = fault(folder)
            if found is None:
                return folder
            if folder.exists():
                logger.warning("%s is damaged (%s). It is built again.", folder, found)
            _remove_leftovers(parent, name)
            aside = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=_ASIDE, dir=parent))
            try:
                with interruptible(lambda: f"Interrupted: {folder} was incomplete and is removed. Repeat the call."):
                    build(aside)
                finish(aside, sorted(path.name for path in aside.iterdir()), about)
                if folder.exists():
                    shutil.rmtree(folder)
                aside.chmod(0o777 & ~umask())
                aside.rename(folder)
                sync(parent)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
    mark_used(folder)
    return folder


def leftover_of(path: Path) -> str | None:
    """Return the name of the folder that an unfinished build or deletion belongs to; None for any other folder.

    Example:
        >>> leftover_of(Path("bm25/0f1e.a1b2c3d4.tmp")), leftover_of(Path("bm25/0f1e"))
        ('0f1e', None)
    """
    return path.name.removesuffix(_ASIDE).rpartition(".")[0] or None if path.name.endswith(_ASIDE) else None


def new_leftover(folder: Path) -> Path:
    """Return an unused path beside a folder that marks a folder as a leftover."""
    return folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}{_ASIDE}")


def _remove_leftovers(parent: Path, own: str) -> None:
    """Remove the folders of interrupted builds. A running build holds the lock of its name, as the caller does."""
    for stale in parent.glob(f"[!.]*{_ASIDE}"):
        name = leftover_of(stale)
        with contextlib.suppress(Timeout):
            lock = contextlib.nullcontext() if name == own else FileLock(parent / f"{name}.lock", timeout=0)
            with lock:
                shutil.rmtree(stale, ignore_errors=True)


def folder_size(folder: Path, pattern: str = "*") -> int:
    """Return the total size in bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.glob(pattern))
