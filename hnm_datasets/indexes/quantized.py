"""Vectors rounded to whole numbers of a byte, and how far their products are from exact scores.

Of the passages of a block, x is about μ + s·X, with X of whole numbers from -127 to 127, and a query q is about t·Q.
The sums of Q·X are exact, so the score is within ‖q‖·‖x - μ - s·X‖ + ‖q - t·Q‖·‖s·X‖ of q·μ + s·t·Q·X
(Cauchy-Schwarz), to which the rounding of the score itself is added. The norms are computed. The mean μ is the same for
all passages, so it does not count in a comparison of them; without it, models whose vectors all point in one direction
would have errors as wide as the differences of their scores.

Processors multiply bytes faster than bfloat16, and there is half as much to read; but the bound is several times as
wide, so more passages have to be scored again.
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
#: Passages whose mean is taken: any vector would do for it.
_SAMPLE = 4096
#: Rounding differences in float32: a few times half of its last place.
_ROUNDING = 4 * 2.0**-24
#: Beyond it, bounds are infinite anyway.
_CUT = np.float32(1e38)
#: What is written of each block.
_OF_BLOCKS = ("scales", "errors", "norms", "lengths")


class Asked(NamedTuple):
    """B queries, rounded for products with passages.

    Attributes:
        vectors: Whole numbers. Shape (B, D), int8.
        scales: What a unit of them stands for. Shape (B,).
        widths: How far a score may be from what the product says. Shape (B, blocks).
        constants: What all scores of a query have on top of it. Shape (B,).
    """

    vectors: NDArray[np.int8]
    scales: NDArray[np.float64]
    widths: NDArray[np.float32]
    constants: NDArray[np.float64]


@dataclass(frozen=True)
class Quantized:
    """Passages' vectors as whole numbers, in blocks.

    Attributes:
        vectors: The numbers. Shape (N, D), int8.
        mean: What is taken off the vectors before. Shape (D,), float32.
        scales: What a unit stands for. Shape (blocks,).
        errors: The largest norm of what rounding takes away. Shape (blocks,).
        norms: The largest norm of what is left. Shape (blocks,).
        lengths: The largest norm of a vector itself. Shape (blocks,).
    """

    vectors: NDArray[np.int8]
    mean: NDArray[np.float32]
    scales: NDArray[np.float64]
    errors: NDArray[np.float64]
    norms: NDArray[np.float64]
    lengths: NDArray[np.float64]

    @classmethod
    def of(cls, vectors: NDArray[Any]) -> Quantized:
        """Round vectors in memory. Shape (N, D), float32 or float16."""
        mean, found = mean_of(vectors), np.empty((4, -(-len(vectors) // BLOCK)))
        rounded = np.empty(vectors.shape, dtype=np.int8)
        for number, first in enumerate(range(0, len(vectors), BLOCK)):
            block = np.asarray(vectors[first : first + BLOCK], dtype=np.float32)
            rounded[first : first + BLOCK], found[:, number] = _rounded(block, mean)
        return cls(rounded, mean, *found)

    @classmethod
    def open(cls, folder: Path) -> Quantized:
        """Map what `write` wrote."""
        arrays: Any = {name: open_array(folder, name) for name in ("vectors", "mean", *_OF_BLOCKS)}
        return cls(**arrays | {"vectors": arrays["vectors"].reshape(-1, len(arrays["mean"]))})

    def ask(self, queries: NDArray[np.float32]) -> Asked:
        """Round queries. Shape (B, D)."""
        scales = _scale(np.abs(queries).max(axis=1, initial=0))
        rounded = np.rint(queries / scales[:, None]).astype(np.int8)
        wide = queries.astype(np.float64)
        asked = _norms(wide)[:, None]
        lost = _norms(wide - scales[:, None].astype(np.float64) * rounded)[:, None]
        found = asked * self.errors + lost * self.norms
        found += exact_widths(asked, np.maximum(self.lengths, self.norms + self.errors), queries.shape[1])
        widths = np.asarray(found * (1 + 2.0**-20), dtype=np.float32)
        return Asked(rounded, scales.astype(np.float64), widths, wide @ self.mean.astype(np.float64))


def write(vectors: NDArray[Any], folder: Path) -> Iterator[int]:
    """Round vectors into a folder, and yield how many were added after each block. Shape (N, D)."""
    mean, found = mean_of(vectors), np.empty((4, -(-len(vectors) // BLOCK)))
    with append_array(folder, "vectors", np.dtype(np.int8)) as append:
        for number, first in enumerate(range(0, len(vectors), BLOCK)):
            rounded, found[:, number] = _rounded(np.asarray(vectors[first : first + BLOCK], dtype=np.float32), mean)
            append(rounded.ravel())
            yield len(rounded)
    save_array(folder, "mean", mean)
    for name, values in zip(_OF_BLOCKS, found, strict=True):
        save_array(folder, name, values)


def mean_of(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Return the mean of a sample of vectors."""
    sample = np.asarray(vectors[:: -(-len(vectors) // _SAMPLE) or 1], dtype=np.float64)
    return np.asarray(sample.mean(axis=0) if len(sample) else np.zeros(vectors.shape[1]), dtype=np.float32)


def _rounded(block: NDArray[np.float32], mean: NDArray[np.float32]) -> tuple[NDArray[np.int8], tuple[float, ...]]:
    """Round a block, and return its scale, error, norm and length."""
    with np.errstate(over="ignore"):
        centered = np.clip(block - mean, -_CUT, _CUT)
    scale = _scale(np.abs(centered).max(initial=0))
    numbers = np.rint(centered / scale)
    left = numbers * scale
    size = _norms(centered).max(initial=0)
    error = _norms(centered - left).max(initial=0) + _ROUNDING * size
    return numbers.astype(np.int8), (float(scale), error, _norms(left).max(initial=0), _norms(block).max(initial=0))


def _scale(largest: Any) -> Any:
    """Return what a unit stands for, given the largest number that it has to reach."""
    scale = np.float32(largest) / np.float32(_LARGEST)
    # Some processors take smaller numbers for zero.
    return np.where(scale > np.finfo(np.float32).tiny, scale, np.float32(1))


def _norms(vectors: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)))
