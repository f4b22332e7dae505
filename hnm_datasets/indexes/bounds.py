"""How far the quick score of a pair of vectors can be from its exact one.

A search scores all pairs by a matrix product, in bfloat16 or float32, and scores again, in one way, those that the
error of the product leaves in doubt. Of vectors q and x with the roundings q̃ and x̃, the product of the roundings is
within ‖q - q̃‖·‖x‖ + ‖q̃‖·‖x - x̃‖ of the product (Cauchy-Schwarz), to which the rounding of the sums is added
(Higham 2002, *Accuracy and Stability of Numerical Algorithms*, section 3.1). The norms of the rounding errors are
computed, so the bound is a few times narrower than the worst case.

Euclidean distances d are compared by (|q|² - d²)/2 = q·x - |x|²/2, the product of (q, -1, -1) with x followed by two
numbers that add up to |x|²/2, of which the second is what bfloat16 takes away of the first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Passages of a block, which has one bound: their scores stay in the second-level cache.
BLOCK = 512
#: What a score that is kept in bfloat16 may be off, as a share of it: half of its last place, and some more.
OUTPUT = 2.0**-8 * (1 + 2.0**-7)
#: Half of the last place of float32.
_UNIT = 2.0**-24
#: Beyond it, sums of products may be infinite.
_LARGEST = 1e38
#: Processors may take numbers that are smaller for zero.
_SMALLEST = 2.0**-125


@dataclass(frozen=True)
class Blocks:
    """What a bound needs to know of vectors, block by block.

    Attributes:
        norms: The largest norm. Shape (blocks,).
        errors: The largest norm of what rounding to bfloat16 takes away. Shape (blocks,).
        largest: The largest norm of the vectors alone, without what `as_products` adds. Shape (blocks,).
        on_device: What `device_search` keeps of the vectors on a device.
    """

    norms: NDArray[np.float64]
    errors: NDArray[np.float64]
    largest: NDArray[np.float64]
    on_device: dict[tuple[str, int], Any] = field(default_factory=dict)

    @classmethod
    def of(cls, vectors: NDArray[Any], similarity: str) -> Blocks:
        """Read the vectors once. Shape (N, D), float32 or float16."""
        found = np.empty((3, -(-len(vectors) // BLOCK)))
        for number, first in enumerate(range(0, len(vectors), BLOCK)):
            block = np.asarray(vectors[first : first + BLOCK], dtype=np.float32)
            factors = as_products(block, similarity)
            norms, lost = norms_of(factors)
            found[:, number] = (
                norms.max(),
                lost.max(),
                norms_of(block)[0].max() if factors is not block else norms.max(),
            )
        return cls(*found)


def as_products(vectors: NDArray[np.float32], similarity: str) -> NDArray[np.float32]:
    """Return passages' vectors such that products with `as_asked` compare them. Shape (N, D or D + 2)."""
    if similarity != "euclidean":
        return vectors
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    # Cut where the bound is infinite anyway.
    halves = np.minimum(squares / 2, _LARGEST).astype(np.float32)
    first = to_bfloat16(halves).float().numpy()
    return np.column_stack([vectors, first, halves - first])


def as_asked(queries: NDArray[np.float32], similarity: str) -> NDArray[np.float32]:
    """Return the queries' vectors for products with those of `as_products`. Shape (B, D or D + 2)."""
    if similarity != "euclidean":
        return queries
    return np.pad(queries, ((0, 0), (0, 2)), constant_values=-1)


def to_bfloat16(numbers: NDArray[np.float32]) -> Any:
    """Round numbers to a tensor of bfloat16."""
    import torch

    return torch.from_numpy(numbers).bfloat16()


def norms_of(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the norms of vectors and of what rounding to bfloat16 takes away of them. Shapes (N,)."""
    parts = (vectors, vectors - to_bfloat16(vectors).float().numpy())
    norms, lost = (np.sqrt(np.einsum("ij,ij->i", part, part, dtype=np.float64)) for part in parts)
    return norms, lost


def widths(queries: NDArray[np.float32], blocks: Blocks, similarity: str, *, rounded: bool) -> NDArray[np.float32]:
    """Return how far the product of each query with the passages of each block may be from the exact score.

    Args:
        queries: Shape (B, D).
        blocks: What is known of the passages.
        similarity: `"cosine"`, `"dot"` or `"euclidean"`.
        rounded: Whether the product is of vectors that are rounded to bfloat16. `OUTPUT` comes on top then.

    Returns:
        Shape (B, blocks); infinite where sums may be.
    """
    asked, lost = (norms[:, None] for norms in norms_of(as_asked(queries, similarity)))
    found = exact_widths(asked, blocks.norms, queries.shape[1])
    if rounded:
        share = _share(queries.shape[1])
        found += (1 + share) * (lost * blocks.norms + (asked + lost) * blocks.errors)
    if similarity == "euclidean":
        # The squares of the exact distance are summed up, and the root of it is rounded too.
        squares = (asked + blocks.largest) ** 2
        found += _share(queries.shape[1]) * squares
        found[squares > _LARGEST] = np.inf
    # Rounded up.
    return np.asarray(found * (1 + 2.0**-20), dtype=np.float32)


def exact_widths(asked: NDArray[np.float64], norms: NDArray[np.float64], dimension: int) -> NDArray[np.float64]:
    """Return how far sums of products in float32, the exact score's among them, may be from the true product.

    Args:
        asked: The norms of queries. Shape (B, 1).
        norms: The norms of passages. Shape (blocks,).
        dimension: How many numbers are summed up.

    Returns:
        Shape (B, blocks); infinite where sums may be.
    """
    # The sums of the product, and those of the exact score.
    found = _share(dimension) * asked * norms + dimension * _SMALLEST * (1 + asked + norms)
    found[(asked + 1) * (norms + 1) > _LARGEST] = np.inf
    return found


def _share(dimension: int) -> float:
    return 2 * (dimension + 16) * _UNIT


def bounds_of_exact(
    queries: NDArray[np.float32],
    scores: NDArray[np.float32],
    similarity: str,
    constants: NDArray[np.float64],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what products that stand for exact scores are at least and at most.

    Args:
        queries: Shape (B, D).
        scores: Exact ones. Shape (B, K).
        similarity: As for `widths`.
        constants: What the products lack of each query's scores. Shape (B,).
    """
    # Infinite scores stay so.
    with np.errstate(over="ignore", invalid="ignore"):
        if similarity == "euclidean":
            squares = np.einsum("ij,ij->i", queries, queries, dtype=np.float64)[:, None]
            distances = np.square(scores, dtype=np.float64)
            middle, off = (squares - distances) / 2, 2.0**-20 * (squares + distances)
        else:
            middle = scores - constants[:, None]
            off = np.where(constants[:, None] == 0, 0, 2.0**-23 * np.abs(middle))
        lowest, highest = (middle - off).astype(np.float32), (middle + off).astype(np.float32)
    # Where sums overflow, a score may be no number.
    lowest[np.isnan(lowest)], highest[np.isnan(highest)] = -np.inf, np.inf
    return lowest, highest
