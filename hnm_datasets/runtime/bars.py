"""Progress bars. `datasets.disable_progress_bars()` hides them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from hnm_datasets.runtime.datasets_internals import HF_DATASETS_DISABLE_PROGRESS_BARS, tqdm
from hnm_datasets.runtime.interrupts import check_wanted
from hnm_datasets.runtime.workers import in_ray_worker, in_worker

#: Seconds before a bar appears, for loops that are short on most datasets.
DELAY = 2.0

#: Whether `without_bars` has hidden the bars.
_HIDDEN: ContextVar[bool] = ContextVar("hidden_bars", default=False)


class ProgressBar(tqdm):  # type: ignore[misc]
    """The progress bar of a long loop. A nested bar, such as one inside `map`, disappears when it is full.

    Worker processes show no bars, and with `accelerate launch` only the first rank of each machine does.

    Args:
        total: The number of units; None: unknown.
        desc: The action and its object, such as `"Embedding passages"`.
        unit: The name of the units, in the plural.
        initial: The number of units already done.
        options: Other options of tqdm, such as `delay=DELAY`.

    Example:
        >>> with ProgressBar(3, "Weighing passages", "passages", disable=True) as bar:
        ...     _ = bar.update(3)
    """

    def __init__(self, total: int | None, desc: str, unit: str, *, initial: int = 0, **options: Any) -> None:
        if in_worker() or in_ray_worker() or os.environ.get("LOCAL_RANK", "0") != "0":
            options["disable"] = True
        super().__init__(total=total, desc=desc, unit=f" {unit}", initial=initial, leave=None, **options)
        if not self.disable:
            # With None, tqdm would remove all bars in a notebook.
            self.leave = self.pos == 0

    def update(self, n: float | None = 1) -> bool | None:
        """Advance the bar; raise RuntimeError if Ctrl-C has ended the workers that this loop prepares."""
        check_wanted()
        moved: bool | None = super().update(n)
        return moved


def iter_with_bar(rows: Dataset, size: int, desc: str, unit: str = "rows") -> Iterator[Any]:
    """Yield the batches of `rows.iter(size)`, with a progress bar if that takes more than two seconds.

    Example:
        >>> [batch["n"] for batch in iter_with_bar(Dataset.from_dict({"n": [1, 2, 3]}), 2, "Reading numbers")]
        [[1, 2], [3]]
    """
    with ProgressBar(len(rows), desc, unit, delay=DELAY) as bar:
        for start, batch in zip(range(0, len(rows), size), rows.iter(size), strict=True):
            yield batch
            bar.update(min(size, len(rows) - start))


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
