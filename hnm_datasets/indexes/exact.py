"""Exact search over memory-mapped vectors: blocks of matrix products, the best of each kept.

The default of `DenseIndex`. It needs no index: it reads the embeddings where they are, so there is nothing to build, no
second copy, and processes share the pages. FAISS's own exact search was not fit for it: in the batches of `Dataset.map`
its threads wait for each other, which makes it several times slower than in batches of 16,000, and its scores depend on
the batch in their last digits.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.indexes import dense_kernels
from hnm_datasets.indexes.base import Hits
from hnm_datasets.runtime.workers import in_worker, single_threaded_torch, threads

#: Queries of a thread's turn and passages of a block: their scores stay in the second-level cache.
_TURN = 512
_BLOCK = 512
#: The same for a GPU, whose scores of a block take a gigabyte.
_TURN_ON_DEVICE = 2048
_BLOCK_ON_DEVICE = 131_072
#: A matrix product rounds differently from one batch to the next. That many more are found than asked for, scored
#: again in one way, and cut, so that rounding does not decide who is in.
_SLACK = 16
#: Bytes that a thread may keep of candidates.
_KEPT = 1 << 26


def search(queries: NDArray[np.float32], vectors: NDArray[Any], k: int, similarity: str) -> Hits:
    """Return the k best vectors of each query.

    Args:
        queries: Shape (B, D).
        vectors: Shape (N, D), float32 or float16.
        k: Places per query.
        similarity: `"cosine"` (of vectors that have length 1), `"dot"` or `"euclidean"`.

    Returns:
        Rows and scores of shape (B, k), see `Hits`; the score of a euclidean search is the negative distance.
    """
    import torch

    wanted = min(k + _SLACK, len(vectors))
    rows = np.empty((len(queries), k), dtype=np.int64)
    scores = np.empty((len(queries), k), dtype=np.float32)
    if torch.cuda.is_available() and not in_worker():
        for start in range(0, len(queries), _TURN_ON_DEVICE):
            part = slice(start, start + _TURN_ON_DEVICE)
            found = _found_on_device(queries[part], vectors, wanted, similarity, "cuda")
            counts = np.full(len(found), wanted)
            rank(queries[part], vectors, found, counts, similarity, rows[part], scores[part])
        return Hits(rows, scores)
    capacity = 2 * wanted + 8 * dense_kernels.RUN
    size = max(1, min(_TURN, _KEPT // (8 * capacity), -(-len(queries) // threads())))
    halves = _half_squares(vectors) if similarity == "euclidean" else None

    def turn(start: int) -> None:
        own = queries[start : start + size]
        asked = torch.from_numpy(own)
        kept_scores = np.empty((len(own), capacity), dtype=np.float32)
        kept_rows = np.empty((len(own), capacity), dtype=np.uint32)
        counts = np.zeros(len(own), dtype=np.int64)
        limits = np.full(len(own), -np.inf, dtype=np.float32)
        buffer = torch.empty(len(own), min(_BLOCK, len(vectors)))
        for first in range(0, len(vectors), _BLOCK):
            block = np.asarray(vectors[first : first + _BLOCK], dtype=np.float32)
            product = buffer[:, : len(block)]
            if halves is None:
                torch.mm(asked, torch.from_numpy(block).T, out=product)
            else:
                # The nearest are those with the largest q·x - |x|²/2.
                offset = torch.from_numpy(halves[first : first + _BLOCK])
                torch.addmm(offset, asked, torch.from_numpy(block).T, beta=-1, out=product)
            dense_kernels.keep_best(product.numpy(), first, wanted, kept_scores, kept_rows, counts, limits)
        dense_kernels.cut(wanted, kept_scores, kept_rows, counts)
        part = slice(start, start + size)
        rank(own, vectors, kept_rows, counts, similarity, rows[part], scores[part])

    with single_threaded_torch(), ThreadPoolExecutor(threads()) as pool:
        list(pool.map(turn, range(0, len(queries), size)))
    return Hits(rows, scores)


def _found_on_device(
    queries: NDArray[np.float32], vectors: NDArray[Any], wanted: int, similarity: str, device: str
) -> NDArray[np.int64]:
    """Return the row numbers of the `wanted` best vectors of each query, in no order, found by a device of torch.

    The vectors pass through the device in blocks, so it needs memory for two blocks and their scores.
    """
    import torch

    asked = torch.from_numpy(queries).to(device)
    best = torch.empty(len(queries), 0, device=device)
    rows = torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    for first in range(0, len(vectors), _BLOCK_ON_DEVICE):
        block = torch.from_numpy(np.asarray(vectors[first : first + _BLOCK_ON_DEVICE])).to(device).float()
        scores = asked @ block.T
        if similarity == "euclidean":
            scores -= block.square().sum(dim=1) / 2
        scores, places = scores.topk(min(wanted, len(block)), dim=1)
        best, rows = torch.cat([best, scores], dim=1), torch.cat([rows, places + first], dim=1)
        best, order = best.topk(min(wanted, best.shape[1]), dim=1)
        rows = rows.gather(1, order)
    return np.asarray(rows.cpu().numpy())


def rank(
    queries: NDArray[np.float32],
    vectors: NDArray[Any],
    found: NDArray[np.int64] | NDArray[np.uint32],
    counts: NDArray[np.int64],
    similarity: str,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> None:
    """Score what was found exactly and write the best of it, best first, into `rows` and `scores`.

    Args:
        queries: Shape (B, D).
        vectors: Shape (N, D).
        found: Row numbers in any order. Shape (B, F).
        counts: How many of them count, in each line. Shape (B,).
        similarity: As for `search`.
        rows: Receives row numbers. Shape (B, K).
        scores: Receives scores. Shape (B, K).
    """
    if vectors.dtype == np.float32:
        dense_kernels.rank(queries, vectors, found, counts, similarity == "euclidean", rows, scores)
        return
    counted = np.arange(found.shape[1]) < counts[:, None]
    used, places = np.unique(found[counted].astype(np.int64), return_inverse=True)
    local = np.zeros(found.shape, dtype=np.int64)
    local[counted] = places
    vectors = np.asarray(vectors[used], dtype=np.float32)
    dense_kernels.rank(queries, vectors, local, counts, similarity == "euclidean", rows, scores)
    if len(used):
        rows[...] = np.where(rows >= 0, used[rows], -1)


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


def _half_squares(vectors: NDArray[Any]) -> NDArray[np.float32]:
    halves = np.empty(len(vectors), dtype=np.float32)
    for first in range(0, len(vectors), _BLOCK):
        block = np.asarray(vectors[first : first + _BLOCK], dtype=np.float32)
        halves[first : first + _BLOCK] = np.einsum("ij,ij->i", block, block) / 2
    return halves
