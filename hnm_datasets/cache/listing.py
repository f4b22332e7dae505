"""The list of the folders that the library keeps in the cache directory."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hnm_datasets import checks
from hnm_datasets.audit.tables import Report, Table, as_text
from hnm_datasets.cache.deletion import delete
from hnm_datasets.cache.folders import UNFINISHED, CachedFolder, folders_in
from hnm_datasets.markdown import count
from hnm_datasets.storage.about import KINDS
from hnm_datasets.storage.folders import cache_root, cache_root_at
from hnm_datasets.storage.used import Readers

_AGE = re.compile(r"(\d+)([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_SIZES = ("kB", "MB", "GB", "TB")
#: The number of digits that identify a fingerprint.
_DIGITS = 8
#: The maximum number of names in an error.
_SHOWN = 20


@dataclass(frozen=True, repr=False)
class Cached(Report):
    """Folders of the cache, as a table in a terminal and in a notebook. `cached` returns it.

    Its items have the attributes `kind`, `what`, `nbytes`, `created`, `last_used`, `path` and `about`.

    Args:
        root: The folder of the cache.
        folders: The listed folders, sorted by kind.
        total: The number of folders in the cache.
        links: Symbolic links in the cache. They are not followed, and their targets are not listed.

    Example:
        >>> from hnm_datasets import cached, load_sample
        >>> corpus, _ = load_sample("earthquakes")
        >>> for folder in cached("corpora", name=corpus.fingerprint):
        ...     print(folder.kind, folder.about["passages"], folder.path.name == corpus.fingerprint)
        corpora 9 True
    """

    root: Path
    folders: tuple[CachedFolder, ...]
    total: int
    links: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.folders)

    def __iter__(self) -> Iterator[CachedFolder]:
        return iter(self.folders)

    def __getitem__(self, index: int) -> CachedFolder:
        return self.folders[index]

    @property
    def nbytes(self) -> int:
        """The bytes of all files in these folders."""
        return sum(folder.nbytes for folder in self.folders)

    def delete(self) -> Deletion:
        """Delete these folders. The library rebuilds what it needs.

        Folders that a running process writes or reads are kept. Readers are detected on Linux; on other systems they
        keep the files that they have mapped. An interrupted deletion leaves a folder of the kind `"unfinished"`, which
        the library never opens.

        Returns:
            The folders that were deleted (`deleted`), and those that were kept with the reasons (`left`). It prints as
            text.
        """
        deleted, left = [], []
        readers = Readers(self.root)
        with cache_root_at(self.root):
            for folder in self.folders:
                reason = delete(folder.path, self.root, readers)
                if reason is None:
                    deleted.append(folder)
                else:
                    left.append((folder, reason))
        return Deletion(Cached(self.root, tuple(deleted), self.total), tuple(left))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        return {
            "root": str(self.root),
            "nbytes": self.nbytes,
            "folders": [folder.to_dict() for folder in self.folders],
            "links": [str(link) for link in self.links],
        }

    def _heading(self) -> str:
        if not self.folders:
            return (
                f"None of {count(self.total, 'folder')} in {self.root}" if self.total else f"Empty cache: {self.root}"
            )
        folders = count(self.total, "folder")
        some = folders if len(self) == self.total else f"{len(self):,} of {folders}"
        return f"{some}, {size_in_words(self.nbytes)}, in {self.root}"

    def _tables(self) -> list[Table]:
        if not self.folders and not self.links:
            return []
        names = ("kind", "what", "size", "created", "last used", "path") if self.folders else ()
        groups = self._groups()
        rows = tuple(
            (
                group[0].kind,
                group[0].what,
                size_in_words(sum(folder.nbytes for folder in group)),
                f"{min(folder.created for folder in group):%Y-%m-%d}",
                f"{max(folder.last_used for folder in group):%Y-%m-%d %H:%M}",
                str(group[0].path.relative_to(self.root)) if len(group) == 1 else f"{len(group):,} folders",
            )
            for group in groups
        )
        notes = [f"{link} is a link and is not followed." for link in self.links]
        if len(groups) < len(self):
            notes.append("Folders with the same description share a line. A list of one kind shows each of them.")
        return [Table("", names, rows, "\n".join(notes))]

    def _groups(self) -> list[list[CachedFolder]]:
        """Group folders with the same kind and description, unless all folders are of one kind."""
        if len({folder.kind for folder in self.folders}) == 1:
            return [[folder] for folder in self.folders]
        groups: dict[tuple[str, str], list[CachedFolder]] = {}
        for folder in self.folders:
            groups.setdefault((folder.kind, folder.what), []).append(folder)
        return list(groups.values())


@dataclass(frozen=True, repr=False)
class Deletion:
    """The result of a deletion.

    Attributes:
        deleted: The deleted folders.
        left: The folders that were kept, each with the reason.
    """

    deleted: Cached
    left: tuple[tuple[CachedFolder, str], ...]

    def __repr__(self) -> str:
        freed = size_in_words(self.deleted.nbytes)
        lines = [f"{count(len(self.deleted), 'folder')} deleted, {freed} freed."]
        lines += [f"Left: {folder.path}: {reason}." for folder, reason in self.left]
        return as_text("\n".join(lines), [])


def cached(
    kind: str | None = None,
    *,
    name: str | None = None,
    older_than: str | None = None,
    cache_folder: str | Path | None = None,
) -> Cached:
    """List the folders that the library keeps in its cache. `cached(...).delete()` deletes the listed folders.

    Only folders that the library has written are listed and deleted. All of them are safe to delete: the library
    rebuilds what it needs. The caches of `datasets` are left alone, except for results of `map` that are stored with
    rows in the kind `"rows"`, and are deleted with these rows.

    Args:
        kind: Only folders of this kind, such as `"embeddings"`; `"unfinished"` for folders that killed runs
            left behind; None: all.
        name: Only folders with this name: a model or corpus as the list shows it, the name of a folder, or the
            fingerprint of a model or corpus. The first 8 digits of a folder name or fingerprint are enough. None: all.
        older_than: Only folders that have not been used for this time: `"12h"`, `"30d"` or `"2w"` (hours, days,
            weeks); None: all.
        cache_folder: Another cache, such as that of `mine_hard_negatives(cache_folder=...)`; None: `hnm_datasets` in
            the cache directory of `datasets` (`HF_DATASETS_CACHE`).

    Returns:
        The folders. `print` shows a table.

    Raises:
        TypeError: An option is of another type.
        ValueError: The kind or name is unknown, or the age is invalid; the message lists the valid ones.

    Example:
        >>> from hnm_datasets import BM25Index, load_sample
        >>> corpus, _ = load_sample("earthquakes")
        >>> BM25Index(corpus).prepare()
        >>> found = cached("bm25", name=corpus.fingerprint)
        >>> found[0].kind, found[0].about["passages"], found[0].about["made_by"]
        ('bm25', 9, 'BM25Index')
        >>> cached("bm25", older_than="30d").delete()
        0 folders deleted, 0 bytes freed.
    """
    if kind is not None:
        checks.one_of("cached", "kind", kind, (*KINDS, UNFINISHED))
    age = None if older_than is None else _age(older_than)
    root = cache_root() if cache_folder is None else Path(cache_folder)
    found, links = folders_in(root)
    total = len(found)
    if name is not None:
        found = _named(found, name, root)
    if kind is not None:
        found = [folder for folder in found if folder.kind == kind]
    if age is not None:
        latest = datetime.now(UTC) - age
        found = [folder for folder in found if folder.last_used < latest]
    return Cached(root, tuple(found), total, tuple(links))


def _age(text: object) -> timedelta:
    if not isinstance(text, str):
        raise TypeError(f"cached: older_than must be a text such as '30d', got {text!r}.")
    found = _AGE.fullmatch(text)
    if found is None:
        raise ValueError(
            f"cached: older_than must be a whole number of hours, days or weeks, such as '12h', '30d' or '2w', got "
            f"{text!r}."
        )
    try:
        age = timedelta(**{_UNITS[found[2]]: int(found[1])})
        _ = datetime.now(UTC) - age
    except OverflowError:
        raise ValueError(f"cached: older_than={text!r} is too long.") from None
    return age


def _named(folders: list[CachedFolder], name: object, root: Path) -> list[CachedFolder]:
    """Return the folders with a name. If there are none, raise an error that lists the existing names."""
    if not isinstance(name, str):
        raise TypeError(f"cached: name must be a text, got {name!r}.")
    begins = bool(re.fullmatch(rf"[0-9a-f]{{{_DIGITS},}}", name))
    found = [
        folder
        for folder in folders
        if name in folder.names
        or name == str(folder.path.relative_to(root))
        or (begins and any(one.startswith(name) for one in folder.names))
    ]
    if not found and folders:
        called = sorted({one for folder in folders for one in folder.names if not re.match(r"[0-9a-f]{32}", one)})
        more = f" and {len(called) - _SHOWN} more" if len(called) > _SHOWN else ""
        raise ValueError(
            f"cached: nothing in {root} is named {name!r}. Models and corpora there: "
            f"{', '.join(map(repr, called[:_SHOWN])) or 'none with a name'}{more}. The list also shows the names of "
            f"folders."
        )
    return found


def size_in_words(nbytes: int) -> str:
    """Format a number of bytes.

    Example:
        >>> size_in_words(999), size_in_words(1_234_567), size_in_words(20_000_000_000)
        ('999 bytes', '1.2 MB', '20.0 GB')
    """
    if nbytes < 1000:
        return f"{nbytes} bytes"
    power = min(int(math.log10(1.00005 * nbytes)) // 3, len(_SIZES))
    return f"{nbytes / 1000**power:.1f} {_SIZES[power - 1]}"
