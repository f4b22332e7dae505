"""What a process has opened, each thing once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from hnm_datasets.storage.folders import cache_root

T = TypeVar("T")


class Opened(Generic[T]):
    """Things that this process has opened, by cache folder and name; a forked worker inherits them.

    Example:
        >>> opened: Opened[list[int]] = Opened()
        >>> opened.get("a", lambda: [1]) is opened.get("a", lambda: [2])
        True
    """

    def __init__(self) -> None:
        self._things: dict[tuple[Path, str], T] = {}

    def get(self, name: str, open_: Callable[[], T]) -> T:
        """Return what has this name, opening it first if need be."""
        key = (cache_root(), name)
        if key not in self._things:
            self._things[key] = open_()
        return self._things[key]

    def forget(self, name: str) -> None:
        """Drop what has this name; the next `get` opens it again."""
        self._things.pop((cache_root(), name), None)
