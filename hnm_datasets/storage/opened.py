"""A per-process cache of opened resources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from hnm_datasets.storage.folders import cache_root

T = TypeVar("T")


class Opened(Generic[T]):
    """The opened resources of this process, by cache directory and name. Forked workers inherit them.

    Example:
        >>> opened: Opened[list[int]] = Opened()
        >>> opened.get("a", lambda: [1]) is opened.get("a", lambda: [2])
        True
    """

    def __init__(self) -> None:
        self._resources: dict[tuple[Path, str], T] = {}

    def get(self, name: str, open_: Callable[[], T]) -> T:
        """Return the resource with this name. Open it if it is not open."""
        key = (cache_root(), name)
        if key not in self._resources:
            self._resources[key] = open_()
        return self._resources[key]

    def forget(self, name: str) -> None:
        """Remove the resource with this name. The next `get` reopens it."""
        self._resources.pop((cache_root(), name), None)
