"""The folders that the library keeps in the cache directory, found by their names and described by their `about.json`.

Folders with names that the library does not use are neither listed nor deleted. Symbolic links are not followed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hnm_datasets.hub.record import RECORD
from hnm_datasets.hub.shards import beside
from hnm_datasets.markdown import count
from hnm_datasets.storage.about import KINDS, in_words, read_about, short_name
from hnm_datasets.storage.folders import leftover_of
from hnm_datasets.storage.manifest import is_finished
from hnm_datasets.storage.used import IN_USE, last_marked

#: The kind of folders that killed runs and interrupted deletions left behind.
UNFINISHED = "unfinished"
#: Names derived from content; some end in a format number.
_NAME = re.compile(r"[0-9a-f]{32}(-\d+)?")
_GENERATION = re.compile(r"\d{6}")
#: A model saved for Ray workers.
_MODEL = re.compile(r"model\.\w{8}")
#: Stores grow while they are used and have no final state.
_STORES = ("vectors", "pair_scores")


@dataclass(frozen=True)
class CachedFolder:
    """A folder in the cache.

    Attributes:
        kind: The subfolder of the cache, such as `"bm25"`; `"unfinished"` for folders that a killed run left behind.
        what: A description of its content.
        nbytes: The total size of its files in bytes.
        created: The time of creation.
        last_used: The time of the last use, to the hour; the time of creation if unknown.
        path: The path of the folder.
        about: The content of its `about.json`; empty in folders of earlier versions.
    """

    kind: str
    what: str
    nbytes: int
    created: datetime
    last_used: datetime
    path: Path
    about: dict[str, Any]

    @property
    def names(self) -> set[str]:
        """The names that select it: its folder name, and the names and fingerprints of its corpus and model."""
        called = [self.about.get(one) for one in ("corpus_name", "model_name", "corpus", "model")]
        names = {name for one in called if isinstance(one, str) for name in (one, short_name(one))}
        return {self.path.name, *names} - {""}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        times = {name: getattr(self, name).isoformat(timespec="seconds") for name in ("created", "last_used")}
        return vars(self) | times | {"path": str(self.path)}


def folders_in(root: Path) -> tuple[list[CachedFolder], list[Path]]:
    """Return the folders of a cache in the order of their kinds, and the links that were not followed."""
    found: list[CachedFolder] = []
    links: list[Path] = []
    for kind in (*KINDS, ""):
        for path in _own(root / kind, kind, links):
            # Another process may delete a folder meanwhile.
            with contextlib.suppress(FileNotFoundError):
                found.append(_described(path, kind))
    return found, links


def _own(parent: Path, kind: str, links: list[Path]) -> Iterator[Path]:
    """Yield the folders of a kind that the library wrote; without a kind, the models for Ray workers."""
    if not kind:
        yield from (one for one in _directories(parent, []) if _MODEL.fullmatch(one.name) and (one / IN_USE).exists())
        return
    if parent.is_symlink():
        links.append(parent)
        return
    for path in _directories(parent, links):
        if kind == "pushes":
            # The name of a user or organization.
            yield from (one for one in _directories(path, links) if (one / RECORD).is_file() or _set_beside(one))
            continue
        if _NAME.fullmatch(leftover_of(path) or path.name):
            yield path
            if kind == "live" and not leftover_of(path):
                generations = _directories(path, links)
                yield from (one for one in generations if _GENERATION.fullmatch(leftover_of(one) or ""))


def _set_beside(path: Path) -> Path | None:
    """Return the dataset folder that an unfinished folder was written for; None for other folders."""
    saved = path.with_name(path.name.removeprefix(".").removesuffix(".hnm_datasets.new"))
    return saved if path == beside(saved, "new") else None


def _directories(parent: Path, links: list[Path]) -> list[Path]:
    """Return the subfolders of a folder, without symbolic links."""
    try:
        with os.scandir(parent) as entries:
            there = sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    links += [Path(entry.path) for entry in there if entry.is_symlink() and entry.is_dir()]
    return [Path(entry.path) for entry in there if entry.is_dir(follow_symlinks=False)]


def _described(path: Path, kind: str) -> CachedFolder:
    about = read_about(path)
    if kind == "live" and not about:
        about = next((said for one in sorted(path.glob("[0-9]*")) if (said := read_about(one))), {})
    nbytes, changed = _size(path)
    created = _created(about, path, changed)
    used = max(last_marked(path) or 0.0, created)
    shown = kind if _is_whole(path, kind) else UNFINISHED
    what = _what(about, path, kind, is_whole=shown == kind)
    return CachedFolder(shown, what, nbytes, _time(created), _time(used), path, about)


def _is_whole(path: Path, kind: str) -> bool:
    if kind == "pushes":
        return _set_beside(path) is None
    if not kind or leftover_of(path):
        return False
    if kind in _STORES:
        return any(path.glob("*.npy"))
    if kind == "live":
        return any(is_finished(one) for one in path.glob("[0-9]*") if one.is_dir())
    return is_finished(path)


def _what(about: dict[str, Any], path: Path, kind: str, *, is_whole: bool) -> str:
    if not kind:
        return "a model for Ray workers, left by a killed run or in use by a running one"
    if kind == "pushes":
        return f"{KINDS[kind]}: {path.parent.name}/{path.name}"
    said = about.get("what")
    # The file may contain anything.
    words = said if isinstance(said, str) and said else _by_name(about, path, kind)
    if kind == "rows" and (mapped := len(list(path.glob("cache-*.arrow")))):
        words += f", {mapped} of these"
    if is_whole:
        return words
    if kind == "embeddings" and not leftover_of(path):
        done = len(list(path.glob("shards/*.done")))
        return f"{words}; {count(done, 'shard')} finished; repeat the same call to resume"
    return f"{words}; left by a killed run or written by a running one"


def _by_name(about: dict[str, Any], path: Path, kind: str) -> str:
    """Describe a folder of an earlier version by its name."""
    if about:
        return in_words(kind, about)
    words = in_words(kind, {"corpus": path.name} if kind == "shingles" else {})
    return f"{words}, of an earlier version and unknown origin" if _is_whole(path, kind) else words


def _time(seconds: float) -> datetime:
    """Return a time in the time zone of this machine."""
    return datetime.fromtimestamp(seconds).astimezone()


def _created(about: dict[str, Any], path: Path, changed: float) -> float:
    try:
        return datetime.fromisoformat(about["created"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        # The manifest is the last file to be written; a store has none.
        manifest = path / "manifest.json"
        return manifest.stat().st_mtime if manifest.exists() else changed


def _size(folder: Path) -> tuple[int, float]:
    """Return the total size of the files in a folder, and the time of their last change. Links are not followed."""
    total, changed = 0, folder.stat().st_mtime
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                state = (Path(parent) / name).lstat()
                total, changed = total + state.st_size, max(changed, state.st_mtime)
    return total, changed
