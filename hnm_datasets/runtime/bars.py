"""Hiding the progress bars of nested calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from datasets.config import HF_DATASETS_DISABLE_PROGRESS_BARS

#: Whether `without_bars` has hidden the bars.
_HIDDEN: ContextVar[bool] = ContextVar("hidden_bars", default=False)


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide progress bars in this block, unless an environment variable enables them.

    Example:
        >>> with without_bars():
        ...     are_progress_bars_disabled()
        True
    """
    # The environment variable has priority, and `datasets` warns if code tries to change the setting.
    if are_progress_bars_disabled() or HF_DATASETS_DISABLE_PROGRESS_BARS is not None:
        yield
        return
    disable_progress_bars()
    token = _HIDDEN.set(True)
    try:
        yield
    finally:
        _HIDDEN.reset(token)
        enable_progress_bars()


@contextmanager
def with_bars() -> Iterator[None]:
    """Show progress bars in this block even within `without_bars`, for work that may take hours.

    Example:
        >>> before = are_progress_bars_disabled()
        >>> with without_bars(), with_bars():
        ...     are_progress_bars_disabled() == before
        True
    """
    if not _HIDDEN.get():
        yield
        return
    enable_progress_bars()
    try:
        yield
    finally:
        disable_progress_bars()
