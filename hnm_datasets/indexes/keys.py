"""A score and a row number as one 64-bit key. Smaller keys are better; equal scores are in the order of the rows."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.indexes.base import Hits

#: Greater than every key.
NO_KEY = np.uint64(0xFFFFFFFFFFFFFFFF)
_MAGNITUDE = np.uint32(0x7FFFFFFF)


@numba.njit(nogil=True)
def key_of(bits: Any, row: Any) -> Any:
    """Return the key of a row, given the bits of its float32 score as uint32."""
    # Positive floats have the order of their bits, negative floats the opposite order.
    first = bits if bits >> np.uint32(31) else ~bits & _MAGNITUDE
    return (np.uint64(first) << np.uint64(32)) | np.uint64(row)


def hits_of(keys: NDArray[np.uint64], k: int) -> Hits:
    """Return the k best hits of each line of keys. This sorts `keys` in place.

    Args:
        keys: Keys in any order, padded with `NO_KEY`. Shape (B, F).
        k: Hits per line.
    """
    keys.sort(axis=1)
    found = keys[:, :k]
    first = (found >> np.uint64(32)).astype(np.uint32)
    bits = np.where(first >> np.uint32(31), first, ~first & _MAGNITUDE)
    missing = found == NO_KEY
    rows, scores = np.full((len(keys), k), -1, dtype=np.int64), np.full((len(keys), k), -np.inf, dtype=np.float32)
    rows[:, : found.shape[1]] = np.where(missing, -1, (found & np.uint64(0xFFFFFFFF)).astype(np.int64))
    scores[:, : found.shape[1]] = np.where(missing, np.float32(-np.inf), bits.view(np.float32))
    return Hits(rows, scores)
