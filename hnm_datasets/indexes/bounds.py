"""Error bounds of quick scores of pairs of vectors.

A search scores all pairs with a matrix product in bfloat16 or float32, and rescores exactly all pairs that the error of
the product leaves undecided. For vectors q and x rounded to q̃ and x̃, the product of the rounded vectors is within
‖q - q̃‖·‖x‖ + ‖q̃‖·‖x - x̃‖ of q·x (Cauchy-Schwarz), plus the rounding error of the sums (Higham 2002, *Accuracy and
Stability of Numerical Algorithms*, section 3.1). The norms of the rounding errors are computed from the vectors, so the
bound is a few times tighter than the worst case.

Euclidean distances d are compared by (|q|² - d²)/2 = q·x - |x|²/2. This is the product of (q, -1, -1) and x extended by
two numbers with the sum |x|²/2: its bfloat16 value, and the rounding error of that value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Passages in a block, which share one bound. The scores of a block fit into the L2 cache.
BLOCK = 512
#: The relative error of rounding a score to bfloat16, with a margin.
OUTPUT = 2.0**-8 * (1 + 2.0**-7)
#: The unit roundoff of float32.
_UNIT = 2.0**-24
#: Above this limit, sums of products may overflow.
_LARGEST = 1e38
#: Processors may flush smaller numbers to zero.
_SMALLEST = 2.0**-125


@dataclass(frozen=True)
class Blocks:
    """The norms that the error bounds need, per block of vectors.

    Attributes:
        norms: The largest norm of the factors from `as_products`. Shape (blocks,).
        errors: The largest norm of their rounding errors in bfloat16. Shape (blocks,).
        largest: The largest norm of the vectors, without the numbers that `as_products` adds. Shape (blocks,).
        on_device: The tensors that `device_search` keeps on a device.
    """

    norms: NDArray[np.float64]
    errors: NDArray[np.float64]
    largest: NDArray[np.float64]
    on_device: dict[tuple[str, int], Any] = field(default_factory=dict)

    @classmethod
    def of(cls, vectors: NDArray[Any], similarity: str) -> Blocks:
        """Compute the norms in one pass over the vectors, shape (N, D), float32 or float16."""
        found = np.empty((3, -(-len(vectors) // BLOCK)))
        for number, first in enumerate(range(0, len(vectors), BLOCK)):
            block = np.asarray(vectors[first : first + BLOCK], dtype=np.float32)
            factors = as_products(block, similarity)
            norms, errors = norms_of(factors)
            found[:, number] = (
                norms.max(),
                errors.max(),
                norms_of(block)[0].max() if factors is not block else norms.max(),
            )
        return cls(*found)


def as_products(vectors: NDArray[np.float32], similarity: str) -> NDArray[np.float32]:
    """Return the factors of passages, for products with those of `query_factors`. Shape (N, D or D + 2)."""
    if similarity != "euclidean":
        return vectors
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    # Clip to prevent overflow; the bound is infinite there anyway.
    halves = np.minimum(squares / 2, _LARGEST).astype(np.float32)
    first = to_bfloat16(halves).float().numpy()
    return np.column_stack([vectors, first, halves - first])


def query_factors(queries: NDArray[np.float32], similarity: str) -> NDArray[np.float32]:
    """Return the factors of queries, for products with those of `as_products`. Shape (B, D or D + 2)."""
    if similarity != "euclidean":
        return queries
    return np.pad(queries, ((0, 0), (0, 2)), constant_values=-1)


def to_bfloat16(numbers: NDArray[np.float32]) -> Any:
    """Round numbers to a bfloat16 tensor."""
    import torch

    return torch.from_numpy(numbers).bfloat16()


def norms_of(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the norms of vectors and of their rounding errors in bfloat16. Shapes (N,)."""
    parts = (vectors, vectors - to_bfloat16(vectors).float().numpy())
    norms, errors = (np.sqrt(np.einsum("ij,ij->i", part, part, dtype=np.float64)) for part in parts)
    return norms, errors


def widths(queries: NDArray[np.float32], blocks: Blocks, similarity: str, *, rounded: bool) -> NDArray[np.float32]:
    """Return the error bounds of the products of queries with the passages of each block.

    Args:
        queries: Shape (B, D).
        blocks: The norms of the passages.
        similarity: `"cosine"`, `"dot"` or `"euclidean"`.
        rounded: Whether the factors are rounded to bfloat16. The caller adds `OUTPUT` for rounding the products.

    Returns:
        The largest absolute difference to the exact score. Shape (B, blocks); infinite where sums may overflow.
    """
    query_norms, query_errors = (norms[:, None] for norms in norms_of(query_factors(queries, similarity)))
    found = exact_widths(query_norms, blocks.norms, queries.shape[1])
    if rounded:
        relative = _relative_error(queries.shape[1])
        found += (1 + relative) * (query_errors * blocks.norms + (query_norms + query_errors) * blocks.errors)
    if similarity == "euclidean":
        # The exact distance sums squares, and its square root is rounded too.
        squares = (query_norms + blocks.largest) ** 2
        found += _relative_error(queries.shape[1]) * squares
        found[squares > _LARGEST] = np.inf
    # Round up.
    return np.asarray(found * (1 + 2.0**-20), dtype=np.float32)


def exact_widths(query_norms: NDArray[np.float64], norms: NDArray[np.float64], dimension: int) -> NDArray[np.float64]:
    """Return the error bounds of sums of products in float32. They include the error of the exact score.

    Args:
        query_norms: The norms of queries. Shape (B, 1).
        norms: The norms of passages. Shape (blocks,).
        dimension: The number of summands.

    Returns:
        The largest absolute error. Shape (B, blocks); infinite where sums may overflow.
    """
    # The sum of the quick product, and the sum of the exact score.
    found = _relative_error(dimension) * query_norms * norms + dimension * _SMALLEST * (1 + query_norms + norms)
    found[(query_norms + 1) * (norms + 1) > _LARGEST] = np.inf
    return found


def _relative_error(dimension: int) -> float:
    return 2 * (dimension + 16) * _UNIT


def bounds_of_exact(
    queries: NDArray[np.float32],
    scores: NDArray[np.float32],
    similarity: str,
    constants: NDArray[np.float64],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the lower and upper bounds of the products that correspond to exact scores. Shapes (B, K).

    Args:
        queries: Shape (B, D).
        scores: Exact scores. Shape (B, K).
        similarity: As for `widths`.
        constants: The part of the scores of each query that the products do not include. Shape (B,).
    """
    # Infinite scores stay infinite.
    with np.errstate(over="ignore", invalid="ignore"):
        if similarity == "euclidean":
            squares = np.einsum("ij,ij->i", queries, queries, dtype=np.float64)[:, None]
            distances = np.square(scores, dtype=np.float64)
            middle, error = (squares - distances) / 2, 2.0**-20 * (squares + distances)
        else:
            middle = scores - constants[:, None]
            error = np.where(constants[:, None] == 0, 0, 2.0**-23 * np.abs(middle))
        lowest, highest = (middle - error).astype(np.float32), (middle + error).astype(np.float32)
    # Where sums overflow, a score may be NaN.
    lowest[np.isnan(lowest)], highest[np.isnan(highest)] = -np.inf, np.inf
    return lowest, highest
