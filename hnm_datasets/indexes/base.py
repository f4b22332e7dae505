"""The protocol of an index: encoded queries in, rows and scores out."""

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
        rows: Row numbers in the corpus, -1 where there is no further passage. Shape (B, K), int64.
        scores: Higher is better, -inf where there is no further passage. Shape (B, K), float32.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


class Index(Protocol[Queries]):
    """Searches a corpus. A deeper search begins with the answer of a shallower one.

    `BM25Index`, `DenseIndex`, `SparseIndex` and `ShardedIndex` satisfy it, and the miners use nothing else of an index.
    """

    @property
    def corpus(self) -> Corpus:
        """The passages."""

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that depend on everything that determines the answers."""

    def prepare(self) -> None:
        """Build what a search needs and keep it on disk, unless it is there."""

    def search(self, queries: Queries, k: int) -> Hits:
        """Return the k best passages of each query."""

    def score(self, queries: Queries, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the score that `search` gives to certain passages of each query. Shape (C,), aligned with `rows`."""


class ShardIndex(Index[Queries], Protocol[Queries]):
    """An index of one shard of a corpus, as `ShardedIndex` uses it. It numbers the rows as the corpus does."""

    @property
    def shard(self) -> tuple[int, int] | None:
        """The number of the shard and how many there are; None for the whole corpus."""

    @property
    def rows(self) -> range:
        """The rows of the corpus that are indexed."""

    @property
    def nbytes(self) -> int:
        """The size of the files that a search maps."""

    def close(self) -> None:
        """Let go of the files; the next search opens them again."""

    def search_shard(self, queries: Queries, k: int) -> tuple[Hits, NDArray[np.float32] | None]:
        """Search, and return the part of the scores that is the same for all passages of a query separately.

        Adding that constant can round distinct scores to ties, so the hits of the shards are merged before it is added.

        Returns:
            The hits, ordered and scored without the constants, and the constants, shape (B,); None: there are none.
        """
