"""Shards of a corpus: consecutive rows in parts of nearly equal size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hnm_datasets import checks
from hnm_datasets.indexes.base import Hits


def checked_shard(owner: str, shard: object, length: int) -> tuple[int, int] | None:
    """Return `shard` as two ints (i, n), or raise an error."""
    if shard is None:
        return None
    if not isinstance(shard, (tuple, list)) or len(shard) != 2:
        raise TypeError(f"{owner}: shard must be (i, n), shard i of n shards of the corpus, got {shard!r}.")
    n = checks.whole_number(owner, "the number of shards", shard[1], low=1)
    i = checks.whole_number(owner, "the shard", shard[0], low=0)
    if i >= n or n > length:
        raise ValueError(
            f"{owner}: shard must be (i, n) with 0 <= i < n and n at most the number of passages ({length}), "
            f"got {shard!r}."
        )
    return i, n


def rows_of_shard(shard: tuple[int, int] | None, length: int) -> range:
    """Return the rows of a shard; all rows if `shard` is None.

    Example:
        >>> [rows_of_shard((i, 3), 10) for i in range(3)]
        [range(0, 3), range(3, 6), range(6, 10)]
    """
    if shard is None:
        return range(length)
    i, n = shard
    return range(i * length // n, (i + 1) * length // n)


def shard_in_words(shard: tuple[int, int] | None) -> str:
    """Say which shard this is, counted from 1; nothing without one.

    Example:
        >>> shard_in_words((0, 3))
        'shard 1 of 3'
    """
    return "" if shard is None else f"shard {shard[0] + 1} of {shard[1]}"


def shard_suffix(shard: tuple[int, int] | None) -> str:
    """Return the end of the description of a progress bar.

    Example:
        >>> shard_suffix((0, 16)), shard_suffix(None)
        (', shard 1 of 16', '')
    """
    return "" if shard is None else f", {shard_in_words(shard)}"


def merged_hits(shards: Sequence[Hits], k: int) -> Hits:
    """Merge the hits of several shards. Ties are in the order of the rows.

    Args:
        shards: Hits of the same B queries, with row numbers of the whole corpus.
        k: Hits per query.

    Example:
        >>> one = Hits(np.array([[0, 2]]), np.float32([[3, 1]]))
        >>> other = Hits(np.array([[5, -1]]), np.float32([[3, -np.inf]]))
        >>> merged_hits([other, one], 3).rows.tolist()
        [[0, 5, 2]]
    """
    rows = np.concatenate([hits.rows for hits in shards], axis=1)
    scores = np.concatenate([hits.scores for hits in shards], axis=1)
    # Sort missing hits last.
    order = np.lexsort((np.where(rows < 0, np.iinfo(np.int64).max, rows), -scores), axis=1)[:, :k]
    missing = ((0, 0), (0, k - order.shape[1]))
    return Hits(
        np.pad(np.take_along_axis(rows, order, 1), missing, constant_values=-1),
        np.pad(np.take_along_axis(scores, order, 1), missing, constant_values=-np.inf),
    )
