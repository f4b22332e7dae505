"""Queries that are searched in several threads, some at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.keys import hits_of
from hnm_datasets.runtime.workers import threads

#: Queries that one thread searches at a time: few enough that threads end together, many enough that a buffer pays.
_QUERIES = 64


def search_in_threads(
    search: Callable[[slice, NDArray[np.uint64]], None], queries: int, k: int, first_row: int
) -> Hits:
    """Search all queries, by a loop that releases the interpreter lock.

    Args:
        search: Fills the keys of some queries, of shape (b, k), see `key_of`. It gets opened files: a thread has no
            cache folder of its own.
        queries: How many there are, B.
        k: Hits per query.
        first_row: What is added to the rows that are found.

    Returns:
        Rows and scores of shape (B, k).
    """
    hits = Hits(np.empty((queries, k), dtype=np.int64), np.empty((queries, k), dtype=np.float32))

    def search_chunk(start: int) -> None:
        some = slice(start, min(start + _QUERIES, queries))
        keys = np.empty((some.stop - start, k), dtype=np.uint64)
        search(some, keys)
        hits.rows[some], hits.scores[some] = hits_of(keys, k)

    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(search_chunk, range(0, queries, _QUERIES)))
    if first_row:
        hits.rows[hits.rows >= 0] += first_row
    return hits
