"""Progress bars of a call that shows one of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from datasets.config import HF_DATASETS_DISABLE_PROGRESS_BARS

#: Whether `without_bars` hides bars that would be shown otherwise.
_HIDDEN: ContextVar[bool] = ContextVar("hidden_bars", default=False)


@contextmanager
def without_bars() -> Iterator[None]:
    """Show no further bars in this block, unless the environment of the process demands them.

    Example:
        >>> with without_bars():
        ...     are_progress_bars_disabled()
        True
    """
    # The environment has priority, and `datasets` warns of whoever tries.
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
    """Within `without_bars`, show the bars of this block: for work that may take hours.

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
