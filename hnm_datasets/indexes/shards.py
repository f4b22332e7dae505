"""Parts of a corpus: contiguous ranges of its rows, as even as can be."""

from __future__ import annotations

import numpy as np

from hnm_datasets import checks
from hnm_datasets.indexes.base import Hits


def checked_part(owner: str, part: object, length: int) -> tuple[int, int] | None:
    """Return `part` as two plain ints, i of n, or say what it must be."""
    if part is None:
        return None
    if not isinstance(part, (tuple, list)) or len(part) != 2:
        raise TypeError(f"{owner}: part must be (i, n), the i-th of n parts of the corpus, got {part!r}.")
    n = checks.whole_number(owner, "the number of parts", part[1], low=1)
    i = checks.whole_number(owner, "the part", part[0], low=0)
    if i >= n or n > length:
        raise ValueError(
            f"{owner}: part must be (i, n) with i from 0 to n - 1 and n at most the {length} passages of the corpus, "
            f"got {part!r}."
        )
    return i, n


def rows_of_part(part: tuple[int, int] | None, length: int) -> range:
    """Return the rows of a part; all of them without one.

    Example:
        >>> [rows_of_part((i, 3), 10) for i in range(3)]
        [range(0, 3), range(3, 6), range(6, 10)]
    """
    if part is None:
        return range(length)
    i, n = part
    return range(i * length // n, (i + 1) * length // n)


def merged_hits(parts: list[Hits], k: int) -> Hits:
    """Merge the lists of several parts into the list of all, equal scores in the order of the rows.

    Args:
        parts: Hits of the same B queries, with row numbers of the whole corpus.
        k: Places per query.

    Example:
        >>> one = Hits(np.array([[0, 2]]), np.float32([[3, 1]]))
        >>> other = Hits(np.array([[5, -1]]), np.float32([[3, -np.inf]]))
        >>> merged_hits([other, one], 3).rows.tolist()
        [[0, 5, 2]]
    """
    rows = np.concatenate([hits.rows for hits in parts], axis=1)
    scores = np.concatenate([hits.scores for hits in parts], axis=1)
    # What is not there comes last.
    order = np.lexsort((np.where(rows < 0, np.iinfo(np.int64).max, rows), -scores), axis=1)[:, :k]
    missing = ((0, 0), (0, k - order.shape[1]))
    return Hits(
        np.pad(np.take_along_axis(rows, order, 1), missing, constant_values=-1),
        np.pad(np.take_along_axis(scores, order, 1), missing, constant_values=-np.inf),
    )
