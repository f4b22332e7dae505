"""The candidates of an exact search: all passages that the bounds of quick scores do not exclude."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.indexes.bounds import BLOCK, OUTPUT, Blocks, as_products, bounds_of_exact, query_factors, widths
from hnm_datasets.indexes.candidate_set import CandidateSet
from hnm_datasets.indexes.quantized import Quantized
from hnm_datasets.models.torch_internals import integer_products

#: Queries per matrix product. Their scores of a block of passages fit into the L2 cache.
_PART = 512
#: How often each kind of products is timed. The first chunks are slow: threads compile, and read vectors from disk.
_TRIES = 4
#: The minimum dimension of vectors for integer products.
_MIN_DIMENSION = 8

#: Ranks passages of given queries exactly: (query numbers, row numbers, valid rows per query) -> rows and scores.
Rank = Callable[[NDArray[np.int64], NDArray[np.uint32], NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[Any]]]


class Known:
    """Data derived from vectors that speeds up searches, computed on first use.

    Args:
        vectors: Shape (N, D), float32 or float16.
        similarity: `"cosine"`, `"dot"` or `"euclidean"`.
        quantized: The folder of the quantized vectors; None: quantize in memory.
    """

    def __init__(self, vectors: NDArray[Any], similarity: str, quantized: Path | None = None) -> None:
        self.vectors, self.similarity, self._folder = vectors, similarity, quantized
        self._seconds: dict[tuple[str, int], list[float]] = {}

    @cached_property
    def blocks(self) -> Blocks:
        """The norms for the error bounds."""
        return Blocks.of(self.vectors, self.similarity)

    @cached_property
    def quantized(self) -> Quantized:
        """The vectors as 8-bit integers."""
        return Quantized.of(self.vectors) if self._folder is None else Quantized.open(self._folder)

    def way(self, k: int, products: frozenset[str]) -> str:
        """Return the kind of products to search with: time each a few times, then use the fastest.

        Integer products leave more passages undecided than other products. How many depends on the vectors and k.
        """
        use_int8 = supports_int8(self.similarity, self.vectors.shape[1], products)
        ways = ["int8"] * use_int8 + ["bfloat16" if "bfloat16" in products else "float32"]
        tried = {way: self._seconds.get((way, k.bit_length()), []) for way in ways}
        fewest = min(ways, key=lambda way: len(tried[way]))
        return fewest if len(tried[fewest]) < _TRIES else min(ways, key=lambda way: min(tried[way]))

    def note(self, way: str, k: int, seconds: float) -> None:
        """Record the seconds per query."""
        tried = self._seconds.setdefault((way, k.bit_length()), [])
        if len(tried) < _TRIES:
            tried.append(seconds)


def supports_int8(similarity: str, dimension: int, products: frozenset[str]) -> bool:
    """Return whether a search can use integer products, and whether they are fast on this processor."""
    # Euclidean distances need half a square in addition to the product, and 8 bits are not enough for it. With
    # dimension 1, torch 2.13 gives wrong products, and with small dimensions there is nothing to gain.
    return "int8" in products and similarity != "euclidean" and dimension >= _MIN_DIMENSION


def find(queries: NDArray[np.float32], known: Known, k: int, way: str, rank: Rank) -> CandidateSet:
    """Find all passages that may be among the k best of each query.

    Args:
        queries: Shape (B, D).
        known: The vectors.
        k: At most N.
        way: The kind of products: `"int8"`, `"bfloat16"` or `"float32"`.
        rank: Scores passages exactly, for queries with too many candidates.
    """
    if way == "int8":
        return _by_integers(queries, known, k, rank)
    return _by_floats(queries, known, k, rank, rounded=way == "bfloat16")


def _by_integers(queries: NDArray[np.float32], known: Known, k: int, rank: Rank) -> CandidateSet:
    """Find the candidates with integer products."""
    import torch

    kept, quantized, encoded = CandidateSet(len(queries), k), known.quantized, known.quantized.encode(queries)
    numbers, products = torch.from_numpy(encoded.vectors), torch.empty(_PART * BLOCK, dtype=torch.int32)
    factors = np.empty((BLOCK, queries.shape[1]), dtype=np.int8)
    for number, first in enumerate(range(0, len(quantized.vectors), BLOCK)):
        _settle(kept, kept.overfull(), queries, known.similarity, encoded.constants, rank)
        block = quantized.vectors[first : first + BLOCK]
        # Copy the block: torch does not support read-only (memory-mapped) arrays.
        factors[: len(block)] = block
        transposed = torch.from_numpy(factors[: len(block)]).T
        for start in range(0, len(queries), _PART):
            part = slice(start, min(start + _PART, len(queries)))
            size = part.stop - part.start
            out = products[: size * len(block)].view(size, len(block))
            integer_products(numbers[part], transposed, out)
            scales = encoded.scales[part] * quantized.scales[number]
            kept.add_integers(part, out.numpy(), scales, first, encoded.widths[part, number])
    kept.prune(k)
    return kept


def _by_floats(queries: NDArray[np.float32], known: Known, k: int, rank: Rank, *, rounded: bool) -> CandidateSet:
    """Find the candidates with products in bfloat16 or float32."""
    import torch

    dtype, relative_error, shift = (torch.bfloat16, OUTPUT, 16) if rounded else (torch.float32, 0.0, 0)
    kept, vectors, similarity = CandidateSet(len(queries), k), known.vectors, known.similarity
    encoded = torch.from_numpy(query_factors(queries, similarity)).to(dtype)
    errors = widths(queries, known.blocks, similarity, rounded=rounded)
    factors = torch.empty(BLOCK, encoded.shape[1], dtype=dtype)
    products = torch.empty(len(queries) * BLOCK, dtype=dtype)
    constants = np.zeros(len(queries))
    for number, first in enumerate(range(0, len(vectors), BLOCK)):
        _settle(kept, kept.overfull(), queries, similarity, constants, rank)
        block = as_products(np.asarray(vectors[first : first + BLOCK], dtype=np.float32), similarity)
        out = products[: len(queries) * len(block)].view(len(queries), len(block))
        torch.mm(encoded, factors[: len(block)].copy_(torch.from_numpy(block)).T, out=out)
        bits = out.view(torch.uint16 if rounded else torch.uint32).numpy()
        kept.add(bits, shift, relative_error, first, errors[:, number])
    kept.prune(k)
    return kept


def _settle(
    kept: CandidateSet,
    which: NDArray[np.int64],
    queries: NDArray[np.float32],
    similarity: str,
    constants: NDArray[np.float64],
    rank: Rank,
) -> None:
    """Score the candidates of some queries exactly and keep the k best, because the bounds leave too many."""
    if not len(which):
        return
    rows, scores = rank(which, kept.rows[which], kept.counts[which])
    kept.replace(which, rows, *bounds_of_exact(queries[which], scores, similarity, constants[which]))
