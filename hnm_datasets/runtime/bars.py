"""Progress bars of a call that shows one of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from datasets.config import HF_DATASETS_DISABLE_PROGRESS_BARS


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
    try:
        yield
    finally:
        enable_progress_bars()
