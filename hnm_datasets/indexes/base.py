"""The index protocol: encoded queries in, rows and scores out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged

if TYPE_CHECKING:
    from hnm_datasets.corpus.passages import Corpus

#: The form of encoded queries: tokens for BM25, vectors of shape (B, D) for dense search, terms and weights for sparse.
Queries = TypeVar("Queries", contravariant=True)


class Hits(NamedTuple):
    """The best passages of B queries, K each, best first.

    Attributes:
        rows: Row numbers in the corpus, padded with -1. Shape (B, K), int64.
        scores: Higher is better, padded with -inf. Shape (B, K), float32.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


class Index(Protocol[Queries]):
    """A searchable index of a corpus. The results of a search are a prefix of the results of a deeper search.

    `BM25Index`, `DenseIndex`, `SparseIndex` and `ShardedIndex` implement this protocol. Miners use no other members.
    """

    @property
    def corpus(self) -> Corpus:
        """The passages."""

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that change whenever the results can change."""

    def prepare(self) -> None:
        """Build the files of the index in the cache directory, unless they exist."""

    def search(self, queries: Queries, k: int) -> Hits:
        """Return the k best passages of each query."""

    def score(self, queries: Queries, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Score given passages of each query as `search` does. Shape (C,), aligned with `rows.values`."""


class ShardIndex(Index[Queries], Protocol[Queries]):
    """An index of one shard of a corpus, for `ShardedIndex`. Its row numbers are those of the whole corpus."""

    @property
    def shard(self) -> tuple[int, int] | None:
        """The number of this shard and the number of shards; None for the whole corpus."""

    @property
    def rows(self) -> range:
        """The indexed rows of the corpus."""

    @property
    def nbytes(self) -> int:
        """The size in bytes of the files that a search maps into memory."""

    def close(self) -> None:
        """Close the files. The next search reopens them."""

    def search_shard(self, queries: Queries, k: int) -> tuple[Hits, NDArray[np.float32] | None]:
        """Search, and return the per-query constant of the scores separately.

        Adding the constant can round distinct scores to ties, so the hits of all shards are merged before it is added.

        Returns:
            The hits, ordered and scored without the constants, and the constants, shape (B,), or None.
        """
