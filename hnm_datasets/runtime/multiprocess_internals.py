"""Internals of `multiprocess`, which a new release may change.

`Dataset.map(num_proc=...)` starts its workers with it. It is a fork of the standard library's `multiprocessing`.
"""

from __future__ import annotations

import multiprocessing.reduction
import threading
from collections.abc import Callable
from typing import Any

import multiprocess
import multiprocess.reduction
import multiprocess.util
from multiprocess.pool import TERMINATE


def reduce_for_workers(kind: type, reduce: Callable[[Any], Any]) -> None:
    """Pickle objects of a class with a function when a pool sends them to a worker process."""
    for module in (multiprocessing.reduction, multiprocess.reduction):
        module.ForkingPickler.register(kind, reduce)


def in_ending_pool() -> bool:
    """Return whether this thread belongs to a pool that is being terminated, for example by Ctrl-C."""
    return bool(getattr(threading.current_thread(), "_state", None) == TERMINATE)


def call_in_pool_workers(function: Callable[[], None]) -> None:
    """Call a function of a module in each pool worker: before it waits for tasks, or when it imports the module."""

    def call(_: object = None) -> None:
        if multiprocess.parent_process() is not None and "PoolWorker" in multiprocess.current_process().name:
            function()

    # The registry keeps only a weak reference to its first argument.
    multiprocess.util.register_after_fork(function, call)
    call()
