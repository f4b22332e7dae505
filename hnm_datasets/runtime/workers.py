"""The process that a step runs in: alone, or one of several workers."""

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
    """Tell whether this process is a worker of a pool, whose siblings have the other cores."""
    # `Dataset.map(num_proc=...)` starts its workers with `multiprocess`, a fork of the standard library's module.
    return any(module.parent_process() is not None for module in (multiprocessing, multiprocess))


def prepare_before_workers(step: type) -> None:
    """Let a class of steps prepare itself when it is sent to a worker process, and not when it is only hashed.

    `Dataset.map` pickles a step with its hasher, also where the answer is cached, and with the pickler of its pool,
    only where there is work to do. The second one asks the step to prepare, in the process that starts the workers.
    """
    for module in (multiprocessing.reduction, multiprocess.reduction):
        module.ForkingPickler.register(step, _reduce_prepared)


def _reduce_prepared(step: Any) -> Any:
    step.prepare()
    return step.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


def imported_ray(asking: str) -> Any:
    """Return the module of Ray, or say what to install."""
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"{asking} needs Ray. To install it: pip install 'hnm-datasets[ray]'.") from error
    return ray


def in_ray_worker() -> bool:
    """Tell whether this process runs the tasks of a Ray cluster; the one that gives them out does not."""
    # Where nothing has imported Ray, nothing runs under it.
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
    """Let torch compute with one thread, because the caller has threads of its own."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
