"""Candidates that are known to be relevant: miners exclude them, filters and shapes drop them, live rows skip them.

A candidate is known to be relevant if it is a positive of its row or of another row with the same question
(`known_positive_ids`), or a copy of one (`Corpus.copy_codes`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.kernels import mark_held
from hnm_datasets.arrays.ragged import Ragged


def sorted_lists(lists: Ragged[NDArray[np.int64]]) -> Ragged[NDArray[np.int64]]:
    """Return the lists with their values in ascending order."""
    if not len(lists.values):
        return lists
    # One sort of plain numbers is several times as fast as `lexsort`.
    low = int(lists.values.min())
    keys = lists.owners * (int(lists.values.max()) - low + 1)
    return Ragged(lists.offsets, np.sort(keys + (lists.values - low)) - keys + low)


def are_known(
    known: Ragged[NDArray[np.int64]], owners: NDArray[np.int64], codes: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which candidates are known to be relevant.

    Args:
        known: The copy codes of the known positives of B questions, ascending within each question.
        owners: The question of each candidate. Shape (C,).
        codes: The copy code of each candidate. Shape (C,).

    Returns:
        Shape (C,).

    Example:
        >>> known = Ragged(np.array([0, 2, 2]), np.array([3, 8]))
        >>> are_known(known, np.array([0, 0, 1]), np.array([8, 4, 8])).tolist()
        [True, False, False]
    """
    found = np.empty(len(owners), dtype=bool)
    mark_held(known.offsets, known.values, owners, codes, found)
    return found
