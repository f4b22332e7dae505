"""Searching the shards of an index in parallel, in processes or Ray actors."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.indexes.base import Hits, ShardIndex
from hnm_datasets.runtime.ray_actors import actors_of
from hnm_datasets.runtime.workers import leave_interrupts_to_parent
from hnm_datasets.storage.folders import cache_root, cache_root_at

#: The hits of a shard, and the per-query constants of the scores.
Found = tuple[Hits, NDArray[np.float32] | None]
_SearchOne = Callable[[ShardIndex[Any], Any, int], Found]

#: Pools by process (a fork inherits pools, but not their threads), cache directory and number of workers.
_POOLS: dict[tuple[int, Path, int], ProcessPoolExecutor] = {}


def search_in_processes(
    search_one: _SearchOne, shards: Sequence[ShardIndex[Any]], workers: int, queries: Any, k: int
) -> list[Found]:
    """Search all shards in worker processes with `search_one`, which enforces the memory limit of each process."""
    name = os.getpid(), cache_root(), workers
    if name not in _POOLS:
        _POOLS[name] = ProcessPoolExecutor(workers, initializer=_begin_worker)
    tasks = [(search_one, shard, queries, k, cache_root()) for shard in shards]
    try:
        return list(_POOLS[name].map(_search_shard, tasks))
    except BrokenProcessPool:
        # A broken pool cannot recover; the next search starts new processes.
        _POOLS.pop(name, None)
        raise


def _begin_worker() -> None:
    """Exit the worker when its parent is killed, else it would wait forever; not at Ctrl-C, which breaks the pool."""
    leave_interrupts_to_parent()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _search_shard(task: tuple[_SearchOne, ShardIndex[Any], Any, int, Path]) -> Found:
    search_one, shard, queries, k, root = task
    with cache_root_at(root):
        return search_one(shard, queries, k)


def search_in_actors(name: str, shards: Sequence[ShardIndex[Any]], queries: Any, k: int) -> list[Found]:
    """Search all shards in Ray actors, one per shard. The actors stay alive for the next search."""
    import ray

    actors, shared = actors_of(name, _ShardActor, [(shard, cache_root()) for shard in shards]), ray.put(queries)
    found: list[Found] = ray.get([actor.search.remote(shared, k) for actor in actors])
    return found


class _ShardActor:
    """The actor of one shard."""

    def __init__(self, shard: ShardIndex[Any], root: Path) -> None:
        self.shard, self.root = shard, root

    def search(self, queries: Any, k: int) -> Found:
        """Search the shard."""
        with cache_root_at(self.root):
            return self.shard.search_shard(queries, k)
