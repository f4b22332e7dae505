"""Scores from a source that scores only the passages it finds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged


def scores_where_found(
    found: Ragged[NDArray[np.int64]],
    scores: NDArray[np.float32],
    lists: NDArray[np.int64],
    rows: Ragged[NDArray[np.int64]],
) -> NDArray[np.float32]:
    """Look up the scores of the given passages of each query.

    Args:
        found: L lists of hits, as row numbers.
        scores: The scores of the hits, aligned with `found.values`.
        lists: The number of each query's list; -1 if it has none. Shape (B,).
        rows: B lists of row numbers, C in total.

    Returns:
        Shape (C,), NaN where a passage is not in the query's list.

    Example:
        >>> found = Ragged(np.array([0, 2, 3]), np.array([7, 4, 4]))
        >>> rows = Ragged(np.array([0, 2, 3]), np.array([4, 5, 7]))
        >>> scores_where_found(found, np.array([2, 1, 9], dtype=np.float32), np.array([0, 1]), rows).tolist()
        [1.0, nan, nan]
    """
    answer = np.full(len(rows.values), np.nan, dtype=np.float32)
    if not len(found.values) or not len(rows.values):
        return answer
    size = 1 + max(int(found.values.max()), int(rows.values.max()))
    keys = found.owners * size + found.values
    order = np.argsort(keys, kind="stable")
    # A query without a list has a negative key, which matches none of them.
    asked = lists[rows.owners] * size + rows.values
    at = order[np.minimum(np.searchsorted(keys, asked, sorter=order), len(keys) - 1)]
    same = keys[at] == asked
    answer[same] = scores[at[same]]
    return answer
