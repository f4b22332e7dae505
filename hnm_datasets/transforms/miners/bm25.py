"""Lexical negatives, mined with BM25."""

from __future__ import annotations

import logging
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.bm25 import BM25Index
from hnm_datasets.indexes.bm25_tokens import Tokens
from hnm_datasets.indexes.sharded import ShardedIndex, is_index_of
from hnm_datasets.runtime.notices import tell_of_batch
from hnm_datasets.transforms.miners.base import Miner

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BM25Negatives(Miner):
    """Mine lexical negatives: the passages that BM25 ranks highest, without known positives.

    BM25 is cheap, runs once, and is a good start for any retriever (Karpukhin et al. 2020, *Dense Passage Retrieval*).
    Passages that share no token with the query are never candidates, so a query without matches gets an empty list. If
    this happens to all queries of a batch, a warning is logged once per `map` call. See `BM25Index` for tokenization.

    Args:
        corpus: The passages.
        k: Candidates per query. Mine many (50 to 200), and let filters and samplers select from them.
        exclude_group: Also exclude all passages from the source documents of the positives. Requires a corpus with
            groups.
        index: The index to search: a `BM25Index`, a `ShardedIndex` of them, or an index of bm25s, imported with
            `BM25Index.from_bm25s`. The default is `BM25Index(corpus)`, built once, on first use, and cached.

    Columns read:
        `query`, `positive_ids`; `query_id` for error messages, if present.

    Columns written:
        `negative_ids` (best first), `negative_scores` (BM25), `negative_ranks` (1-based positions in the full list,
        before exclusions), `negative_source` (`"bm25"`), `positive_scores` (BM25, aligned with `positive_ids`).

    Raises:
        TypeError: `corpus`, `index` or another option is of the wrong type.
        ValueError: `k` is less than 1, the index belongs to another corpus, or `exclude_group` is set without groups.

    Example:
        >>> from hnm_datasets import load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=3), batched=True)
        >>> mined[0]["query"], mined[0]["positive_ids"]
        ('what causes earthquakes?', ['plate-boundaries'])
        >>> mined[0]["negative_ids"], mined[0]["negative_ranks"]
        (['richter-scale', 'tsunamis', 'san-francisco-1906'], [1, 2, 4])
    """

    version: ClassVar[int] = 3
    source: ClassVar[str] = "bm25"

    _: KW_ONLY
    index: BM25Index | ShardedIndex | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.index is None:
            self._set(index=BM25Index(self.corpus))
        elif not is_index_of(BM25Index, self.index):
            raise TypeError(
                f"BM25Negatives: index must be a BM25Index or a ShardedIndex of BM25Index, got "
                f"{type(self.index).__name__}."
            )
        elif self.index.corpus != self.corpus:
            raise ValueError(
                "BM25Negatives: the index belongs to another corpus. Pass BM25Index(corpus, ...) of this corpus."
            )

    @property
    def _bm25(self) -> BM25Index | ShardedIndex:
        assert self.index is not None  # set in __post_init__
        return self.index

    def prepare(self) -> None:
        """Build the index, unless it is cached."""
        self._bm25.prepare()

    def _encode(self, queries: list[str], keys: NDArray[np.uint64]) -> Tokens:
        encoded = self._bm25.encode(queries)
        if queries and not len(encoded.lists.values):
            self._warn_about_unknown_words(queries)
        return encoded

    def _warn_about_unknown_words(self, queries: list[str]) -> None:
        index: Any = self._bm25.shards[0] if isinstance(self._bm25, ShardedIndex) else self._bm25
        with_tokens = sum(map(bool, index.tokenize(queries)))
        tell_of_batch(
            logger,
            "BM25Negatives: unknown words",
            "BM25Negatives: none of the %d queries in this batch got negatives (the first is %r): %d have no words "
            "except stop words, %d have only words that no passage contains. If queries and passages are in different "
            "languages, mine with DenseNegatives. If words are split incorrectly, pass another tokenizer: "
            "BM25Negatives(corpus, index=BM25Index(corpus, tokenizer=...)).",
            len(queries),
            queries[0][:100],
            len(queries) - with_tokens,
            with_tokens,
        )

    def _search(self, encoded: Tokens, which: NDArray[np.int64], depth: int) -> Hits:
        return self._bm25.search(encoded.take(which), depth)

    def _score(self, encoded: Tokens, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        return self._bm25.score(encoded, rows)
