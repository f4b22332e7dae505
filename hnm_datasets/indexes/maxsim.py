"""Late interaction: exact MaxSim of queries and passages, from memory-mapped token vectors."""

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

#: Pairs that a thread scores at a time.
_PAIRS = 512
#: Queries and passages of which all pairs are scored at once.
_QUERIES = 128
_PASSAGES = 8192


def score(queries: TokenVectors, embeddings: TokenEmbeddings, lists: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Return the score of certain passages of each query: it depends on the query and the passage alone, to the bit.

    The passages are read where they are mapped, so that memory is needed for the scores alone.

    Args:
        queries: The token vectors of B queries.
        embeddings: The token vectors of the corpus.
        lists: B lists of row numbers, C in all.

    Returns:
        Shape (C,), aligned with `lists.values`.

    Raises:
        ValueError: The vectors are of another dimension than those of the corpus.
    """
    owners, scores = lists.owners, np.empty(len(lists.values), dtype=np.float32)
    # A thread has no cache folder of its own: it gets opened files.
    wide, mean = _wide(queries, embeddings), embeddings.similarity == "meanmaxsim"
    with ThreadPoolExecutor(threads()) as pool:

        def score_some(passages: TokenVectors, rows: NDArray[np.int64], places: NDArray[np.int64]) -> None:
            scores[places] = _pairs(queries, wide, passages, owners[places], rows, mean)

        tasks = [
            pool.submit(score_some, passages, rows[start : start + _PAIRS], places[start : start + _PAIRS])
            for places, passages, rows in embeddings.mapped(lists.values)
            for start in range(0, len(places), _PAIRS)
        ]
        for task in tasks:
            task.result()
    return scores


def ranked(queries: TokenVectors, embeddings: TokenEmbeddings, lists: Ragged[NDArray[np.int64]], k: int) -> Hits:
    """Return the k best of certain passages of each query, of equal scores the lower row first.

    Args:
        queries: The token vectors of B queries.
        embeddings: The token vectors of the corpus.
        lists: B lists of row numbers, each row once.
        k: Hits per query.

    Returns:
        Rows and scores of shape (B, k).
    """
    scores = score(queries, embeddings, lists)
    order = np.lexsort((lists.values, -scores, lists.owners))
    places = positions_within(lists.offsets)
    kept = places < k
    hits = Hits(np.full((len(lists), k), -1, dtype=np.int64), np.full((len(lists), k), -np.inf, dtype=np.float32))
    at = lists.owners[kept], places[kept]
    hits.rows[at], hits.scores[at] = lists.values[order][kept], scores[order][kept]
    return hits


def search(queries: TokenVectors, embeddings: TokenEmbeddings, k: int) -> Hits:
    """Return the k best of all passages for each query. Rows and scores of shape (B, k)."""
    found: list[Hits] = []
    for start in range(0, len(queries), _QUERIES):
        some = queries.part(start, min(start + _QUERIES, len(queries)))
        best = Hits(np.full((len(some), k), -1, dtype=np.int64), np.full((len(some), k), -np.inf, dtype=np.float32))
        for first in range(0, len(embeddings), _PASSAGES):
            rows = np.arange(first, min(first + _PASSAGES, len(embeddings)))
            every = Ragged(np.arange(len(some) + 1) * len(rows), np.tile(rows, len(some)))
            best = merged_hits([best, ranked(some, embeddings, every, k)], k)
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
            f"The token vectors of the queries have {queries.vectors.shape[1]} dimensions, those of the corpus "
            f"{embeddings.dimension}. Encode both with one model."
        )
    return queries.vectors.astype(np.float32)
