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
from pathlib import Path

import datasets
from filelock import FileLock

_MANIFEST = "manifest.json"


#: Where things are kept instead of under `HF_DATASETS_CACHE`, the last one counts.
_ROOTS: list[Path] = []


def cache_root() -> Path:
    """Return the folder under which corpora and indexes are kept, inside `HF_DATASETS_CACHE`."""
    return _ROOTS[-1] if _ROOTS else Path(datasets.config.HF_DATASETS_CACHE) / "hnm_datasets"


@contextlib.contextmanager
def cache_root_at(folder: Path | None) -> Iterator[None]:
    """Keep corpora and indexes in another folder for a while; None changes nothing."""
    _ROOTS.append(cache_root() if folder is None else folder)
    try:
        yield
    finally:
        _ROOTS.pop()


def is_complete(folder: Path) -> bool:
    """Tell whether a folder was finished and none of its files has been cut short since."""
    try:
        sizes = json.loads((folder / _MANIFEST).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def finish(folder: Path, names: Sequence[str]) -> None:
    """Declare a folder finished by noting the sizes of its files."""
    aside = folder / f"{_MANIFEST}.tmp"
    aside.write_text(json.dumps({name: (folder / name).stat().st_size for name in names}, indent=1))
    aside.rename(folder / _MANIFEST)


def unfinish(folder: Path) -> None:
    """Take back that a folder is finished."""
    (folder / _MANIFEST).unlink(missing_ok=True)


def build_once(kind: str, name: str, build: Callable[[Path], None], *, timeout: float = -1) -> Path:
    """Return the finished folder `kind/name`, building it first if need be.

    Two processes that ask at once build once; a killed build leaves nothing that is ever opened; a damaged folder is
    built again.

    Args:
        kind: The plural noun of what is kept, such as `"corpora"`.
        name: The fingerprint of the content.
        build: Fills the empty folder that it is given.
        timeout: For how many seconds to wait for another process that builds it; -1: as long as it takes.

    Returns:
        The folder.

    Raises:
        filelock.Timeout: Another process has been building it all the while.
    """
    parent = cache_root() / kind
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
