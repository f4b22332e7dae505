"""The overlap of negatives with their query and positives, by words and shingles."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, first_of_runs, offsets_of, positions_within
from hnm_datasets.audit import kernels
from hnm_datasets.corpus.words import compared, words_of

#: Sets of words or shingles, as numbers.
Sets = Ragged[NDArray[np.uint64]] | Ragged[NDArray[np.uint32]]


def word_sets(texts: pa.Array) -> tuple[Ragged[NDArray[np.uint64]], NDArray[np.int64]]:
    """Return the distinct words of each text as sorted numbers, and its total number of words.

    Args:
        texts: P texts.

    Example:
        >>> words, lengths = word_sets(pa.array(["The plate, the plate!"]))
        >>> words.lengths.tolist(), lengths.tolist()
        ([2], [4])
    """
    found = [words_of(text) for text in texts.to_pylist()]
    codes = {word: xxhash.xxh3_64_intdigest(compared(word).encode()) for word in set(chain.from_iterable(found))}
    lengths = np.array([len(words) for words in found], dtype=np.int64)
    flat = np.fromiter((codes[word] for word in chain.from_iterable(found)), np.uint64, int(lengths.sum()))
    owners = np.repeat(np.arange(len(found)), lengths)
    order = np.lexsort((flat, owners))
    owners, flat = owners[order], flat[order]
    fresh = first_of_runs(owners, flat)
    return Ragged(offsets_of(np.bincount(owners[fresh], minlength=len(found))), flat[fresh]), lengths


def shared_by(sets: Sets, lefts: NDArray[np.int64], rights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the common elements of the two sets of each pair. Shape (P,)."""
    out = np.empty(len(lefts), dtype=np.int64)
    kernels.count_shared(sets.offsets, sets.values, lefts, rights, out)
    return out


def similarity(sets: Sets, lefts: NDArray[np.int64], rights: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the Jaccard similarity of each pair of sets; 0 for two empty sets. Shape (P,)."""
    shared = shared_by(sets, lefts, rights)
    return np.asarray(shared / np.maximum(sets.lengths[lefts] + sets.lengths[rights] - shared, 1))


def pairs_of_rows(left: NDArray[np.int64], right: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return all pairs of an element of the left list and an element of the right list of each row.

    Args:
        left: The start and end of each row's left list. Shape (B + 1,).
        right: The start and end of each row's right list. Shape (B + 1,).

    Returns:
        Flat positions of the left and the right elements. Shape (P,) each.

    Example:
        >>> lefts, rights = pairs_of_rows(np.array([0, 2, 3]), np.array([0, 1, 3]))
        >>> lefts.tolist(), rights.tolist()
        ([0, 1, 2, 2], [0, 0, 1, 2])
    """
    lefts = np.repeat(np.diff(left), np.diff(right))
    rights = np.repeat(np.arange(right[-1]), lefts)
    owners = np.repeat(np.arange(len(right) - 1), np.diff(right))
    return left[:-1][owners[rights]] + positions_within(offsets_of(lefts)), rights
