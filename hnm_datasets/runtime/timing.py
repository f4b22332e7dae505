"""Measuring the time of named blocks, such as the phases of a refresh."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_SPENT: ContextVar[dict[str, float] | None] = ContextVar("spent", default=None)


@contextmanager
def clock() -> Iterator[dict[str, float]]:
    """Collect the seconds of all `clocked` blocks by name, until the end of this block.

    Example:
        >>> with clock() as spent, clocked("encode"):
        ...     pass
        >>> list(spent)
        ['encode']
    """
    spent: dict[str, float] = {}
    token = _SPENT.set(spent)
    try:
        yield spent
    finally:
        _SPENT.reset(token)


@contextmanager
def clocked(name: str) -> Iterator[None]:
    """Measure the seconds of a block for an enclosing `clock`."""
    spent = _SPENT.get()
    start = time.perf_counter()
    try:
        yield
    finally:
        if spent is not None:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - start
