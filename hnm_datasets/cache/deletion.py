"""Deletion of cache folders. A folder in use is kept, and a deletion never leaves half a folder under its name."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from hnm_datasets.hub.saving import lock_of
from hnm_datasets.hub.shards import beside
from hnm_datasets.storage.folders import leftover_of, new_leftover
from hnm_datasets.storage.used import Readers


def delete(folder: Path, root: Path, readers: Readers) -> str | None:
    """Delete a cache folder and return None, or keep it and return the reason.

    The folder is renamed while its writers' locks are held, and then removed. After an interruption, the rest has a
    name that the library never opens.

    Args:
        folder: A folder that `folders_in` found.
        root: The folder of the cache.
        readers: The processes that read it.
    """
    below = [one for one in (folder, *folder.parents) if one != root and one.is_relative_to(root)]
    if links := [one for one in below if one.is_symlink()]:
        return f"{links[0]} is a symbolic link"
    if processes := readers.of(folder):
        return _read_by(processes)
    try:
        with contextlib.ExitStack() as stack:
            for path in _locks_of(folder, root):
                stack.enter_context(FileLock(path, timeout=0))
            aside = _aside_of(folder, root)
            if aside != folder:
                folder.rename(aside)
            elif not folder.exists():
                raise FileNotFoundError
            shutil.rmtree(aside)
    except Timeout:
        return "a running process writes it"
    except FileNotFoundError:
        return "it no longer exists"
    except OSError as error:
        return f"it cannot be deleted: {error.strerror or error}"
    return None


def _read_by(processes: list[int]) -> str:
    if os.getpid() in processes:
        return "this process has it open; delete it after a restart"
    if len(processes) == 1:
        return f"the process {processes[0]} has it open"
    return f"the processes {', '.join(map(str, processes))} have it open"


def _aside_of(folder: Path, root: Path) -> Path:
    """Return the name that a folder gets before it is removed."""
    if folder.parent.parent == root / "pushes":
        if folder.name.startswith("."):
            return folder
        # The next save would treat any other name as the previous version of the dataset.
        aside = beside(folder, "new")
        shutil.rmtree(aside, ignore_errors=True)
        return aside
    # The library never opens leftovers, nor models for Ray workers, by their names.
    return folder if leftover_of(folder) or folder.parent == root else new_leftover(folder)


def _locks_of(folder: Path, root: Path) -> Iterator[Path]:
    """Yield the lock files that writers of a folder hold."""
    if folder.parent.parent == root / "pushes":
        saved = folder.name.removeprefix(".").removesuffix(".hnm_datasets.new")
        yield lock_of(folder.with_name(saved if folder.name.startswith(".") else folder.name).resolve())
        return
    own = folder.with_name(f"{leftover_of(folder) or folder.name}.lock")
    yield from (path for path in (own, *folder.rglob("*.lock")) if path.exists())
