"""Detecting and preparing worker processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.reduction
import os
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import multiprocess
import multiprocess.reduction


def in_worker() -> bool:
    """Return whether this process is a worker of a pool, so that other workers use the other cores."""
    # `Dataset.map(num_proc=...)` starts its workers with `multiprocess`, a fork of the standard library module.
    return any(module.parent_process() is not None for module in (multiprocessing, multiprocess))


def prepare_before_workers(step: type) -> None:
    """Make steps of a class call `prepare` when they are sent to a worker process, but not when they are hashed.

    `Dataset.map` pickles a step with its hasher, even if the result is cached, and with the pickler of its pool, only
    if there is work to do. Only the pickler of the pool calls `prepare`, in the process that starts the workers.
    """
    for module in (multiprocessing.reduction, multiprocess.reduction):
        module.ForkingPickler.register(step, _reduce_prepared)


def _reduce_prepared(step: Any) -> Any:
    step.prepare()
    return step.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


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
    if ray is None or not hasattr(ray, "WORKER_MODE") or not ray.is_initialized():
        return False
    return bool(ray.get_runtime_context().worker.mode == ray.WORKER_MODE)


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
