"""The loop that selects candidates, compiled by numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled
from hnm_datasets.arrays.kernels import holds


@compiled
def pick_candidates(
    rows: NDArray[np.int64],
    text_codes: NDArray[np.int64],
    copy_codes: NDArray[np.int64],
    excluded_offsets: NDArray[np.int64],
    excluded: NDArray[np.int64],
    group_codes: NDArray[np.int64],
    group_offsets: NDArray[np.int64],
    excluded_groups: NDArray[np.int64],
    k: int,
    out: NDArray[np.int64],
) -> None:
    """Find the positions of the first k allowed passages of each query.

    Args:
        rows: The retriever's list, best first, -1 beyond its end. Shape (B, K).
        text_codes: Passages with the same text have the same code. Shape (N,).
        copy_codes: Copies of a passage have the same code. Shape (N,).
        excluded_offsets: Where each query's excluded codes begin and end. Shape (B + 1,).
        excluded: Copy codes to exclude, ascending within each query.
        group_codes: Passages of the same group have the same code; of shape (0,) if groups are not excluded.
        group_offsets: Where each query's excluded groups begin and end. Shape (B + 1,).
        excluded_groups: Group codes to exclude, ascending within each query.
        k: Candidates per query.
        out: Output: 0-based positions in the retriever's list, -1 beyond the last. Shape (B, k).
    """
    taken = np.empty(k, dtype=np.int64)
    for query in range(len(rows)):
        copies = excluded[excluded_offsets[query] : excluded_offsets[query + 1]]
        groups = excluded_groups[group_offsets[query] : group_offsets[query + 1]]
        size = 0
        for position in range(rows.shape[1]):
            row = rows[query, position]
            if row < 0 or size == k:
                break
            if holds(copies, copy_codes[row]):
                continue
            if len(groups) and holds(groups, group_codes[row]):
                continue
            code = text_codes[row]
            # Skip a passage with the same text as a selected one.
            repeats = False
            for other in range(size):
                if taken[other] == code:
                    repeats = True
                    break
            if repeats:
                continue
            taken[size] = code
            out[query, size] = position
            size += 1
        for slot in range(size, k):
            out[query, slot] = -1
