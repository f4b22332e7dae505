"""What a step may do depends on the process that it runs in: alone, or one of several workers."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator


def in_worker() -> bool:
    """Tell whether this process is a worker of a pool, whose siblings have the other cores."""
    # `Dataset.map(num_proc=...)` starts its workers with `multiprocess`, a fork of the standard library's module.
    modules = (multiprocessing, sys.modules.get("multiprocess"))
    return any(module is not None and module.parent_process() is not None for module in modules)


def threads() -> int:
    """One thread per core; one in a worker."""
    return (
        1 if in_worker() else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


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
