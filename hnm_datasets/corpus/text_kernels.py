"""The loop that normalizes texts, compiled by numba."""

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
    """Write texts in lower case, with one space for each stretch of white space and none at the ends.

    Args:
        data: The bytes of the texts, in UTF-8.
        offsets: Where each text begins and ends. Shape (B + 1,).
        out: Filled with what was made of the texts, one after another; as long as they are.
        ends: Filled with where each ends in `out`. Shape (B,).
        is_ascii: Filled with whether a text is of ASCII alone; of one that is not, nothing is written. Shape (B,).
    """
    at = 0
    for text in range(len(ends)):
        start, waiting, plain = at, False, True
        for place in range(offsets[text], offsets[text + 1]):
            byte = data[place]
            if byte >= 128:
                plain, at = False, start
                break
            # What `str.split` takes for white space.
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
