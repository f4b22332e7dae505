"""Indexes of the parts of a corpus, searched as one: where the index does not fit into memory, or one machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets.utils.py_utils import convert_file_size_to_int
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged, kept_offsets
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.bm25 import BM25Index
from hnm_datasets.indexes.dense import DenseIndex
from hnm_datasets.indexes.shards import merged_hits
from hnm_datasets.runtime.workers import imported_ray, in_ray_worker, in_worker
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.folders import cache_root, cache_root_at

if TYPE_CHECKING:
    from hnm_datasets.corpus.passages import Corpus
    from hnm_datasets.models.embeddings import Embeddings

_RAY = "ray"
#: What a part finds, and for BM25 what the scores of each query get on top, shape (B,).
_Found = tuple[Hits, NDArray[np.float32] | None]


@dataclass(frozen=True)
class ShardedIndex:
    """Search several indexes, each of a part of one corpus, and merge what they find.

    The answer is that of one index of the whole corpus: for BM25 also the scores, because each part knows the document
    frequencies of all, and for exact dense search to the bit. Parts can be built by different processes or machines
    that share the cache directory; each is made once.

    Args:
        parts: Indexes that differ in nothing but their `part`, all of them:
            `[BM25Index(corpus, part=(i, 16)) for i in range(16)]`.
        memory: How many bytes of index files may be open at once, such as `"8GB"`; parts are closed again to stay below
            it, but for the one that is searched. Each worker process has as much. None: all stay open, memory-mapped.
        workers: Search parts at the same time: in as many processes; or in Ray actors (`"ray"`), one for each part,
            wherever the cluster has room. None: one after another, with all cores for each. Workers of `Dataset.map`
            search one after another in any case.

    Raises:
        ImportError: Ray is not installed, and `workers="ray"`.
        TypeError: A part is no index, or an option is of the wrong type.
        ValueError: A part is missing, there twice, or made with other options.

    Example:
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> index = ShardedIndex([BM25Index(corpus, part=(i, 3)) for i in range(3)], memory="1GB")
        >>> mined = queries.map(BM25Negatives(corpus, k=3, index=index), batched=True)
        >>> mined[0]["negative_ids"]
        ['richter-scale', 'tsunamis', 'san-francisco-1906']
    """

    parts: Sequence[BM25Index] | Sequence[DenseIndex]
    memory: int | str | None = None
    workers: int | str | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        object.__setattr__(self, "parts", _checked_parts(name, self.parts))
        if self.memory is not None:
            try:
                memory = convert_file_size_to_int(self.memory)
            except (ValueError, AttributeError, TypeError):
                raise ValueError(
                    f"{name}: memory must be bytes, or a size such as '8GB', got {self.memory!r}."
                ) from None
            object.__setattr__(self, "memory", checks.whole_number(name, "memory", memory, low=1))
            for part in self.parts:
                part.close()
        if self.workers == _RAY:
            imported_ray(f"{name}: workers='ray'")
        elif self.workers is not None:
            if isinstance(self.workers, str):
                raise ValueError(f"{name}: workers must be a number of processes or 'ray', got {self.workers!r}.")
            object.__setattr__(self, "workers", checks.whole_number(name, "workers", self.workers, low=1))

    @property
    def corpus(self) -> Corpus:
        """The passages."""
        return self.parts[0].corpus

    @property
    def embeddings(self) -> Embeddings:
        """The vectors of the corpus, of dense parts."""
        first = self.parts[0]
        if not isinstance(first, DenseIndex):
            raise AttributeError("A ShardedIndex of BM25 parts has no embeddings.")
        return first.embeddings

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that depend on the parts; how they are searched changes nothing."""
        return fingerprint({"kind": "sharded", "parts": [part.fingerprint for part in self.parts]})

    def search(self, queries: Any, k: int) -> Hits:
        """Return the k best passages of each query.

        Args:
            queries: B texts for BM25, or vectors of shape (B, D).
            k: Places per query.

        Returns:
            Rows and scores of shape (B, k), see `Hits`.
        """
        if self.workers is None or in_worker() or in_ray_worker():
            return _merged([self._search_part(part, queries, k) for part in self._open_first()], k)
        if self.workers == _RAY:
            import ray

            actors, asked = _actors(self), ray.put(queries)
            return _merged(ray.get([actor.search.remote(asked, k) for actor in actors]), k)
        return _merged(_search_in_pool(self, queries, k), k)

    def score(self, queries: Any, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the score of certain passages of each query, the same to the bit as `search` gives them.

        Args:
            queries: B texts for BM25, or vectors of shape (B, D).
            rows: B lists of row numbers, C in all.

        Returns:
            Shape (C,), aligned with `rows.values`.
        """
        scores = np.empty(len(rows.values), dtype=np.float32)
        for part in self._open_first():
            mine = (rows.values >= part.rows.start) & (rows.values < part.rows.stop)
            if mine.any():
                self._make_room(part)
                own = Ragged(kept_offsets(rows.offsets, mine), rows.values[mine])
                scores[mine] = part.score(queries, own)
        return scores

    # ---- what is open --------------------------------------------------------------------------------------------

    def _search_part(self, part: BM25Index | DenseIndex, queries: Any, k: int) -> _Found:
        self._make_room(part)
        return _search(part, queries, k)

    def _open_first(self) -> list[BM25Index | DenseIndex]:
        """Return the parts, those that are open before those that must be opened."""
        last = _RECENT.get(self.fingerprint, [])
        return sorted(self.parts, key=lambda part: part.fingerprint not in last)

    def _make_room(self, part: BM25Index | DenseIndex) -> None:
        """Close what was opened longest ago, until the part fits."""
        if self.memory is None:
            return
        recent = _RECENT.setdefault(self.fingerprint, [])
        if part.fingerprint in recent:
            recent.remove(part.fingerprint)
        by_name = {one.fingerprint: one for one in self.parts}
        while recent and part.nbytes + sum(by_name[name].nbytes for name in recent) > int(self.memory):
            by_name[recent.pop(0)].close()
        recent.append(part.fingerprint)


#: By sharded index, the parts that this process has opened, the latest last.
_RECENT: dict[str, list[str]] = {}
#: By process, because a fork inherits them without their threads; by cache directory and number of workers.
_POOLS: dict[tuple[int, Path, int], ProcessPoolExecutor] = {}
#: By sharded index and session of Ray.
_ACTORS: dict[str, list[Any]] = {}


def is_index_of(kind: type[BM25Index] | type[DenseIndex], index: object) -> bool:
    """Tell whether this is an index of a kind, of the whole corpus or of all its parts."""
    if isinstance(index, ShardedIndex):
        return isinstance(index.parts[0], kind)
    return isinstance(index, kind)


def _checked_parts(name: str, parts: Any) -> tuple[BM25Index, ...] | tuple[DenseIndex, ...]:
    if not isinstance(parts, Sequence) or not parts:
        raise TypeError(f"{name}: parts must be a list of indexes, such as [BM25Index(corpus, part=(i, 16)) ...].")
    for part in parts:
        if not isinstance(part, (BM25Index, DenseIndex)):
            raise TypeError(f"{name}: each part must be a BM25Index or a DenseIndex, got {type(part).__name__}.")
        if part.part is None:
            raise ValueError(f"{name}: an index of the whole corpus is no part; make each with part=(i, n).")
    found = tuple(sorted(parts, key=lambda part: part.part))
    expected = [(place, len(found)) for place in range(len(found))]
    if [part.part for part in found] != expected:
        raise ValueError(
            f"{name}: the parts must be {expected}, each once, and are {[part.part for part in found]}. Some are "
            f"missing, or made for another number of parts."
        )
    first = found[0]
    for part in found[1:]:
        # Not by `replace`, which would build another index to compare with.
        differing = ["kind"] if type(part) is not type(first) else _differing(first, part)
        if differing:
            raise ValueError(
                f"{name}: the parts must be of one kind, corpus and options, and {first.part} and {part.part} differ "
                f"in {', '.join(differing)}. Make all of them alike but for part=(i, n)."
            )
    return found


def _differing(one: Any, other: Any) -> list[str]:
    names = [field.name for field in fields(one) if field.name != "part"]
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def _search(part: BM25Index | DenseIndex, queries: Any, k: int) -> _Found:
    return part.search_sums(queries, k) if isinstance(part, BM25Index) else (part.search(queries, k), None)


def _merged(found: list[_Found], k: int) -> Hits:
    hits = merged_hits([one for one, _ in found], k)
    # Of BM25 the same in all parts, because it depends on the query and the whole corpus alone.
    extras = found[0][1]
    return hits if extras is None else Hits(hits.rows, hits.scores + extras[:, None])


def _search_in_pool(index: ShardedIndex, queries: Any, k: int) -> list[_Found]:
    """Search the parts in worker processes, each of which keeps below the index's memory."""
    assert isinstance(index.workers, int)
    name = os.getpid(), cache_root(), index.workers
    if name not in _POOLS:
        _POOLS[name] = ProcessPoolExecutor(index.workers, initializer=_end_with_parent)
    tasks = [(index, place, queries, k) for place in range(len(index.parts))]
    try:
        return list(_POOLS[name].map(_search_place, tasks))
    except BrokenProcessPool:
        # It never works again; the next search begins with new processes.
        _POOLS.pop(name, None)
        raise


def _end_with_parent() -> None:
    """Let a worker end when its parent was killed; else it would wait for its work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _search_place(task: tuple[ShardedIndex, int, Any, int]) -> _Found:
    index, place, queries, k = task
    return index._search_part(index.parts[place], queries, k)


def _actors(index: ShardedIndex) -> list[Any]:
    """Return an actor for each part, in this session of Ray."""
    import ray

    if not ray.is_initialized():
        ray.init()
    # Every new cluster counts its jobs from one; its nodes have other names.
    context = ray.get_runtime_context()
    name = f"{index.fingerprint}-{context.get_node_id()}-{context.get_job_id()}"
    if name not in _ACTORS:
        # An actor whose machine dies is started again elsewhere and asked again.
        remote = ray.remote(max_restarts=-1, max_task_retries=-1)(_Shard)
        _ACTORS[name] = [remote.remote(part, cache_root()) for part in index.parts]
    return _ACTORS[name]


class _Shard:
    """Holds one part, in an actor."""

    def __init__(self, part: BM25Index | DenseIndex, root: Path) -> None:
        self.part, self.root = part, root

    def search(self, queries: Any, k: int) -> _Found:
        """Search it."""
        with cache_root_at(self.root):
            return _search(self.part, queries, k)
