"""The choice of the positives for training examples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.draws import sample_mask
from hnm_datasets.arrays.ragged import first_positions


class Examples(NamedTuple):
    """The sources of M examples.

    Attributes:
        owners: The row of the batch that each example comes from. Shape (M,).
        positives: The positive of each example, as a flat position in `positive_ids`; -1 for none. Shape (M,).
    """

    owners: NDArray[np.int64]
    positives: NDArray[np.int64]


def choose_positives(offsets: NDArray[np.int64], how: str, keys: NDArray[np.uint64], seed: int) -> Examples:
    """Choose one positive per example; a row without positives gives one example without a positive.

    Args:
        offsets: Where each row's positives begin and end. Shape (B + 1,).
        how: `"each"`, `"first"` or `"random"`.
        keys: 64 bits that identify each row, for `"random"`. Shape (B,).
        seed: For `"random"`.
    """
    lengths = np.diff(offsets)
    if how == "each":
        counts = np.maximum(lengths, 1)
        owners = np.repeat(np.arange(len(lengths)), counts)
        positions = first_positions(offsets[:-1], counts)
        return Examples(owners, np.where(lengths[owners] > 0, positions, -1))
    positions = offsets[:-1].copy()
    if how == "random":
        mask = np.empty(offsets[-1], dtype=bool)
        one_stratum = np.ones((1, len(mask)), dtype=bool)
        sample_mask(offsets, np.zeros(len(mask)), keys, seed, one_stratum, np.ones(1, dtype=np.int64), mask)
        positions[lengths > 0] = np.flatnonzero(mask)
    return Examples(np.arange(len(lengths)), np.where(lengths > 0, positions, -1))
