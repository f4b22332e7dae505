"""Late interaction: exact MaxSim scores from memory-mapped token vectors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, positions_within
from hnm_datasets.indexes import maxsim_kernels
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.shards import merged_hits
from hnm_datasets.models.token_embeddings import TokenEmbeddings
from hnm_datasets.models.token_vectors import TokenVectors
from hnm_datasets.runtime.workers import threads

#: Pairs per task of a thread.
_PAIRS = 512
#: Queries and passages per block of an exhaustive search.
_QUERIES = 128
_PASSAGES = 8192


def score(queries: TokenVectors, embeddings: TokenEmbeddings, lists: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Score given passages of each query. A score depends only on the query and the passage, to the last bit.

    The passages are read from the mapped files, so only the scores take memory.

    Args:
        queries: The token vectors of B queries.
        embeddings: The token vectors of the corpus.
        lists: B lists of row numbers, C in total.

    Returns:
        Shape (C,), aligned with `lists.values`.

    Raises:
        ValueError: The dimension of the queries is not that of the corpus.
    """
    owners, scores = lists.owners, np.empty(len(lists.values), dtype=np.float32)
    # Open the files here: the cache directory is a context variable, which threads do not inherit.
    wide, mean = _wide(queries, embeddings), embeddings.similarity == "meanmaxsim"
    with ThreadPoolExecutor(threads()) as pool:

        def score_chunk(passages: TokenVectors, rows: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
            scores[positions] = _pairs(queries, wide, passages, owners[positions], rows, mean)

        tasks = [
            pool.submit(score_chunk, passages, rows[start : start + _PAIRS], positions[start : start + _PAIRS])
            for positions, passages, rows in embeddings.mapped(lists.values)
            for start in range(0, len(positions), _PAIRS)
        ]
        for task in tasks:
            task.result()
    return scores


def ranked(queries: TokenVectors, embeddings: TokenEmbeddings, lists: Ragged[NDArray[np.int64]], k: int) -> Hits:
    """Return the k best of given passages of each query. Ties are in the order of the rows.

    Args:
        queries: The token vectors of B queries.
        embeddings: The token vectors of the corpus.
        lists: B lists of distinct row numbers.
        k: Hits per query.

    Returns:
        Rows and scores of shape (B, k).
    """
    scores = score(queries, embeddings, lists)
    order = np.lexsort((lists.values, -scores, lists.owners))
    positions = positions_within(lists.offsets)
    kept = positions < k
    hits = Hits(np.full((len(lists), k), -1, dtype=np.int64), np.full((len(lists), k), -np.inf, dtype=np.float32))
    at = lists.owners[kept], positions[kept]
    hits.rows[at], hits.scores[at] = lists.values[order][kept], scores[order][kept]
    return hits


def search(queries: TokenVectors, embeddings: TokenEmbeddings, k: int) -> Hits:
    """Return the k best of all passages for each query. Rows and scores of shape (B, k)."""
    found: list[Hits] = []
    for start in range(0, len(queries), _QUERIES):
        part = queries.part(start, min(start + _QUERIES, len(queries)))
        best = Hits(np.full((len(part), k), -1, dtype=np.int64), np.full((len(part), k), -np.inf, dtype=np.float32))
        for first in range(0, len(embeddings), _PASSAGES):
            rows = np.arange(first, min(first + _PASSAGES, len(embeddings)))
            block = Ragged(np.arange(len(part) + 1) * len(rows), np.tile(rows, len(part)))
            best = merged_hits([best, ranked(part, embeddings, block, k)], k)
        found.append(best)
    if not found:
        return Hits(np.empty((0, k), dtype=np.int64), np.empty((0, k), dtype=np.float32))
    return Hits(np.concatenate([hits.rows for hits in found]), np.concatenate([hits.scores for hits in found]))


def _pairs(
    queries: TokenVectors,
    wide: NDArray[np.float32],
    passages: TokenVectors,
    owners: NDArray[np.int64],
    rows: NDArray[np.int64],
    mean: bool,
) -> NDArray[np.float32]:
    scores = np.empty(len(owners), dtype=np.float32)
    bits = passages.vectors.view(np.uint16)
    maxsim_kernels.score_pairs(wide, queries.offsets, bits, passages.offsets, owners, rows, mean, scores)
    return scores


def _wide(queries: TokenVectors, embeddings: TokenEmbeddings) -> NDArray[np.float32]:
    if embeddings.tokens and len(queries) and queries.vectors.shape[1] != embeddings.dimension:
        raise ValueError(
            f"The token vectors of the queries have {queries.vectors.shape[1]} dimensions, but those of the corpus "
            f"have {embeddings.dimension}. Encode both with the same model."
        )
    return queries.vectors.astype(np.float32)
