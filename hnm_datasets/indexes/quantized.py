"""Vectors quantized to 8-bit integers, and the error bounds of their products.

A passage x of a block is approximately μ + s·X, with integers X from -127 to 127, and a query q is approximately t·Q.
The sums of Q·X are exact, so the score is within ‖q‖·‖x - μ - s·X‖ + ‖q - t·Q‖·‖s·X‖ of q·μ + s·t·Q·X
(Cauchy-Schwarz), plus the rounding error of the score itself. The norms are computed from the vectors. The mean μ is
the same for all passages, so q·μ does not affect their order. Without it, if all vectors of a model point in a similar
direction, the errors would be as large as the differences between the scores.

8-bit products are faster than bfloat16 products, and there is half as much data to read. But the bound is several times
wider, so more passages must be rescored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.indexes.bounds import BLOCK, exact_widths
from hnm_datasets.storage.mapped import append_array, open_array, save_array

_LARGEST = 127
#: The number of sampled passages for the mean. The bounds are valid for any vector in place of the mean.
_SAMPLE = 4096
#: The relative rounding error of a difference in float32, with a margin.
_ROUNDING = 4 * 2.0**-24
#: Above this limit, bounds are infinite anyway.
_CLIP = np.float32(1e38)
#: The arrays with one number per block.
_BLOCK_ARRAYS = ("scales", "errors", "norms", "lengths")


class EncodedQueries(NamedTuple):
    """B quantized queries.

    Attributes:
        vectors: The integers. Shape (B, D), int8.
        scales: The value of one unit. Shape (B,).
        widths: The error bounds of the products. Shape (B, blocks).
        constants: The part of the scores of each query that the products do not include. Shape (B,).
    """

    vectors: NDArray[np.int8]
    scales: NDArray[np.float64]
    widths: NDArray[np.float32]
    constants: NDArray[np.float64]


@dataclass(frozen=True)
class Quantized:
    """The quantized vectors of passages, in blocks.

    Attributes:
        vectors: The integers. Shape (N, D), int8.
        mean: The vector that is subtracted before quantization. Shape (D,), float32.
        scales: The value of one unit. Shape (blocks,).
        errors: The largest norm of the quantization error. Shape (blocks,).
        norms: The largest norm of a quantized vector. Shape (blocks,).
        lengths: The largest norm of an original vector. Shape (blocks,).
    """

    vectors: NDArray[np.int8]
    mean: NDArray[np.float32]
    scales: NDArray[np.float64]
    errors: NDArray[np.float64]
    norms: NDArray[np.float64]
    lengths: NDArray[np.float64]

    @classmethod
    def of(cls, vectors: NDArray[Any]) -> Quantized:
        """Quantize vectors in memory. Shape (N, D), float32 or float16."""
        mean, found = mean_of(vectors), np.empty((4, -(-len(vectors) // BLOCK)))
        rounded = np.empty(vectors.shape, dtype=np.int8)
        for number, first in enumerate(range(0, len(vectors), BLOCK)):
            block = np.asarray(vectors[first : first + BLOCK], dtype=np.float32)
            rounded[first : first + BLOCK], found[:, number] = _rounded(block, mean)
        return cls(rounded, mean, *found)

    @classmethod
    def open(cls, folder: Path) -> Quantized:
        """Map the arrays that `write` wrote."""
        arrays: Any = {name: open_array(folder, name) for name in ("vectors", "mean", *_BLOCK_ARRAYS)}
        return cls(**arrays | {"vectors": arrays["vectors"].reshape(-1, len(arrays["mean"]))})

    def encode(self, queries: NDArray[np.float32]) -> EncodedQueries:
        """Quantize queries. Shape (B, D)."""
        scales = _scale(np.abs(queries).max(axis=1, initial=0))
        rounded = np.rint(queries / scales[:, None]).astype(np.int8)
        wide = queries.astype(np.float64)
        query_norms = _norms(wide)[:, None]
        query_errors = _norms(wide - scales[:, None].astype(np.float64) * rounded)[:, None]
        found = query_norms * self.errors + query_errors * self.norms
        found += exact_widths(query_norms, np.maximum(self.lengths, self.norms + self.errors), queries.shape[1])
        widths = np.asarray(found * (1 + 2.0**-20), dtype=np.float32)
        return EncodedQueries(rounded, scales.astype(np.float64), widths, wide @ self.mean.astype(np.float64))


def write(vectors: NDArray[Any], folder: Path) -> Iterator[int]:
    """Quantize vectors of shape (N, D) and write them to a folder; yield the size of each block."""
    mean, found = mean_of(vectors), np.empty((4, -(-len(vectors) // BLOCK)))
    with append_array(folder, "vectors", np.dtype(np.int8)) as append:
        for number, first in enumerate(range(0, len(vectors), BLOCK)):
            rounded, found[:, number] = _rounded(np.asarray(vectors[first : first + BLOCK], dtype=np.float32), mean)
            append(rounded.ravel())
            yield len(rounded)
    save_array(folder, "mean", mean)
    for name, values in zip(_BLOCK_ARRAYS, found, strict=True):
        save_array(folder, name, values)


def mean_of(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Return the mean of a sample of vectors."""
    sample = np.asarray(vectors[:: -(-len(vectors) // _SAMPLE) or 1], dtype=np.float64)
    return np.asarray(sample.mean(axis=0) if len(sample) else np.zeros(vectors.shape[1]), dtype=np.float32)


def _rounded(block: NDArray[np.float32], mean: NDArray[np.float32]) -> tuple[NDArray[np.int8], tuple[float, ...]]:
    """Quantize a block. Return the integers, and the scale, error, norm and length of the block."""
    with np.errstate(over="ignore"):
        centered = np.clip(block - mean, -_CLIP, _CLIP)
    scale = _scale(np.abs(centered).max(initial=0))
    numbers = np.rint(centered / scale)
    values = numbers * scale
    size = _norms(centered).max(initial=0)
    error = _norms(centered - values).max(initial=0) + _ROUNDING * size
    return numbers.astype(np.int8), (float(scale), error, _norms(values).max(initial=0), _norms(block).max(initial=0))


def _scale(largest: Any) -> Any:
    """Return the value of one unit, given the largest number to represent."""
    scale = np.float32(largest) / np.float32(_LARGEST)
    # Some processors flush smaller numbers to zero.
    return np.where(scale > np.finfo(np.float32).tiny, scale, np.float32(1))


def _norms(vectors: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)))
