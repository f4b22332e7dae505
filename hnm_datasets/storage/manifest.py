"""Whether a folder still holds the bytes that were written.

A finished folder has a manifest: the size and hash of each of its files. Hashing takes a second for some gigabytes, so
a stamp beside the manifest holds the state of each file when its hash was found right: size, inode, and when its
content and its inode last changed. The last of them changes with every write, and no program can set it. As long as
all states are those of the stamp, nothing is hashed; a folder that was copied or damaged is hashed once.

A folder is checked when it is opened. Bytes that change later in a file that a process has mapped are not noticed: the
compiled loops, such as those of BM25, read row numbers and offsets as they are.
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

from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.json_files import read_object
from hnm_datasets.storage.json_values import typed
from hnm_datasets.storage.writing import sync, written_aside

_MANIFEST = "manifest.json"
_STAMP = ".verified.json"
#: The clocks of file systems tick this slowly, in nanoseconds: of two changes that are closer only one is seen.
_TICK = 100_000_000
#: Bytes that are mapped at a time.
_WINDOW = 1 << 28

#: Size, inode, and when content and inode changed, in nanoseconds.
State = tuple[int, int, int, int]


class Stamp(NamedTuple):
    """The states of files whose hashes were right, and when that was noted, in nanoseconds."""

    states: Mapping[str, State]
    noted: int

    def is_settled(self, name: str) -> bool:
        """Return whether a file would have another state if it was changed after the hashing: the clock had ticked."""
        return self.noted - max(self.states[name][2:]) > _TICK


#: The folders that this process has found right, with their manifests and all files.
_VERIFIED: dict[Path, Stamp] = {}


class DamagedFolderError(OSError):
    """A folder of the cache does not hold the bytes that were written."""


def finish(folder: Path, names: Sequence[str]) -> None:
    """Declare a folder finished: bring its files to the disk and note their sizes and hashes."""
    for name in names:
        sync(folder / name)
    states = {name: state_of(folder / name) for name in names}
    files = {name: (state[0], digest_file(folder / name)) for name, state in states.items()}
    with written_aside(folder / _MANIFEST) as aside:
        aside.write_text(json.dumps({"digest": fingerprint(files), "files": files}, indent=1))
    write_stamp(folder, states | _states(folder, ()))


def unfinish(folder: Path) -> None:
    """Take back that a folder is finished."""
    (folder / _MANIFEST).unlink(missing_ok=True)


def is_finished(folder: Path) -> bool:
    """Tell whether a folder was finished, whatever became of it."""
    return (folder / _MANIFEST).exists()


def is_complete(folder: Path) -> bool:
    """Tell whether a folder was finished and holds the bytes that were written."""
    return fault(folder) is None


def check_complete(folder: Path, what: str, way_out: str) -> None:
    """Raise unless a folder was finished and holds the bytes that were written.

    Args:
        folder: The folder.
        what: What it holds, with its name, such as "The corpus 1f…".
        way_out: What a user does if it is not there, as a sentence.

    Raises:
        FileNotFoundError: There is no such folder, or it was never finished.
        DamagedFolderError: It was damaged.
    """
    found = fault(folder)
    if found is None:
        return
    if not is_finished(folder):
        raise FileNotFoundError(f"{what}: {folder.parent} holds no complete folder of it. {way_out}")
    raise DamagedFolderError(f"{what}: the folder {folder} is damaged: {found}. {way_out}")


def fault(folder: Path, *, hash_all: bool = False) -> str | None:
    """Return what is wrong with a folder, None if it holds the bytes that were written.

    Args:
        folder: The folder.
        hash_all: Hash also files whose states are those of the last time.
    """
    if not hash_all:
        stamp = _VERIFIED.get(folder)
        if stamp is not None and _is_as_it_was(folder, stamp):
            return None
        stamp = read_stamp(folder)
        if _is_as_it_was(folder, stamp):
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
            return f"{name!r} has {found:,} bytes and was written with {size:,}"
    try:
        stamp = Stamp(_states(folder, files), time.time_ns())
        for name, (_, digest) in files.items():
            if digest_file(folder / name) != digest:
                return f"{name!r} has other bytes than were written"
    except OSError as error:
        return f"it cannot be read: {error}"
    write_stamp(folder, stamp.states)
    _VERIFIED[folder] = stamp
    return None


def _is_as_it_was(folder: Path, stamp: Stamp) -> bool:
    """Return whether the manifest and all files of a folder are in the states in which their hashes were right."""
    try:
        return _MANIFEST in stamp.states and all(
            stamp.is_settled(name) and state_of(folder / name) == state for name, state in stamp.states.items()
        )
    except OSError:
        return False


def _read_manifest(folder: Path) -> dict[str, tuple[int, str]]:
    content = read_object(folder / _MANIFEST)
    if "files" not in content:
        raise ValueError("it holds no hashes, or is of another version")
    files: dict[str, tuple[int, str]] = typed(dict[str, tuple[int, str]], content["files"], "files")
    if content.get("digest") != fingerprint(files):
        raise ValueError("its content does not have the digest that it states")
    if outside := [name for name in files if Path(name).name != name]:
        raise ValueError(f"it names {outside[0]!r}, which is not in the folder")
    return files


# ---- states ------------------------------------------------------------------------------------------------------


def state_of(path: Path) -> State:
    """Return the state of a file; it changes whenever the file does."""
    found = path.stat()
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _states(folder: Path, names: Iterable[str]) -> dict[str, State]:
    return {name: state_of(folder / name) for name in (_MANIFEST, *names)}


def read_stamp(folder: Path) -> Stamp:
    """Return the stamp of a folder; an empty one if it has none, or a damaged one."""
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
    """Note the states of files whose hashes are right, unless the folder is read-only or the disk is full."""
    with contextlib.suppress(OSError), written_aside(folder / _STAMP) as aside:
        aside.write_text(json.dumps({"digest": fingerprint(states), "states": states}))


def digest_file(path: Path) -> str:
    """Hash the bytes of a file, some gigabytes a second: 32 hexadecimal digits."""
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for start in range(0, size, _WINDOW):
            with mmap.mmap(file.fileno(), min(_WINDOW, size - start), access=mmap.ACCESS_READ, offset=start) as window:
                hasher.update(window)
    return hasher.hexdigest()
