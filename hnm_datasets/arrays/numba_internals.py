"""Internals of numba, which a new release may change."""

from __future__ import annotations

from typing import Any

from numba.core.caching import FunctionCache, NullCache

__all__ = ["FunctionCache", "NullCache", "keep_in"]


def keep_in(dispatcher: Any, cache: FunctionCache | NullCache) -> None:
    """Set the cache where a compiled function finds and keeps its machine code."""
    dispatcher._cache = cache
