"""Exact search over memory-mapped vectors: matrix products of blocks, with error bounds, then exact scores.

This is the default of `DenseIndex`. It reads the memory-mapped embeddings directly, so there is no index to build, and
processes share memory pages. FAISS's exact search is not suitable: with the batch sizes of `Dataset.map`, its threads
wait for each other, which makes it several times slower than with batches of 16,000, and the last digits of its scores
depend on the batch.
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
from hnm_datasets.indexes.candidate_set import CandidateSet
from hnm_datasets.indexes.candidates import Known
from hnm_datasets.indexes.keys import hits_of
from hnm_datasets.indexes.quick import quick_products
from hnm_datasets.runtime.workers import in_worker, single_threaded_torch, threads

#: Queries per chunk of a thread. Their candidates are scored together, so larger chunks read less memory.
_CHUNK = 1024
#: Queries per chunk when ranking the candidates of a device.
_RANKED = 128
#: The maximum size in bytes of the candidates of a thread.
_KEPT = 1 << 26
#: The minimum number of queries for a meaningful timing.
_TIMED = 64
#: Bytes of passages that are scored together.
_SCORED = 1 << 21


def search(
    queries: NDArray[np.float32], vectors: NDArray[Any], k: int, similarity: str, known: Known | None = None
) -> Hits:
    """Return the k best vectors of each query. Ties are in the order of the rows.

    Args:
        queries: Shape (B, D).
        vectors: Shape (N, D), float32 or float16.
        k: Hits per query.
        similarity: `"cosine"` (for vectors of length 1), `"dot"` or `"euclidean"`.
        known: The derived data of these vectors from earlier searches; None: compute it.

    Returns:
        Rows and scores of shape (B, k), see `Hits`. Euclidean scores are negative distances.
    """
    known = Known(vectors, similarity) if known is None else known
    on_gpu = is_on_gpu()
    # The few queries that a GPU leaves undecided are not worth quantizing all vectors.
    products = quick_products() - {"int8"} if on_gpu else quick_products()
    hits = Hits(np.empty((len(queries), k), dtype=np.int64), np.empty((len(queries), k), dtype=np.float32))
    depth = min(k, len(vectors))

    def search_chunk(which: NDArray[np.int64]) -> None:
        chunk = queries[which]

        def rank_exactly(numbers: NDArray[np.int64], rows: NDArray[Any], counts: NDArray[np.int64]) -> Hits:
            return rank(chunk[numbers], vectors, rows, counts, depth, similarity)

        start, way = time.perf_counter(), known.way(depth, products)
        found = candidates.find(chunk, known, depth, way, rank_exactly)
        hits.rows[which], hits.scores[which] = rank(chunk, vectors, found.rows, found.counts, k, similarity)
        if len(chunk) >= _TIMED:
            known.note(way, depth, (time.perf_counter() - start) / len(chunk))

    with single_threaded_torch(), ThreadPoolExecutor(threads()) as pool:
        remaining = np.arange(len(queries))
        if on_gpu:
            remaining = search_on_device(queries, vectors, similarity, known.blocks, "cuda", hits, pool)
        size = max(1, min(_CHUNK, _KEPT // CandidateSet.nbytes_of(1, k), -(-len(remaining) // threads())))
        list(pool.map(search_chunk, (remaining[start : start + size] for start in range(0, len(remaining), size))))
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
    """Search on a torch device. Return the numbers of the queries whose candidates may be incomplete."""
    k = hits.rows.shape[1]
    unsure = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(queries), device_search.QUERIES_AT_ONCE):
        part = slice(start, start + device_search.QUERIES_AT_ONCE)
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
    """Rank the candidates of a device in all threads and write them to `hits`."""

    def rank_chunk(first: int) -> None:
        part = slice(first, first + _RANKED)
        counts, k = found.counts[part], hits.rows.shape[1]
        hits.rows[part], hits.scores[part] = rank(queries[part], vectors, found.rows[part], counts, k, similarity)

    list(pool.map(rank_chunk, range(0, len(queries), _RANKED)))


def rank(
    queries: NDArray[np.float32],
    vectors: NDArray[Any],
    found: NDArray[np.int64] | NDArray[np.uint32],
    counts: NDArray[np.int64],
    k: int,
    similarity: str,
) -> Hits:
    """Score candidates exactly and return the k best, best first. Ties are in the order of the rows.

    Args:
        queries: Shape (B, D).
        vectors: Shape (N, D).
        found: Row numbers in any order. Shape (B, F).
        counts: The number of valid entries in each line. Shape (B,).
        k: Hits per query.
        similarity: As for `search`.
    """
    capacity = counts.max(initial=0)
    valid = np.arange(capacity) < counts[:, None]
    found = np.sort(np.where(valid, found[:, :capacity], np.iinfo(np.uint32).max).astype(np.int64), axis=1)
    used = None
    if vectors.dtype != np.float32:
        used, numbers = np.unique(found[valid], return_inverse=True)
        found[valid] = numbers
        vectors = np.asarray(vectors[used], dtype=np.float32)
    keys = np.empty((len(queries), capacity), dtype=np.uint64)
    at_once = max(1, _SCORED // (4 * vectors.shape[1]))
    dense_kernels.score_found(queries, vectors, found, counts, similarity == "euclidean", at_once, keys)
    hits = hits_of(keys, k)
    return hits if used is None or not len(used) else Hits(np.where(hits.rows >= 0, used[hits.rows], -1), hits.scores)


def score(
    queries: NDArray[np.float32], vectors: NDArray[Any], lists: Ragged[NDArray[np.int64]], similarity: str
) -> NDArray[np.float32]:
    """Score given vectors of each query. The scores are bit-identical to those of `search`.

    Args:
        queries: Shape (B, D).
        vectors: Shape (N, D).
        lists: B lists of row numbers, C in total.
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
