"""Verifying that a folder still contains the bytes that were written.

A complete folder has a manifest with the size and hash of each file. Hashing takes about a second per few gigabytes, so
a stamp next to the manifest records the state of each file when its hash was last verified: size, inode, modification
time (mtime) and change time (ctime). Every write changes the ctime, and programs cannot set it. If all states match the
stamp, nothing is hashed. A folder that was copied or damaged is hashed once.

A folder is verified when it is opened. Later changes to files that a process has mapped are not detected: the compiled
loops, such as those of BM25, do not check row numbers and offsets.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import xxhash

from hnm_datasets.storage.about import About
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.json_files import read_object
from hnm_datasets.storage.json_values import typed
from hnm_datasets.storage.used import mark_used
from hnm_datasets.storage.writing import sync, written_aside

_MANIFEST = "manifest.json"
_STAMP = ".verified.json"
#: The resolution of file system timestamps in nanoseconds. Two changes within this time may look like one.
_TICK = 100_000_000
#: The number of bytes mapped at a time.
_WINDOW = 1 << 28

#: Size, inode, mtime and ctime in nanoseconds.
State = tuple[int, int, int, int]


class Stamp(NamedTuple):
    """The states of verified files, and the time of the verification in nanoseconds."""

    states: Mapping[str, State]
    noted: int

    def is_settled(self, name: str) -> bool:
        """Return whether any change after the verification would have changed the state of the file."""
        return self.noted - max(self.states[name][2:]) > _TICK


#: The folders that this process has verified.
_VERIFIED: dict[Path, Stamp] = {}


class DamagedFolderError(OSError):
    """A cache folder does not contain the bytes that were written."""


def finish(folder: Path, names: Sequence[str], about: About | None = None) -> None:
    """Mark a folder as complete: flush its files to disk and write the manifest.

    Args:
        folder: The folder.
        names: The files that the manifest lists.
        about: A description of the content, written to `about.json` first; None: none is written.
    """
    if about is not None:
        about.write(folder)
    for name in names:
        sync(folder / name)
    states = {name: state_of(folder / name) for name in names}
    files = {name: (state[0], digest_file(folder / name)) for name, state in states.items()}
    with written_aside(folder / _MANIFEST) as aside:
        aside.write_text(json.dumps({"digest": fingerprint(files), "files": files}, indent=1))
    write_stamp(folder, states | _states(folder, ()))


def unfinish(folder: Path) -> None:
    """Remove the mark that a folder is complete."""
    (folder / _MANIFEST).unlink(missing_ok=True)


def is_finished(folder: Path) -> bool:
    """Return whether a folder was marked as complete, without verifying it."""
    return (folder / _MANIFEST).exists()


def is_complete(folder: Path) -> bool:
    """Return whether a folder was marked as complete and contains the bytes that were written."""
    return fault(folder) is None


def check_complete(folder: Path, content: str, way_out: str) -> None:
    """Note that a folder is opened. Raise an error unless it is complete and contains the bytes that were written.

    Args:
        folder: The folder.
        content: Its content with a name, such as "The corpus 1f…".
        way_out: What the user can do, as a sentence.

    Raises:
        FileNotFoundError: The folder does not exist or is incomplete.
        DamagedFolderError: The folder is damaged.
    """
    found = fault(folder)
    if found is None:
        mark_used(folder)
        return
    if not is_finished(folder):
        raise FileNotFoundError(f"{content}: {folder.parent} has no complete folder for it. {way_out}")
    raise DamagedFolderError(f"{content}: the folder {folder} is damaged: {found}. {way_out}")


def fault(folder: Path, *, hash_all: bool = False) -> str | None:
    """Return the first fault of a folder as text; None if it contains the bytes that were written.

    Args:
        folder: The folder.
        hash_all: Also hash files whose states have not changed since the last verification.
    """
    if not hash_all:
        stamp = _VERIFIED.get(folder)
        if stamp is not None and _is_unchanged(folder, stamp):
            return None
        stamp = read_stamp(folder)
        if _is_unchanged(folder, stamp):
            _VERIFIED[folder] = stamp
            return None
    try:
        files = _read_manifest(folder)
    except FileNotFoundError:
        return f"{_MANIFEST!r} is missing"
    except (OSError, ValueError) as error:
        return f"{_MANIFEST!r} cannot be used: {error}"
    for name, (size, _) in files.items():
        try:
            found = (folder / name).stat().st_size
        except OSError as error:
            return f"{name!r} cannot be read: {error.strerror}"
        if found != size:
            return f"{name!r} has {found:,} bytes instead of {size:,}"
    try:
        stamp = Stamp(_states(folder, files), time.time_ns())
        for name, (_, digest) in files.items():
            if digest_file(folder / name) != digest:
                return f"{name!r} has changed since it was written"
    except OSError as error:
        return f"it cannot be read: {error}"
    write_stamp(folder, stamp.states)
    _VERIFIED[folder] = stamp
    return None


def _is_unchanged(folder: Path, stamp: Stamp) -> bool:
    """Return whether the manifest and all files of a folder still have the states of the last verification."""
    try:
        return _MANIFEST in stamp.states and all(
            stamp.is_settled(name) and state_of(folder / name) == state for name, state in stamp.states.items()
        )
    except OSError:
        return False


def _read_manifest(folder: Path) -> dict[str, tuple[int, str]]:
    content = read_object(folder / _MANIFEST)
    if "files" not in content:
        raise ValueError("it has no hashes, or is from another version")
    files: dict[str, tuple[int, str]] = typed(dict[str, tuple[int, str]], content["files"], "files")
    if content.get("digest") != fingerprint(files):
        raise ValueError("its digest does not match its content")
    if outside := [name for name in files if Path(name).name != name]:
        raise ValueError(f"it lists {outside[0]!r}, which is outside the folder")
    return files


# ---- states ------------------------------------------------------------------------------------------------------


def state_of(path: Path) -> State:
    """Return the state of a file, which changes whenever the file changes."""
    found = path.stat()
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _states(folder: Path, names: Iterable[str]) -> dict[str, State]:
    return {name: state_of(folder / name) for name in (_MANIFEST, *names)}


def read_stamp(folder: Path) -> Stamp:
    """Return the stamp of a folder; an empty stamp if it is missing or damaged."""
    path = folder / _STAMP
    try:
        written, content = path.stat().st_mtime_ns, read_object(path)
        states: dict[str, State] = typed(dict[str, State], content["states"], "states")
        if content.get("digest") != fingerprint(states):
            return Stamp({}, 0)
    except (OSError, ValueError, KeyError):
        return Stamp({}, 0)
    return Stamp(states, written)


def write_stamp(folder: Path, states: Mapping[str, State]) -> None:
    """Write the states of verified files, unless the folder is read-only or the disk is full."""
    with contextlib.suppress(OSError), written_aside(folder / _STAMP) as aside:
        aside.write_text(json.dumps({"digest": fingerprint(states), "states": states}))


def digest_file(path: Path) -> str:
    """Return the hash of a file as 32 hexadecimal digits, at a few gigabytes per second."""
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for start in range(0, size, _WINDOW):
            with mmap.mmap(file.fileno(), min(_WINDOW, size - start), access=mmap.ACCESS_READ, offset=start) as window:
                hasher.update(window)
    return hasher.hexdigest()
