"""Exact search over memory-mapped vectors: blocks of matrix products, the best of each kept.

The default of `DenseIndex`. It needs no index: it reads the embeddings where they are, so there is nothing to build, no
second copy, and processes share the pages. FAISS's own exact search was not fit for it: in the batches of `Dataset.map`
its threads wait for each other, which makes it several times slower than in batches of 16,000, and its scores depend on
the batch in their last digits.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.indexes import candidates, dense_kernels, device_search
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.bounds import Blocks
from hnm_datasets.indexes.candidates import Known
from hnm_datasets.indexes.kept import Kept
from hnm_datasets.indexes.keys import hits_of
from hnm_datasets.indexes.quick import quick_products
from hnm_datasets.runtime.workers import in_worker, single_threaded_torch, threads

#: Queries of a thread's turn: what they found is scored together, so the more, the less is read.
_TURN = 1024
#: Queries that a thread ranks at a time.
_RANKED = 128
#: Bytes that a thread may keep of candidates.
_KEPT = 1 << 26
#: Queries from which on it tells something how long they took.
_TIMED = 64
#: Bytes of passages that are scored together.
_SCORED = 1 << 21


def search(
    queries: NDArray[np.float32], vectors: NDArray[Any], k: int, similarity: str, known: Known | None = None
) -> Hits:
    """Return the k best vectors of each query, of equal ones the first.

    Args:
        queries: Shape (B, D).
        vectors: Shape (N, D), float32 or float16.
        k: Places per query.
        similarity: `"cosine"` (of vectors that have length 1), `"dot"` or `"euclidean"`.
        known: What an earlier search found out of the vectors; None: nothing.

    Returns:
        Rows and scores of shape (B, k), see `Hits`; the score of a euclidean search is the negative distance.
    """
    known = Known(vectors, similarity) if known is None else known
    on_gpu = is_on_gpu()
    # What a GPU leaves is not worth rounding all vectors to bytes.
    products = quick_products() - {"int8"} if on_gpu else quick_products()
    hits = Hits(np.empty((len(queries), k), dtype=np.int64), np.empty((len(queries), k), dtype=np.float32))
    most = min(k, len(vectors))

    def turn(which: NDArray[np.int64]) -> None:
        own = queries[which]

        def rank_some(some: NDArray[np.int64], rows: NDArray[Any], counts: NDArray[np.int64]) -> Hits:
            return rank(own[some], vectors, rows, counts, most, similarity)

        start, way = time.perf_counter(), known.way(most, products)
        found = candidates.find(own, known, most, way, rank_some)
        hits.rows[which], hits.scores[which] = rank(own, vectors, found.rows, found.counts, k, similarity)
        if len(own) >= _TIMED:
            known.note(way, most, (time.perf_counter() - start) / len(own))

    with single_threaded_torch(), ThreadPoolExecutor(threads()) as pool:
        left = np.arange(len(queries))
        if on_gpu:
            left = search_on_device(queries, vectors, similarity, known.blocks, "cuda", hits, pool)
        size = max(1, min(_TURN, _KEPT // Kept.nbytes_of(1, k), -(-len(left) // threads())))
        list(pool.map(turn, (left[start : start + size] for start in range(0, len(left), size))))
    return hits


def is_on_gpu() -> bool:
    """Return whether searches of this process run on a GPU."""
    import torch

    return torch.cuda.is_available() and not in_worker()


def search_on_device(
    queries: NDArray[np.float32],
    vectors: NDArray[Any],
    similarity: str,
    blocks: Blocks,
    device: str,
    hits: Hits,
    pool: ThreadPoolExecutor,
) -> NDArray[np.int64]:
    """Search on a device of torch, and return the numbers of the queries that it could not answer for sure."""
    k = hits.rows.shape[1]
    unsure = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(queries), device_search.TURN):
        part = slice(start, start + device_search.TURN)
        found = device_search.find(queries[part], vectors, min(k, len(vectors)), similarity, blocks, device)
        unsure.append(start + np.flatnonzero(~found.sure))
        _rank_in_parts(queries[part], vectors, found, similarity, Hits(hits.rows[part], hits.scores[part]), pool)
    return np.concatenate(unsure)


def _rank_in_parts(
    queries: NDArray[np.float32],
    vectors: NDArray[Any],
    found: device_search.Found,
    similarity: str,
    hits: Hits,
    pool: ThreadPoolExecutor,
) -> None:
    """Rank what a device found by all threads, into `hits`."""

    def turn(first: int) -> None:
        part = slice(first, first + _RANKED)
        counts, k = found.counts[part], hits.rows.shape[1]
        hits.rows[part], hits.scores[part] = rank(queries[part], vectors, found.rows[part], counts, k, similarity)

    list(pool.map(turn, range(0, len(queries), _RANKED)))


def rank(
    queries: NDArray[np.float32],
    vectors: NDArray[Any],
    found: NDArray[np.int64] | NDArray[np.uint32],
    counts: NDArray[np.int64],
    k: int,
    similarity: str,
) -> Hits:
    """Score what was found exactly, and return the k best of it, best first, of equal ones the first.

    Args:
        queries: Shape (B, D).
        vectors: Shape (N, D).
        found: Row numbers in any order. Shape (B, F).
        counts: How many of them count, in each line. Shape (B,).
        k: Places per query.
        similarity: As for `search`.
    """
    capacity = counts.max(initial=0)
    counted = np.arange(capacity) < counts[:, None]
    found = np.sort(np.where(counted, found[:, :capacity], np.iinfo(np.uint32).max).astype(np.int64), axis=1)
    used = None
    if vectors.dtype != np.float32:
        used, places = np.unique(found[counted], return_inverse=True)
        found[counted] = places
        vectors = np.asarray(vectors[used], dtype=np.float32)
    keys = np.empty((len(queries), capacity), dtype=np.uint64)
    at_once = max(1, _SCORED // (4 * vectors.shape[1]))
    dense_kernels.score_found(queries, vectors, found, counts, similarity == "euclidean", at_once, keys)
    hits = hits_of(keys, k)
    return hits if used is None or not len(used) else Hits(np.where(hits.rows >= 0, used[hits.rows], -1), hits.scores)


def score(
    queries: NDArray[np.float32], vectors: NDArray[Any], lists: Ragged[NDArray[np.int64]], similarity: str
) -> NDArray[np.float32]:
    """Return the score of certain vectors of each query, the same to the bit as `search` gives them.

    Args:
        queries: Shape (B, D).
        vectors: Shape (N, D).
        lists: B lists of row numbers, C in all.
        similarity: As for `search`.

    Returns:
        Shape (C,), aligned with `lists.values`.
    """
    scores = np.empty(len(lists.values), dtype=np.float32)
    rows = lists.values
    if vectors.dtype != np.float32:
        used, rows = np.unique(rows, return_inverse=True)
        vectors = np.asarray(vectors[used], dtype=np.float32)
    dense_kernels.score_lists(queries, vectors, lists.offsets, rows, similarity == "euclidean", scores)
    return scores
