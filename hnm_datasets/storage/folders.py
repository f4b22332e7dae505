"""Folders under the `datasets` cache directory: written aside, renamed when whole, opened memory-mapped.

A folder is named by the fingerprint of its content, so it is written once and never changed. `build_once` is the only
way in: it opens a finished folder or makes it. Inside a folder live plain numpy files and string columns (offsets and
bytes), which many processes map at once without holding them twice; nothing in them is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

import datasets
from filelock import FileLock

_MANIFEST = "manifest.json"
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


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to, and rename it at the end, so that no reader sees half a file.

    Only one process may write to `path` at a time; a killed one leaves a file that the next one overwrites.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written_aside(Path(folder) / "numbers.json") as aside:
        ...         _ = aside.write_text("[1, 2]")
        ...     [path.name for path in Path(folder).iterdir()]
        ['numbers.json']
    """
    # A dot in front hides it from readers that list the folder.
    aside = path.with_name(f".{path.name}.tmp")
    try:
        yield aside
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def is_complete(folder: Path) -> bool:
    """Tell whether a folder was finished and none of its files has been cut short since."""
    try:
        sizes = json.loads((folder / _MANIFEST).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def finish(folder: Path, names: Sequence[str]) -> None:
    """Declare a folder finished by noting the sizes of its files."""
    with written_aside(folder / _MANIFEST) as aside:
        aside.write_text(json.dumps({name: (folder / name).stat().st_size for name in names}, indent=1))


def unfinish(folder: Path) -> None:
    """Take back that a folder is finished."""
    (folder / _MANIFEST).unlink(missing_ok=True)


def build_once(parent: Path, name: str, build: Callable[[Path], None], *, timeout: float = -1) -> Path:
    """Return the finished folder `parent/name`, building it first if need be.

    Two processes that ask at once build once; a killed build leaves nothing that is ever opened; a damaged folder is
    built again.

    Args:
        parent: The folder to build it in, such as `cache_root() / "corpora"`.
        name: The name of the folder, usually the fingerprint of its content.
        build: Fills the empty folder that it is given.
        timeout: Seconds to wait for another process that builds it; -1: no limit.

    Returns:
        The folder.

    Raises:
        filelock.Timeout: Another process is still building it.
    """
    folder = parent / name
    if is_complete(folder):
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(parent / f"{name}.lock", timeout=timeout):
        if is_complete(folder):
            return folder
        # Whoever left these was killed: we hold the lock, so nobody is writing them.
        for stale in parent.glob(f"{name}.*.tmp"):
            shutil.rmtree(stale)
        aside = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".tmp", dir=parent))
        try:
            build(aside)
            finish(aside, sorted(path.name for path in aside.iterdir()))
            if folder.exists():
                shutil.rmtree(folder)
            aside.chmod(0o777 & ~umask())
            aside.rename(folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    return folder


def folder_size(folder: Path) -> int:
    """Return the bytes of the files of a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def umask() -> int:
    """Return the permissions that this process takes from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
