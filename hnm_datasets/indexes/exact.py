"""Exact search over memory-mapped vectors: blocks of matrix products, the best of each kept.

The default of `DenseIndex`. It needs no index: it reads the embeddings where they are, so there is nothing to build, no
second copy, and processes share the pages. FAISS's own exact search was not fit for it: in the batches of `Dataset.map`
its threads wait for each other, which makes it several times slower than in batches of 16,000, and its scores depend on
the batch in their last digits.
"""

from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.indexes import dense_kernels, device_search
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.bounds import BLOCK, OUTPUT, Blocks, as_asked, as_products, bounds_of_exact, widths
from hnm_datasets.indexes.keys import hits_of
from hnm_datasets.runtime.workers import in_worker, single_threaded_torch, threads

#: Queries of a thread's turn: with the passages of a block, their scores stay in the second-level cache.
_TURN = 512
#: Queries that a thread ranks at a time.
_RANKED = 128
#: Bytes that a thread may keep of candidates.
_KEPT = 1 << 26


def search(
    queries: NDArray[np.float32], vectors: NDArray[Any], k: int, similarity: str, blocks: Blocks | None = None
) -> Hits:
    """Return the k best vectors of each query, of equal ones the first.

    Args:
        queries: Shape (B, D).
        vectors: Shape (N, D), float32 or float16.
        k: Places per query.
        similarity: `"cosine"` (of vectors that have length 1), `"dot"` or `"euclidean"`.
        blocks: What `Blocks.of` says of the vectors; None: it is asked now.

    Returns:
        Rows and scores of shape (B, k), see `Hits`; the score of a euclidean search is the negative distance.
    """
    import torch

    blocks = Blocks.of(vectors, similarity) if blocks is None else blocks
    on_gpu = torch.cuda.is_available() and not in_worker()
    rounded = not on_gpu and has_fast_bfloat16()
    hits = Hits(np.empty((len(queries), k), dtype=np.int64), np.empty((len(queries), k), dtype=np.float32))

    def turn(which: NDArray[np.int64]) -> None:
        own = queries[which]
        found = _found(own, vectors, min(k, len(vectors)), similarity, blocks, rounded=rounded)
        hits.rows[which], hits.scores[which] = rank(own, vectors, found.rows, found.counts, k, similarity)

    with single_threaded_torch(), ThreadPoolExecutor(threads()) as pool:
        left = np.arange(len(queries))
        if on_gpu:
            left = search_on_device(queries, vectors, similarity, blocks, "cuda", hits, pool)
        size = max(1, min(_TURN, _KEPT // _Kept.nbytes_of(1, k), -(-len(left) // threads())))
        list(pool.map(turn, (left[start : start + size] for start in range(0, len(left), size))))
    return hits


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


class _Kept:
    """The passages that may be among the best of B queries.

    Attributes:
        lowest: What the score of each is at least, see `bounds`. Shape (B, capacity).
        highest: What it is at most.
        rows: Their row numbers.
        counts: How many there are of each query. Shape (B,).
        limits: What the k-th best score is at least. Shape (B,).
    """

    def __init__(self, queries: int, k: int) -> None:
        self.k, self.room = k, _room(k)
        shape = (queries, self.room + BLOCK)
        self.lowest, self.highest = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
        self.rows = np.empty(shape, dtype=np.uint32)
        self.counts = np.zeros(queries, dtype=np.int64)
        self.limits = np.full(queries, -np.inf, dtype=np.float32)

    def add(self, bits: NDArray[Any], shift: int, share: float, first: int, errors: NDArray[np.float32]) -> None:
        """Keep what may be among the k best of the passages from the row `first` on; see `dense_kernels.keep`."""
        dense_kernels.keep(
            bits, shift, share, first, errors, self.limits, self.lowest, self.highest, self.rows, self.counts
        )

    @staticmethod
    def nbytes_of(queries: int, k: int) -> int:
        """Return the bytes that it takes."""
        return 12 * queries * (_room(k) + BLOCK)

    def thin_out(self, most: int) -> None:
        """Drop what cannot be among the k best, of the queries that keep more than `most`."""
        dense_kernels.thin_out(self.k, most, self.lowest, self.highest, self.rows, self.counts, self.limits)


def _room(k: int) -> int:
    return 4 * k + 128


def _found(
    queries: NDArray[np.float32], vectors: NDArray[Any], k: int, similarity: str, blocks: Blocks, *, rounded: bool
) -> _Kept:
    """Return all passages that may be among the k best of each query, by bounds of their scores."""
    import torch

    dtype, share, shift = (torch.bfloat16, OUTPUT, 16) if rounded else (torch.float32, 0.0, 0)
    kept = _Kept(len(queries), k)
    asked = torch.from_numpy(as_asked(queries, similarity)).to(dtype)
    errors = widths(queries, blocks, similarity, rounded=rounded)
    block_buffer = torch.empty(BLOCK, asked.shape[1], dtype=dtype)
    buffer = torch.empty(len(queries) * BLOCK, dtype=dtype)
    for number, first in enumerate(range(0, len(vectors), BLOCK)):
        kept.thin_out(2 * k + 64)
        crowded = np.flatnonzero(kept.counts > kept.room)
        if len(crowded):
            _settle(kept, crowded, queries[crowded], vectors, similarity)
        block = as_products(np.asarray(vectors[first : first + BLOCK], dtype=np.float32), similarity)
        factors, product = block_buffer[: len(block)], buffer[: len(queries) * len(block)].view(len(queries), -1)
        torch.mm(asked, factors.copy_(torch.from_numpy(block)).T, out=product)
        bits = product.view(torch.uint16 if rounded else torch.uint32).numpy()
        kept.add(bits, shift, share, first, errors[:, number])
    kept.thin_out(k)
    return kept


def _settle(
    kept: _Kept, which: NDArray[np.int64], queries: NDArray[np.float32], vectors: NDArray[Any], similarity: str
) -> None:
    """Score what is kept of some queries exactly and leave the k best: bounds alone did not tell them apart."""
    rows, scores = rank(queries, vectors, kept.rows[which], kept.counts[which], kept.k, similarity)
    lowest, highest = bounds_of_exact(queries, scores, similarity)
    kept.rows[which, : kept.k] = rows
    kept.lowest[which, : kept.k], kept.highest[which, : kept.k] = lowest, highest
    kept.counts[which] = kept.k
    kept.limits[which] = np.maximum(kept.limits[which], lowest.min(axis=1))


@functools.cache
def has_fast_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16 faster than float32, and sums up in float32.

    It is measured in some milliseconds. The answer of a search is the same either way.
    """
    import torch

    random = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=random) for _ in range(2))
    rounded = left.bfloat16(), right.bfloat16()
    exact = rounded[0].double() @ rounded[1].double().T
    with single_threaded_torch():
        seconds = {}
        for dtype, (one, other) in {"float32": (left, right), "bfloat16": rounded}.items():
            out = torch.empty(256, 256, dtype=one.dtype)
            turns = []
            for _ in range(4):
                start = time.perf_counter()
                torch.mm(one, other.T, out=out)
                turns.append(time.perf_counter() - start)
            seconds[dtype] = min(turns)
    # A build that sums up in bfloat16 would break the bound.
    off = (out.double() - exact).abs() <= OUTPUT * exact.abs() + 1e-3
    return bool(off.all()) and seconds["bfloat16"] < 0.75 * seconds["float32"]


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
    used = None
    if vectors.dtype != np.float32:
        counted = np.arange(found.shape[1]) < counts[:, None]
        used, places = np.unique(found[counted].astype(np.int64), return_inverse=True)
        found = np.zeros(found.shape, dtype=np.int64)
        found[counted] = places
        vectors = np.asarray(vectors[used], dtype=np.float32)
    keys = np.empty((len(queries), counts.max(initial=0)), dtype=np.uint64)
    dense_kernels.score_found(queries, vectors, found, counts, similarity == "euclidean", keys)
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
