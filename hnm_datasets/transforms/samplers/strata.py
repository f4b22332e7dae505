"""Strata, each with a number of candidates to sample: sources, bands, or values of a corpus column."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import first_of_runs
from hnm_datasets.transforms.base import Ordered

#: A source or value by name, or the lowest and highest value of a band.
Stratum = str | tuple[float, float]
_NAME = "SampleNegatives"


def checked_counts(counts: Mapping[Any, Any], per: str | None) -> Ordered:
    """Validate the numbers of candidates per source, band or value.

    Args:
        counts: The numbers.
        per: The corpus column with the values; None for sources or bands.
    """
    if per is not None:
        return _counts_of_values(counts, per)
    example = "{'bm25': 2, 'dense': 3} for sources or {(1, 10): 2, (11, 100): 4} for bands"
    if not counts or len({isinstance(stratum, str) for stratum in counts}) > 1:
        raise ValueError(f"{_NAME}: n must be a whole number or a dict with a number per source or band: {example}.")
    checked = Ordered()
    for stratum, n in counts.items():
        if not isinstance(stratum, str):
            if not isinstance(stratum, tuple) or len(stratum) != 2:
                raise TypeError(f"{_NAME}: {stratum!r} is neither a source nor a band. Write n as {example}.")
            low, high = (
                end if end in (-math.inf, math.inf) else checks.real_number(_NAME, f"an end of the band {stratum}", end)
                for end in stratum
            )
            if high < low:
                raise ValueError(f"{_NAME}: the band {stratum} is empty; its end must be at least its start.")
            stratum = (low, high)
        checked[stratum] = checks.whole_number(_NAME, f"n[{stratum!r}]", n, low=1)
    return checked


def _counts_of_values(counts: Mapping[Any, Any], per: str) -> Ordered:
    if not counts:
        raise ValueError(f"{_NAME}: n must be a whole number, or a dict with a number per value of {per!r}.")
    checked = Ordered()
    for value, n in counts.items():
        if isinstance(value, bool) or not isinstance(value, (str, int, np.integer)):
            raise TypeError(
                f"{_NAME}: {value!r} is not a value of {per!r}; values are strings or whole numbers. Write n as in "
                f"{{'en': 2, 'de': 3}}."
            )
        checked[str(value)] = checks.whole_number(_NAME, f"n[{value!r}]", n, low=1)
    return checked


def by_value(owners: NDArray[np.int64], codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return one stratum per distinct value: stratum s contains the candidates with the s-th value of their row.

    Args:
        owners: The row of each candidate, ascending. Shape (C,).
        codes: Candidates with the same value have the same code. Shape (C,).

    Returns:
        Shape (S, C), where S is the largest number of values in a row, at least 1.

    Example:
        >>> by_value(np.array([0, 0, 0, 1]), np.array([7, 3, 7, 7])).astype(int).tolist()
        [[0, 1, 0, 1], [1, 0, 1, 0]]
    """
    order = np.lexsort((codes, owners))
    starts = np.flatnonzero(first_of_runs(owners[order], codes[order]))
    values = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(codes)))
    first = np.searchsorted(owners[order][starts], owners[order])
    numbers = np.empty(len(codes), dtype=np.int64)
    numbers[order] = values - first
    return np.asarray(np.arange(numbers.max(initial=0) + 1)[:, None] == numbers)
