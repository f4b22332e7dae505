"""Processes and Ray actors that search the shards of an index at the same time."""

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
from hnm_datasets.storage.folders import cache_root, cache_root_at

#: The hits of a shard, and the part of each query's scores that is the same for all passages.
Found = tuple[Hits, NDArray[np.float32] | None]
_SearchOne = Callable[[ShardIndex[Any], Any, int], Found]

#: By process, because a fork inherits them without their threads; by cache directory and number of workers.
_POOLS: dict[tuple[int, Path, int], ProcessPoolExecutor] = {}


def search_in_processes(
    search_one: _SearchOne, shards: Sequence[ShardIndex[Any]], workers: int, queries: Any, k: int
) -> list[Found]:
    """Search all shards in worker processes with `search_one`, which keeps each process below the memory limit."""
    name = os.getpid(), cache_root(), workers
    if name not in _POOLS:
        _POOLS[name] = ProcessPoolExecutor(workers, initializer=_end_with_parent)
    tasks = [(search_one, shard, queries, k, cache_root()) for shard in shards]
    try:
        return list(_POOLS[name].map(_search_shard, tasks))
    except BrokenProcessPool:
        # It never works again; the next search begins with new processes.
        _POOLS.pop(name, None)
        raise


def _end_with_parent() -> None:
    """End a worker when its parent was killed; it would wait for work forever."""
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
    """Search all shards in Ray actors, one for each shard, which stay for the next search."""
    import ray

    actors, asked = actors_of(name, _ShardActor, [(shard, cache_root()) for shard in shards]), ray.put(queries)
    found: list[Found] = ray.get([actor.search.remote(asked, k) for actor in actors])
    return found


class _ShardActor:
    """Holds one shard, in an actor."""

    def __init__(self, shard: ShardIndex[Any], root: Path) -> None:
        self.shard, self.root = shard, root

    def search(self, queries: Any, k: int) -> Found:
        """Search it."""
        with cache_root_at(self.root):
            return self.shard.search_shard(queries, k)
