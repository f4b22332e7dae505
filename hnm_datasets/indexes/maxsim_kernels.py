"""The loop of late interaction: MaxSim scores of (query, passage) pairs."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.compiled import compiled

#: Below this number of products, BLAS multiplies matrices in a single thread and always in the same way.
_PRODUCTS = 1 << 18
#: The factor that corrects the exponent of a float16 number whose bits were shifted into a float32.
_SCALE = np.float32(2.0**112)


@compiled
def score_pairs(
    queries: NDArray[np.float32],
    query_offsets: NDArray[np.int64],
    passages: NDArray[np.uint16],
    passage_offsets: NDArray[np.int64],
    owners: NDArray[np.int64],
    rows: NDArray[np.int64],
    mean: bool,
    scores: NDArray[np.float32],
) -> None:
    """Sum, over the tokens of a query, the maximum dot product with the tokens of a passage.

    A score depends only on the two texts, because the sizes of the multiplied matrices do not depend on other pairs.

    Args:
        queries: The token vectors of B queries. Shape (S, D).
        query_offsets: Where the tokens of each query begin and end. Shape (B + 1,).
        passages: The bits of the token vectors of N passages, in float16, all finite. Shape (T, D).
        passage_offsets: Where the tokens of each passage begin and end. Shape (N + 1,).
        owners: The query of each pair. Shape (C,).
        rows: The passage of each pair. Shape (C,).
        mean: Divide by the number of query tokens.
        scores: Receives the scores. Shape (C,).
    """
    dimension = queries.shape[1]
    longest = 1
    for number in range(len(query_offsets) - 1):
        longest = max(longest, query_offsets[number + 1] - query_offsets[number])
    bits = np.empty(max(dimension, _PRODUCTS), dtype=np.uint32)
    wide = bits.view(np.float32)
    products = np.empty(max(longest, _PRODUCTS // dimension), dtype=np.float32)
    best = np.empty(longest, dtype=np.float32)
    for pair in range(len(owners)):
        query = queries[query_offsets[owners[pair]] : query_offsets[owners[pair] + 1]]
        start, stop = passage_offsets[rows[pair]], passage_offsets[rows[pair] + 1]
        tokens = len(query)
        at_once = max(1, _PRODUCTS // (tokens * dimension))
        best[:tokens] = -np.inf
        for first in range(start, stop, at_once):
            count = min(at_once, stop - first)
            _widen(passages[first : first + count].reshape(-1), bits, wide)
            found = products[: count * tokens].reshape(count, tokens)
            np.dot(wide[: count * dimension].reshape(count, dimension), query.T, found)
            for token in range(count):
                for position in range(tokens):
                    best[position] = max(best[position], found[token, position])
        total = np.float32(0)
        for position in range(tokens):
            total += best[position]
        scores[pair] = total / np.float32(tokens) if mean else total


@numba.njit(nogil=True)
def _widen(narrow: Any, bits: Any, wide: Any) -> None:
    """Convert the bits of float16 numbers to float32, in loops that the compiler vectorizes."""
    for position in range(len(narrow)):
        number = np.uint32(narrow[position])
        sign = (number & np.uint32(0x8000)) << np.uint32(16)
        bits[position] = ((number & np.uint32(0x7FFF)) << np.uint32(13)) | sign
    for position in range(len(narrow)):
        wide[position] *= _SCALE
