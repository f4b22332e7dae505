"""Indexes of the shards of a corpus, searched as one: for an index that does not fit into memory, or one machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets.utils.py_utils import convert_file_size_to_int
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
from hnm_datasets.runtime.workers import imported_ray, in_ray_worker, in_worker
from hnm_datasets.storage.digests import fingerprint

if TYPE_CHECKING:
    from hnm_datasets.corpus.passages import Corpus
    from hnm_datasets.models.embeddings import Embeddings
    from hnm_datasets.models.sparse_embeddings import SparseEmbeddings

_RAY = "ray"


@dataclass(frozen=True)
class ShardedIndex:
    """Search several indexes, each of a shard of one corpus, and merge their hits.

    The answer is that of one index of the whole corpus: for BM25 also the scores, because each shard knows the document
    frequencies of all, and for exact dense and for sparse search to the bit. Shards can be built by different processes
    or machines that share the cache directory (`index.prepare()`); each is built once.

    Args:
        shards: Indexes that differ in nothing but their `shard`, all of them:
            `[BM25Index(corpus, shard=(i, 16)) for i in range(16)]`.
        memory: How many bytes of index files may be open at once, such as `"8GB"`. Shards are closed again to stay
            below it, except the one that is searched. The limit holds for each worker process. None: all stay open,
            memory-mapped.
        workers: Search shards at the same time: in this many processes; or in Ray actors (`"ray"`), one for each shard,
            wherever the cluster has room. None: one after another, with all cores for each. Workers of `Dataset.map`
            search one after another in any case.

    Raises:
        ImportError: Ray is not installed, and `workers="ray"`.
        TypeError: A shard is no index, or an option is of the wrong type.
        ValueError: A shard is missing, there twice, or made with other options.

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
                    f"{name}: memory must be bytes, or a size such as '8GB', got {self.memory!r}."
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
        """The vectors of the corpus, of dense or sparse shards."""
        first = self.shards[0]
        if isinstance(first, BM25Index):
            raise AttributeError("A ShardedIndex of BM25 shards has no embeddings.")
        return first.embeddings

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that depend on the shards; how they are searched changes nothing."""
        return fingerprint({"kind": "sharded", "shards": [shard.fingerprint for shard in self.shards]})

    def prepare(self) -> None:
        """Build all shards and keep them in the cache directory, unless they are there."""
        for shard in self.shards:
            shard.prepare()

    def encode(self, queries: Sequence[str]) -> Tokens:
        """Return the tokens of queries, of BM25 shards; all shards share one vocabulary."""
        first = self.shards[0]
        if not isinstance(first, BM25Index):
            raise AttributeError("A ShardedIndex of dense or sparse shards takes vectors, which need no encoding.")
        self._make_room(first)
        return first.encode(queries)

    def search(self, queries: Any, k: int) -> Hits:
        """Return the k best passages of each query.

        Args:
            queries: B texts or their tokens for BM25, or B vectors as the shards take them.
            k: Hits per query.

        Returns:
            Rows and scores of shape (B, k), see `Hits`.
        """
        asked = self._encoded(queries)
        if self.workers is None or in_worker() or in_ray_worker():
            found = [self.search_one(shard, asked, k) for shard in self._open_first()]
        elif self.workers == _RAY:
            found = search_in_actors(self.fingerprint, self.shards, asked, k)
        else:
            found = search_in_processes(self.search_one, self.shards, int(self.workers), asked, k)
        hits = merged_hits([one for one, _ in found], k)
        # The constants depend on the query and the whole corpus, so they are the same in all shards.
        constants = found[0][1]
        return hits if constants is None else Hits(hits.rows, hits.scores + constants[:, None])

    def score(self, queries: Any, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the score of certain passages of each query, the same to the bit as `search` gives them.

        Args:
            queries: B texts or their tokens for BM25, or B vectors as the shards take them.
            rows: B lists of row numbers, C in all.

        Returns:
            Shape (C,), aligned with `rows.values`.
        """
        asked = self._encoded(queries)
        scores = np.empty(len(rows.values), dtype=np.float32)
        for shard in self._open_first():
            inside = (rows.values >= shard.rows.start) & (rows.values < shard.rows.stop)
            if inside.any():
                self._make_room(shard)
                own = Ragged(kept_offsets(rows.offsets, inside), rows.values[inside])
                scores[inside] = shard.score(asked, own)
        return scores

    def search_one(self, shard: ShardIndex[Any], queries: Any, k: int) -> tuple[Hits, NDArray[np.float32] | None]:
        """Search one of the shards, within the memory of the index."""
        self._make_room(shard)
        return shard.search_shard(queries, k)

    def _encoded(self, queries: Any) -> Any:
        """Tokenize texts once for all shards."""
        is_texts = isinstance(self.shards[0], BM25Index) and not isinstance(queries, Tokens)
        return self.encode(queries) if is_texts else queries

    # ---- open shards ---------------------------------------------------------------------------------------------

    def _open_first(self) -> list[ShardIndex[Any]]:
        """Return the shards, open ones before those that must be opened."""
        last = _RECENT.get(self.fingerprint, [])
        shards: list[ShardIndex[Any]] = list(self.shards)
        return sorted(shards, key=lambda shard: shard.fingerprint not in last)

    def _make_room(self, shard: ShardIndex[Any]) -> None:
        """Close the shards that were opened longest ago, until this one fits."""
        if self.memory is None:
            return
        if self.fingerprint not in _RECENT:
            # Shards may be open from before.
            for one in self.shards:
                one.close()
        recent = _RECENT.setdefault(self.fingerprint, [])
        if shard.fingerprint in recent:
            recent.remove(shard.fingerprint)
        by_name = {one.fingerprint: one for one in self.shards}
        while recent and shard.nbytes + sum(by_name[name].nbytes for name in recent) > int(self.memory):
            by_name[recent.pop(0)].close()
        recent.append(shard.fingerprint)


#: By sharded index, the shards that this process has opened, the latest last.
_RECENT: dict[str, list[str]] = {}


def is_index_of(kind: type, index: object) -> bool:
    """Return whether this is an index of a kind, of the whole corpus or of all its shards."""
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
            raise ValueError(f"{name}: an index of the whole corpus is no shard; make each with shard=(i, n).")
    found = tuple(sorted(shards, key=lambda one: one.shard))
    expected = [(number, len(found)) for number in range(len(found))]
    if [one.shard for one in found] != expected:
        raise ValueError(
            f"{name}: the shards must be {expected}, each once, and are {[one.shard for one in found]}. Some are "
            f"missing, or made for another number of shards."
        )
    first = found[0]
    for one in found[1:]:
        differing = ["kind"] if type(one) is not type(first) else _differing(first, one)
        if differing:
            raise ValueError(
                f"{name}: the shards must be of one kind, corpus and options, and {first.shard} and {one.shard} differ "
                f"in {', '.join(differing)}. Make all of them alike but for shard=(i, n)."
            )
    return found


def _differing(one: Any, other: Any) -> list[str]:
    names = [field.name for field in fields(one) if field.name != "shard"]
    return [name for name in names if getattr(one, name) != getattr(other, name)]
