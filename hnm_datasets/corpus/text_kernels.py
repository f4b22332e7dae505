"""Text normalization, compiled by numba."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled


@compiled
def fold_ascii(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    out: NDArray[np.uint8],
    ends: NDArray[np.int64],
    is_ascii: NDArray[np.bool_],
) -> None:
    """Lowercase ASCII texts, strip whitespace at both ends and collapse all other whitespace to single spaces.

    Args:
        data: The UTF-8 bytes of the texts.
        offsets: Where each text begins and ends. Shape (B + 1,).
        out: Receives the normalized texts without separators. Its size is the size of the texts.
        ends: Receives the end of each text in `out`. Shape (B,).
        is_ascii: Receives whether each text is pure ASCII. For other texts nothing is written to `out`. Shape (B,).
    """
    at = 0
    for text in range(len(ends)):
        start, waiting, plain = at, False, True
        for position in range(offsets[text], offsets[text + 1]):
            byte = data[position]
            if byte >= 128:
                plain, at = False, start
                break
            # The whitespace of `str.split`.
            if byte == 32 or 9 <= byte <= 13 or 28 <= byte <= 31:
                waiting = True
                continue
            if waiting and at > start:
                out[at] = 32
                at += 1
            waiting = False
            out[at] = byte + 32 if 65 <= byte <= 90 else byte
            at += 1
        ends[text], is_ascii[text] = at, plain
