"""What an exact search has to score: all passages that bounds of quick scores do not exclude."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.indexes.bounds import BLOCK, OUTPUT, Blocks, as_asked, as_products, bounds_of_exact, widths
from hnm_datasets.indexes.kept import Kept
from hnm_datasets.indexes.quantized import Quantized
from hnm_datasets.indexes.quick import whole_products

#: Queries of a product: with the passages of a block, their scores stay in the second-level cache.
_PART = 512
#: How often each kind of products is tried: in the first turns, all threads compile and read what is not yet in memory.
_TRIES = 4
#: Numbers that a vector needs for products of whole numbers.
_FEWEST = 8

#: Scores passages of some queries exactly: (numbers of queries, row numbers, how many count) -> rows and scores.
Rank = Callable[[NDArray[np.int64], NDArray[np.uint32], NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[Any]]]


class Known:
    """What a search knows of vectors beside themselves, found out when it is needed.

    Args:
        vectors: Shape (N, D), float32 or float16.
        similarity: `"cosine"`, `"dot"` or `"euclidean"`.
        quantized: The folder of the vectors in whole numbers; None: they are rounded in memory.
    """

    def __init__(self, vectors: NDArray[Any], similarity: str, quantized: Path | None = None) -> None:
        self.vectors, self.similarity, self._folder = vectors, similarity, quantized
        self._seconds: dict[tuple[str, int], list[float]] = {}

    @cached_property
    def blocks(self) -> Blocks:
        """The norms of vectors and of what bfloat16 takes away."""
        return Blocks.of(self.vectors, self.similarity)

    @cached_property
    def quantized(self) -> Quantized:
        """The vectors in whole numbers."""
        return Quantized.of(self.vectors) if self._folder is None else Quantized.open(self._folder)

    def way(self, k: int, products: frozenset[str]) -> str:
        """Return by which products to search: each is tried some times, then the quickest is taken.

        Those of bytes leave more passages in doubt than others, how many depends on the vectors and on k.
        """
        whole = is_whole(self.similarity, self.vectors.shape[1], products)
        ways = ["int8"] * whole + ["bfloat16" if "bfloat16" in products else "float32"]
        tried = {way: self._seconds.get((way, k.bit_length()), []) for way in ways}
        fewest = min(ways, key=lambda way: len(tried[way]))
        return fewest if len(tried[fewest]) < _TRIES else min(ways, key=lambda way: min(tried[way]))

    def note(self, way: str, k: int, seconds: float) -> None:
        """Take down how long a query took."""
        tried = self._seconds.setdefault((way, k.bit_length()), [])
        if len(tried) < _TRIES:
            tried.append(seconds)


def is_whole(similarity: str, dimension: int, products: frozenset[str]) -> bool:
    """Return whether scores of this similarity are compared by products of whole numbers, where these are quick."""
    # A distance compares by the product and half a square, which as one more number would need all digits. Of vectors
    # of one number torch 2.13 gives wrong products, and of few there is nothing to gain.
    return "int8" in products and similarity != "euclidean" and dimension >= _FEWEST


def find(queries: NDArray[np.float32], known: Known, k: int, way: str, rank: Rank) -> Kept:
    """Find all passages that may be among the k best of each query.

    Args:
        queries: Shape (B, D).
        known: The vectors.
        k: At most N.
        way: By which products: `"int8"`, `"bfloat16"` or `"float32"`.
        rank: Scores what bounds alone do not tell apart.
    """
    if way == "int8":
        return _by_whole_numbers(queries, known, k, rank)
    return _by_floats(queries, known, k, rank, rounded=way == "bfloat16")


def _by_whole_numbers(queries: NDArray[np.float32], known: Known, k: int, rank: Rank) -> Kept:
    """Do it by products of whole numbers."""
    import torch

    kept, quantized, asked = Kept(len(queries), k), known.quantized, known.quantized.ask(queries)
    numbers, products = torch.from_numpy(asked.vectors), torch.empty(_PART * BLOCK, dtype=torch.int32)
    factors = np.empty((BLOCK, queries.shape[1]), dtype=np.int8)
    for number, first in enumerate(range(0, len(quantized.vectors), BLOCK)):
        _settle(kept, kept.crowded(), queries, known.similarity, asked.constants, rank)
        block = quantized.vectors[first : first + BLOCK]
        # What is mapped is read-only, which torch knows no tensors for.
        factors[: len(block)] = block
        transposed = torch.from_numpy(factors[: len(block)]).T
        for start in range(0, len(queries), _PART):
            part = slice(start, min(start + _PART, len(queries)))
            size = part.stop - part.start
            out = products[: size * len(block)].view(size, len(block))
            whole_products(numbers[part], transposed, out)
            scales = asked.scales[part] * quantized.scales[number]
            kept.add_whole(part, out.numpy(), scales, first, asked.widths[part, number])
    kept.thin_out(k)
    return kept


def _by_floats(queries: NDArray[np.float32], known: Known, k: int, rank: Rank, *, rounded: bool) -> Kept:
    """Do it by products in bfloat16 or float32."""
    import torch

    dtype, share, shift = (torch.bfloat16, OUTPUT, 16) if rounded else (torch.float32, 0.0, 0)
    kept, vectors, similarity = Kept(len(queries), k), known.vectors, known.similarity
    asked = torch.from_numpy(as_asked(queries, similarity)).to(dtype)
    errors = widths(queries, known.blocks, similarity, rounded=rounded)
    factors = torch.empty(BLOCK, asked.shape[1], dtype=dtype)
    products = torch.empty(len(queries) * BLOCK, dtype=dtype)
    constants = np.zeros(len(queries))
    for number, first in enumerate(range(0, len(vectors), BLOCK)):
        _settle(kept, kept.crowded(), queries, similarity, constants, rank)
        block = as_products(np.asarray(vectors[first : first + BLOCK], dtype=np.float32), similarity)
        out = products[: len(queries) * len(block)].view(len(queries), len(block))
        torch.mm(asked, factors[: len(block)].copy_(torch.from_numpy(block)).T, out=out)
        bits = out.view(torch.uint16 if rounded else torch.uint32).numpy()
        kept.add(bits, shift, share, first, errors[:, number])
    kept.thin_out(k)
    return kept


def _settle(
    kept: Kept,
    which: NDArray[np.int64],
    queries: NDArray[np.float32],
    similarity: str,
    constants: NDArray[np.float64],
    rank: Rank,
) -> None:
    """Score what is kept of some queries exactly and leave the k best: bounds alone did not tell them apart."""
    if not len(which):
        return
    rows, scores = rank(which, kept.rows[which], kept.counts[which])
    kept.replace(which, rows, *bounds_of_exact(queries[which], scores, similarity, constants[which]))
