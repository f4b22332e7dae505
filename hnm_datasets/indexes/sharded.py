"""A sharded index, for indexes that do not fit into memory or on a single machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged, kept_offsets
from hnm_datasets.indexes.base import Hits, ShardIndex
from hnm_datasets.indexes.bm25 import BM25Index
from hnm_datasets.indexes.bm25_tokens import Tokens
from hnm_datasets.indexes.dense import DenseIndex
from hnm_datasets.indexes.shard_workers import search_in_actors, search_in_processes
from hnm_datasets.indexes.shards import merged_hits
from hnm_datasets.indexes.sparse import SparseIndex
from hnm_datasets.runtime.datasets_internals import convert_file_size_to_int
from hnm_datasets.runtime.workers import imported_ray, in_ray_worker, in_worker
from hnm_datasets.storage.digests import fingerprint

if TYPE_CHECKING:
    from hnm_datasets.corpus.passages import Corpus
    from hnm_datasets.models.embeddings import Embeddings
    from hnm_datasets.models.sparse_embeddings import SparseEmbeddings

_RAY = "ray"


@dataclass(frozen=True)
class ShardedIndex:
    """Search the indexes of all shards of a corpus and merge their hits.

    The results are those of a single index of the whole corpus. BM25 scores are the same too, because all shards use
    the document frequencies of the whole corpus; exact dense and sparse results are bit-identical. Different processes
    or machines that share the cache directory can build the shards (`index.prepare()`); each shard is built once.

    Args:
        shards: The indexes of all shards, which differ only in `shard`:
            `[BM25Index(corpus, shard=(i, 16)) for i in range(16)]`.
        memory: The maximum size of open index files, in bytes or as text such as `"8GB"`. Shards are closed to stay
            below this limit, except the one being searched. The limit applies to each worker process. None: all shards
            stay open, memory-mapped.
        workers: Search shards in parallel: in this number of processes, or in Ray actors (`"ray"`), one per shard,
            anywhere in the cluster. None: search one shard at a time, with all cores. Workers of `Dataset.map` always
            search one shard at a time.

    Raises:
        ImportError: `workers="ray"`, but Ray is not installed.
        TypeError: A shard is not an index, or an option has the wrong type.
        ValueError: A shard is missing or repeated, or the options of the shards differ.

    Example:
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> index = ShardedIndex([BM25Index(corpus, shard=(i, 3)) for i in range(3)], memory="1GB")
        >>> mined = queries.map(BM25Negatives(corpus, k=3, index=index), batched=True)
        >>> mined[0]["negative_ids"]
        ['richter-scale', 'tsunamis', 'san-francisco-1906']
    """

    shards: Sequence[BM25Index] | Sequence[DenseIndex] | Sequence[SparseIndex]
    memory: int | str | None = None
    workers: int | str | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        object.__setattr__(self, "shards", _checked_shards(name, self.shards))
        if self.memory is not None:
            try:
                memory = convert_file_size_to_int(self.memory)
            except (ValueError, AttributeError, TypeError):
                raise ValueError(
                    f"{name}: memory must be a number of bytes or a size such as '8GB', got {self.memory!r}."
                ) from None
            object.__setattr__(self, "memory", checks.whole_number(name, "memory", memory, low=1))
        if self.workers == _RAY:
            imported_ray(f"{name}: workers='ray'")
        elif self.workers is not None:
            if isinstance(self.workers, str):
                raise ValueError(f"{name}: workers must be a number of processes or 'ray', got {self.workers!r}.")
            object.__setattr__(self, "workers", checks.whole_number(name, "workers", self.workers, low=1))

    @property
    def corpus(self) -> Corpus:
        """The passages."""
        return self.shards[0].corpus

    @property
    def embeddings(self) -> Embeddings | SparseEmbeddings:
        """The vectors of the corpus, for dense or sparse shards."""
        first = self.shards[0]
        if isinstance(first, BM25Index):
            raise AttributeError("A ShardedIndex of BM25 shards has no embeddings.")
        return first.embeddings

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that depend on the shards, but not on `memory` and `workers`."""
        return fingerprint({"kind": "sharded", "shards": [shard.fingerprint for shard in self.shards]})

    def prepare(self) -> None:
        """Build all shards in the cache directory, unless they exist."""
        for shard in self.shards:
            shard.prepare()

    def encode(self, queries: Sequence[str]) -> Tokens:
        """Return the tokens of queries, for BM25 shards. All shards share one vocabulary."""
        first = self.shards[0]
        if not isinstance(first, BM25Index):
            raise AttributeError("A ShardedIndex of dense or sparse shards accepts vectors; they need no encoding.")
        self._close_others(first)
        return first.encode(queries)

    def search(self, queries: Any, k: int) -> Hits:
        """Return the k best passages of each query.

        Args:
            queries: B texts or their tokens for BM25, or B vectors in the form that the shards accept.
            k: Hits per query.

        Returns:
            Rows and scores of shape (B, k), see `Hits`.
        """
        encoded = self._encoded(queries)
        if self.workers is None or in_worker() or in_ray_worker():
            found = [self.search_one(shard, encoded, k) for shard in self._open_first()]
        elif self.workers == _RAY:
            found = search_in_actors(self.fingerprint, self.shards, encoded, k)
        else:
            found = search_in_processes(self.search_one, self.shards, int(self.workers), encoded, k)
        hits = merged_hits([shard_hits for shard_hits, _ in found], k)
        # The constants depend on the query and the whole corpus, so they are the same in all shards.
        constants = found[0][1]
        return hits if constants is None else Hits(hits.rows, hits.scores + constants[:, None])

    def score(self, queries: Any, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Score given passages of each query. The scores are bit-identical to those of `search`.

        Args:
            queries: B texts or their tokens for BM25, or B vectors in the form that the shards accept.
            rows: B lists of row numbers, C in total.

        Returns:
            Shape (C,), aligned with `rows.values`.
        """
        encoded = self._encoded(queries)
        scores = np.empty(len(rows.values), dtype=np.float32)
        for shard in self._open_first():
            inside = (rows.values >= shard.rows.start) & (rows.values < shard.rows.stop)
            if inside.any():
                self._close_others(shard)
                shard_rows = Ragged(kept_offsets(rows.offsets, inside), rows.values[inside])
                scores[inside] = shard.score(encoded, shard_rows)
        return scores

    def search_one(self, shard: ShardIndex[Any], queries: Any, k: int) -> tuple[Hits, NDArray[np.float32] | None]:
        """Search one of the shards within the memory limit."""
        self._close_others(shard)
        return shard.search_shard(queries, k)

    def _encoded(self, queries: Any) -> Any:
        """Tokenize texts once for all shards."""
        is_texts = isinstance(self.shards[0], BM25Index) and not isinstance(queries, Tokens)
        return self.encode(queries) if is_texts else queries

    # ---- open shards ---------------------------------------------------------------------------------------------

    def _open_first(self) -> list[ShardIndex[Any]]:
        """Return the shards, starting with those that are open."""
        last = _RECENT.get(self.fingerprint, [])
        shards: list[ShardIndex[Any]] = list(self.shards)
        return sorted(shards, key=lambda shard: shard.fingerprint not in last)

    def _close_others(self, shard: ShardIndex[Any]) -> None:
        """Close the least recently used shards until this one fits into the memory limit."""
        if self.memory is None:
            return
        if self.fingerprint not in _RECENT:
            # Other users may have opened the shards before.
            for other in self.shards:
                other.close()
        recent = _RECENT.setdefault(self.fingerprint, [])
        if shard.fingerprint in recent:
            recent.remove(shard.fingerprint)
        by_name = {other.fingerprint: other for other in self.shards}
        while recent and shard.nbytes + sum(by_name[name].nbytes for name in recent) > int(self.memory):
            by_name[recent.pop(0)].close()
        recent.append(shard.fingerprint)


#: The shards that this process has opened, per sharded index, most recently used last.
_RECENT: dict[str, list[str]] = {}


def is_index_of(kind: type, index: object) -> bool:
    """Return whether an index has a given type, or is a `ShardedIndex` of this type."""
    if isinstance(index, ShardedIndex):
        return isinstance(index.shards[0], kind)
    return isinstance(index, kind)


def _checked_shards(name: str, shards: Any) -> tuple[BM25Index, ...] | tuple[DenseIndex, ...] | tuple[SparseIndex, ...]:
    if not isinstance(shards, Sequence) or not shards:
        raise TypeError(f"{name}: shards must be a list of indexes, such as [BM25Index(corpus, shard=(i, 16)) ...].")
    for shard in shards:
        if not isinstance(shard, (BM25Index, DenseIndex, SparseIndex)):
            raise TypeError(
                f"{name}: each shard must be a BM25Index, a DenseIndex or a SparseIndex, got {type(shard).__name__}."
            )
        if shard.shard is None:
            raise ValueError(f"{name}: got an index of the whole corpus. Create each shard with shard=(i, n).")
    found = tuple(sorted(shards, key=lambda index: index.shard))
    expected = [(number, len(found)) for number in range(len(found))]
    if [index.shard for index in found] != expected:
        raise ValueError(
            f"{name}: the shards must be {expected}, each once, got {[index.shard for index in found]}. Some are "
            f"missing, or were created for another number of shards."
        )
    first = found[0]
    for index in found[1:]:
        differing = ["type"] if type(index) is not type(first) else _differing(first, index)
        if differing:
            raise ValueError(
                f"{name}: all shards must have the same type, corpus and options, but {first.shard} and {index.shard} "
                f"differ in {', '.join(differing)}. Create all of them with the same arguments except shard=(i, n)."
            )
    return found


def _differing(first: Any, second: Any) -> list[str]:
    names = [field.name for field in fields(first) if field.name != "shard"]
    return [name for name in names if getattr(first, name) != getattr(second, name)]
