"""Draws of a row's negatives: of all its candidates, or so many of each source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.draws import sample_mask
from hnm_datasets.arrays.ragged import offsets_of

#: How many negatives of each source a row has; of several, each is for an epoch.
Quota = Mapping[str, int] | Sequence[Mapping[str, int]]
#: Kept apart from the seeds of other epochs.
_REST = 500_009


def checked_quota(name: str, quota: Quota | None, n: int) -> list[dict[str, int]]:
    """Return a quota for each epoch; none without one.

    Raises:
        TypeError: It is no dict of numbers, or a list of such.
        ValueError: The numbers of an epoch do not add up to n.
    """
    if quota is None:
        return []
    epochs = [quota] if isinstance(quota, Mapping) else quota
    if not isinstance(epochs, Sequence) or not epochs or not all(isinstance(one, Mapping) for one in epochs):
        raise TypeError(
            f"{name}: quota must be a number of negatives by source, such as {{'dense': 2, 'bm25': 1, 'random': 1}}, "
            f"or a list of such, one for each epoch; got {quota!r}."
        )
    checked = []
    for one in epochs:
        for source in one:
            if not isinstance(source, str) or not source or "+" in source:
                raise TypeError(f"{name}: quota names sources, such as 'dense' or 'bm25', not {source!r}.")
        numbers = {
            source: checks.whole_number(name, f"quota[{source!r}]", number, low=0) for source, number in one.items()
        }
        if sum(numbers.values()) != n:
            raise ValueError(
                f"{name}: the quota {dict(one)} adds up to {sum(numbers.values())} negatives, and rows have n={n}."
            )
        checked.append(numbers)
    return checked


def draw(offsets: NDArray[np.int64], n: int, keys: NDArray[np.uint64], seed: int) -> NDArray[np.bool_]:
    """Mark n candidates of each row, or all of fewer, drawn by key and seed alone. Shape (B + 1,) → (C,)."""
    size = int(offsets[-1])
    keep = np.empty(size, dtype=bool)
    sample_mask(offsets, np.zeros(size), keys, seed, np.ones((1, size), dtype=bool), np.array([n]), keep)
    return keep


def draw_by_source(
    offsets: NDArray[np.int64], bits: NDArray[np.int64], counts: Sequence[int], keys: NDArray[np.uint64], seed: int
) -> NDArray[np.bool_]:
    """Mark so many candidates of each source, and of any others where a source has too few.

    Args:
        offsets: Where each row's candidates begin and end. Shape (B + 1,).
        bits: The sources of each candidate: a bit for each, by its place. Shape (C,).
        counts: Candidates wanted of each source. What two have found counts for the first.
        keys: 64 bits that identify each row. Shape (B,).
        seed: Another seed gives another draw.
    """
    used = np.flatnonzero(counts)
    members: Any = (bits >> used[:, None]) & 1 == 1
    keep = np.empty(len(bits), dtype=bool)
    numbers = np.asarray(counts, dtype=np.int64)[used]
    sample_mask(offsets, np.zeros(len(bits)), keys, seed, np.ascontiguousarray(members), numbers, keep)
    lengths = np.diff(offsets)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    missing = sum(counts) - np.bincount(owners[keep], minlength=len(lengths))
    left = lengths - np.bincount(owners[keep], minlength=len(lengths))
    # Rows that lack the same number are filled up together.
    for count in np.unique(missing[(missing > 0) & (left > 0)]).tolist():
        rows = (missing == count) & (left > 0)
        free = np.flatnonzero(rows[owners] & ~keep)
        keep[free[draw(offsets_of(left[rows]), count, keys[rows], seed + _REST)]] = True
    return keep
