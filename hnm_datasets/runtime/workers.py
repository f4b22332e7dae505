"""Detecting and preparing worker processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import multiprocess

from hnm_datasets.runtime.multiprocess_internals import call_in_pool_workers, reduce_for_workers
from hnm_datasets.runtime.ray_internals import is_worker


def in_worker() -> bool:
    """Return whether this process is a worker of a pool, so that other workers use the other cores."""
    # `Dataset.map(num_proc=...)` starts its workers with `multiprocess`, a fork of the standard library module.
    return any(module.parent_process() is not None for module in (multiprocessing, multiprocess))


def prepare_before_workers(step: type) -> None:
    """Make steps of a class call `prepare` when they are sent to a worker process, but not when they are hashed.

    `Dataset.map` pickles a step with its hasher, even if the result is cached, and with the pickler of its pool, only
    if there is work to do. Only the pickler of the pool calls `prepare`, in the process that starts the workers.
    """
    reduce_for_workers(step, _reduce_prepared)


def _reduce_prepared(step: Any) -> Any:
    step.prepare_for_workers()
    return step.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


def leave_interrupts_to_parent() -> None:
    """Ignore Ctrl-C in this worker. The parent process is interrupted too, and ends its workers."""
    # Only the main thread can set a handler. SIG_IGN would be inherited by child processes of the worker.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, lambda *_: None)


@contextlib.contextmanager
def children_leave_interrupts() -> Iterator[None]:
    """Make processes that are spawned in this block ignore Ctrl-C; outside of the main thread this does nothing.

    Example:
        >>> with children_leave_interrupts():
        ...     signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        True
    """
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    # Spawned processes inherit SIG_IGN, but no Python handler.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# An interrupted worker of `Dataset.map` may exit without releasing the lock that workers hold while waiting for tasks.
# The pool needs that lock to end its workers, and would wait forever.
call_in_pool_workers(leave_interrupts_to_parent)


def imported_ray(caller: str) -> Any:
    """Return the Ray module, or raise an ImportError with installation instructions."""
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"{caller} needs Ray. To install it: pip install 'hnm-datasets[ray]'.") from error
    return ray


def in_ray_worker() -> bool:
    """Return whether this process is a worker of a Ray cluster, not the driver."""
    # In a Ray worker, Ray has been imported.
    ray = sys.modules.get("ray")
    return ray is not None and is_worker(ray)


def threads() -> int:
    """Return the number of threads: all cores; 1 in a `map` worker; the assigned CPUs in a Ray worker."""
    if in_worker():
        return 1
    if in_ray_worker():
        return max(1, int(sys.modules["ray"].get_runtime_context().get_assigned_resources().get("CPU", 1)))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def single_threaded_torch() -> Iterator[None]:
    """Make torch use a single thread in this block, because the caller uses several threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
