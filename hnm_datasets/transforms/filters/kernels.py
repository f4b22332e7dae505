"""The search for near duplicates among candidates, compiled by numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled


@compiled
def drop_near_duplicates(
    shingle_offsets: NDArray[np.int64],
    shingles: NDArray[np.uint32],
    passages: int,
    positive_offsets: NDArray[np.int64],
    positives: NDArray[np.int64],
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    threshold: float,
    keep: NDArray[np.bool_],
) -> None:
    """Mark the candidates that are not near duplicates of a positive or of a higher-ranked candidate that is kept.

    A passage has one form, or two: with and without its title. Two passages are near duplicates if any of their forms
    are.

    Args:
        shingle_offsets: Where the shingles of each form begin and end: the first form of all passages, then the second
            form of all passages, if there is one. Shape (N + 1,) or (2·N + 1,).
        shingles: Sorted within each form; empty for a form that a passage does not have. Shape (S,).
        passages: N.
        positive_offsets: Where each row's positives begin and end. Shape (B + 1,).
        positives: The positives' row numbers in the corpus.
        offsets: Where each row's candidates begin and end. Shape (B + 1,).
        rows: The candidates' row numbers in the corpus. Shape (C,).
        threshold: The lowest Jaccard similarity of near duplicates.
        keep: Output. Shape (C,).
    """
    forms = (len(shingle_offsets) - 1) // passages
    for line in range(len(offsets) - 1):
        known = forms * (positive_offsets[line + 1] - positive_offsets[line])
        rows_of_line = np.concatenate(
            (
                positives[positive_offsets[line] : positive_offsets[line + 1]],
                rows[offsets[line] : offsets[line + 1]],
            )
        )
        # The forms of each passage are adjacent.
        texts = rows_of_line if forms == 1 else _with_second_forms(rows_of_line, passages)
        prefixes, total = _prefixes(texts, shingle_offsets, threshold)
        # A hash table with chaining: the prefix shingles of the kept texts, to find the texts that share one.
        size = 1
        while size < 2 * total:
            size *= 2
        heads = np.full(size, -1, dtype=np.int64)
        nexts = np.empty(total, dtype=np.int64)
        values = np.empty(total, dtype=np.uint32)
        owners = np.empty(total, dtype=np.int64)
        compared = np.full(len(texts), -1, dtype=np.int64)
        count = 0
        near = False
        for text in range(len(texts)):
            if text >= known and not near:
                begin, end = shingle_offsets[texts[text]], shingle_offsets[texts[text] + 1]
                for i in range(begin, prefixes[text]):
                    entry = heads[shingles[i] & (size - 1)]
                    while entry >= 0 and not near:
                        other = owners[entry]
                        if values[entry] == shingles[i] and compared[other] != text:
                            compared[other] = text
                            row = texts[other]
                            near = _is_near(
                                shingles[begin:end],
                                shingles[shingle_offsets[row] : shingle_offsets[row + 1]],
                                threshold,
                            )
                        entry = nexts[entry]
                    if near:
                        break
            if (text + 1) % forms:
                continue
            if text >= known:
                keep[offsets[line] + (text - known) // forms] = not near
            if not near:
                for own in range(text + 1 - forms, text + 1):
                    for i in range(shingle_offsets[texts[own]], prefixes[own]):
                        slot = shingles[i] & (size - 1)
                        values[count], owners[count], nexts[count] = shingles[i], own, heads[slot]
                        heads[slot] = count
                        count += 1
            near = False


@numba.njit(nogil=True)
def _with_second_forms(rows: Any, passages: int) -> Any:
    """Insert the second form of each passage after its first form."""
    texts = np.empty(2 * len(rows), dtype=np.int64)
    texts[::2] = rows
    texts[1::2] = rows + passages
    return texts


@numba.njit(nogil=True)
def _prefixes(texts: Any, shingle_offsets: Any, threshold: float) -> Any:
    """Return where the prefix of each text ends (see `_prefix_length`), and the total length of all prefixes."""
    ends, total = np.empty(len(texts), dtype=np.int64), 0
    for text in range(len(texts)):
        begin = shingle_offsets[texts[text]]
        length = _prefix_length(shingle_offsets[texts[text] + 1] - begin, threshold)
        ends[text] = begin + length
        total += length
    return ends, total


@numba.njit(nogil=True)
def _prefix_length(size: Any, threshold: float) -> Any:
    """Return the length of the prefix that shares an element with the prefix of every similar set.

    If the Jaccard similarity of two sorted sets reaches the threshold, their prefixes have an element in common
    (Bayardo et al. 2007, *Scaling up all pairs similarity search*).
    """
    return size - int(np.ceil(threshold * size - 1e-9)) + 1 if size else 0


@numba.njit(nogil=True)
def _is_near(a: Any, b: Any, threshold: float) -> Any:
    """Return whether two sorted sets have a Jaccard similarity of at least the threshold."""
    # shared / (|a| + |b| - shared) >= t, solved for shared. The loop stops as soon as this is out of reach.
    needed = threshold / (1 + threshold) * (len(a) + len(b)) - 1e-9
    shared = 0
    i = j = 0
    while i < len(a) and j < len(b):
        if shared + min(len(a) - i, len(b) - j) < needed:
            return False
        if a[i] == b[j]:
            shared += 1
            i += 1
            j += 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return shared >= needed
