"""Folders under the `datasets` cache directory: written aside, renamed when whole, opened memory-mapped.

A folder is named by the fingerprint of its content, so it is written once and never changed. `build_once` is the only
way in: it opens a finished folder or makes it. Inside a folder live plain numpy files and string columns (offsets and
bytes), which many processes map at once without holding them twice; nothing in them is ever unpickled.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

import datasets
from filelock import FileLock, Timeout

from hnm_datasets.runtime.interrupts import interruptible
from hnm_datasets.storage.manifest import fault, finish, is_complete
from hnm_datasets.storage.writing import sync, umask, writing

logger = logging.getLogger(__name__)

#: The end of the names of folders that are being built.
_ASIDE = ".tmp"
#: The cache folder of this context, where it is not that of `datasets`.
_ROOT: ContextVar[Path | None] = ContextVar("cache_root", default=None)


def cache_root() -> Path:
    """Return the folder that holds everything the library keeps: corpora, indexes, vectors, scores."""
    return _ROOT.get() or Path(datasets.config.HF_DATASETS_CACHE) / "hnm_datasets"


@contextlib.contextmanager
def cache_root_at(folder: Path | None) -> Iterator[None]:
    """Use another cache folder in this block; None changes nothing. Other threads keep theirs."""
    token = _ROOT.set(cache_root() if folder is None else folder)
    try:
        yield
    finally:
        _ROOT.reset(token)


def build_once(parent: Path, name: str, build: Callable[[Path], None], *, timeout: float = -1) -> Path:
    """Return the finished folder `parent/name`, building it first if need be.

    Two processes that ask at once build once; a killed build leaves nothing that is ever opened; a damaged folder is
    built again, with a warning.

    Args:
        parent: The folder to build it in, such as `cache_root() / "corpora"`.
        name: The name of the folder, usually the fingerprint of its content.
        build: Fills the empty folder that it is given.
        timeout: Seconds to wait for another process that builds it; -1: no limit.

    Returns:
        The folder.

    Raises:
        filelock.Timeout: Another process is still building it.
        FolderWriteError: There is no room for it, or no right to write it.
    """
    folder = parent / name
    if is_complete(folder):
        return folder
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / f"{name}.lock", timeout=timeout):
            found = fault(folder)
            if found is None:
                return folder
            if folder.exists():
                logger.warning("%s is damaged (%s) and is made again.", folder, found)
            _remove_leftovers(parent, name)
            aside = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=_ASIDE, dir=parent))
            try:
                with interruptible(lambda: f"Interrupted: {folder} is unfinished and removed. Repeat the call."):
                    build(aside)
                finish(aside, sorted(path.name for path in aside.iterdir()))
                if folder.exists():
                    shutil.rmtree(folder)
                aside.chmod(0o777 & ~umask())
                aside.rename(folder)
                sync(parent)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
    return folder


def _remove_leftovers(parent: Path, own: str) -> None:
    """Remove what killed builds have left: whoever builds holds the lock of the name, as we do of our own."""
    for stale in parent.glob(f"[!.]*{_ASIDE}"):
        name = stale.name.removesuffix(_ASIDE).rpartition(".")[0]
        with contextlib.suppress(Timeout):
            lock = contextlib.nullcontext() if name == own else FileLock(parent / f"{name}.lock", timeout=0)
            with lock:
                shutil.rmtree(stale, ignore_errors=True)


def folder_size(folder: Path, pattern: str = "*") -> int:
    """Return the bytes of the files of a folder."""
    return sum(path.stat().st_size for path in folder.glob(pattern))
