"""Draw the negatives of a row: from all its candidates, or a given number from each source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.draws import sample_mask
from hnm_datasets.arrays.ragged import offsets_of

#: The number of negatives per source; a sequence has one entry per epoch.
Quota = Mapping[str, int] | Sequence[Mapping[str, int]]
#: Added to the seed for the remaining draws; the seeds of two epochs never differ by it.
_REST = 500_009


def checked_quota(name: str, quota: Quota | None, n: int) -> list[dict[str, int]]:
    """Return the quota of each epoch; an empty list if there is no quota.

    Raises:
        TypeError: The quota is not a dict of numbers, or a list of such dicts.
        ValueError: The numbers of an epoch do not add up to n.
    """
    if quota is None:
        return []
    epochs = [quota] if isinstance(quota, Mapping) else quota
    if not isinstance(epochs, Sequence) or not epochs or not all(isinstance(one, Mapping) for one in epochs):
        raise TypeError(
            f"{name}: quota must be a dict of numbers of negatives by source, such as {{'dense': 2, 'bm25': 1, "
            f"'random': 1}}, or a list of such dicts, one per epoch; got {quota!r}."
        )
    checked = []
    for one in epochs:
        for source in one:
            if not isinstance(source, str) or not source or "+" in source:
                raise TypeError(
                    f"{name}: the keys of quota must be names of sources, such as 'dense' or 'bm25', got {source!r}."
                )
        numbers = {
            source: checks.whole_number(name, f"quota[{source!r}]", number, low=0) for source, number in one.items()
        }
        if sum(numbers.values()) != n:
            raise ValueError(
                f"{name}: the quota {dict(one)} adds up to {sum(numbers.values())} negatives, but rows have n={n}."
            )
        checked.append(numbers)
    return checked


def draw(offsets: NDArray[np.int64], n: int, keys: NDArray[np.uint64], seed: int) -> NDArray[np.bool_]:
    """Mark n randomly drawn candidates of each row, or all if it has fewer than n. Shape (B + 1,) → (C,).

    The draw depends only on the keys and the seed.
    """
    size = int(offsets[-1])
    keep = np.empty(size, dtype=bool)
    sample_mask(offsets, np.zeros(size), keys, seed, np.ones((1, size), dtype=bool), np.array([n]), keep)
    return keep


def draw_by_source(
    offsets: NDArray[np.int64], bits: NDArray[np.int64], counts: Sequence[int], keys: NDArray[np.uint64], seed: int
) -> NDArray[np.bool_]:
    """Mark the given number of candidates from each source; if a source has too few, draw any others instead.

    Args:
        offsets: The start and end of each row's candidates. Shape (B + 1,).
        bits: The sources of each candidate: bit i is set for source i. Shape (C,).
        counts: The number of candidates to draw from each source. A candidate of two sources counts for the first.
        keys: 64 bits that identify each row. Shape (B,).
        seed: Seed for the draw.
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
    # Fill up all rows that lack the same number together.
    for count in np.unique(missing[(missing > 0) & (left > 0)]).tolist():
        rows = (missing == count) & (left > 0)
        free = np.flatnonzero(rows[owners] & ~keep)
        keep[free[draw(offsets_of(left[rows]), count, keys[rows], seed + _REST)]] = True
    return keep
