"""Searching the queries of a batch in several threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.keys import hits_of
from hnm_datasets.runtime.workers import threads

#: Queries per task of a thread: few enough to balance the threads, enough to reuse the buffers.
_QUERIES = 64


def search_in_threads(
    search: Callable[[slice, NDArray[np.uint64]], None], queries: int, k: int, first_row: int
) -> Hits:
    """Search all queries in threads.

    Args:
        search: A function that fills the keys of a slice of the queries, shape (b, k), see `key_of`. It must release
            the GIL and use files that are already open, because threads do not inherit the cache directory.
        queries: The number of queries, B.
        k: Hits per query.
        first_row: An offset that is added to the found rows.

    Returns:
        Rows and scores of shape (B, k).
    """
    hits = Hits(np.empty((queries, k), dtype=np.int64), np.empty((queries, k), dtype=np.float32))

    def search_chunk(start: int) -> None:
        chunk = slice(start, min(start + _QUERIES, queries))
        keys = np.empty((chunk.stop - start, k), dtype=np.uint64)
        search(chunk, keys)
        hits.rows[chunk], hits.scores[chunk] = hits_of(keys, k)

    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(search_chunk, range(0, queries, _QUERIES)))
    if first_row:
        hits.rows[hits.rows >= 0] += first_row
    return hits
