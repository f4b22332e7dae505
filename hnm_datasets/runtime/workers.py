"""What a step may do depends on the process that it runs in: alone, or one of several workers."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator
from typing import Any


def in_worker() -> bool:
    """Tell whether this process is a worker of a pool, whose siblings have the other cores."""
    # `Dataset.map(num_proc=...)` starts its workers with `multiprocess`, a fork of the standard library's module.
    modules = (multiprocessing, sys.modules.get("multiprocess"))
    return any(module is not None and module.parent_process() is not None for module in modules)


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
    """One thread per core; one in a worker, and as many as it was given cores in a worker of Ray."""
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
