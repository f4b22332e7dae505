"""The BM25 formulas: rarity (inverse document frequency) and saturation (term frequency)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# ---- the formulas ------------------------------------------------------------------------------------------------
# score = sum over the query's tokens of rarity(token) * saturation(count of the token in the passage), as in Kamphuis
# et al. 2020. N: passages; n: passages that contain the token; f: count; l: length relative to the mean.

_Numbers = NDArray[np.float64]

METHODS = ("lucene", "robertson", "atire", "bm25l", "bm25+")

_RARITY: dict[str, Callable[[int, _Numbers], _Numbers]] = {
    "lucene": lambda N, n: np.log(1 + (N - n + 0.5) / (n + 0.5)),
    "robertson": lambda N, n: np.log(np.maximum((N - n + 0.5) / (n + 0.5), 1)),
    "atire": lambda N, n: np.log(N / n),
    "bm25l": lambda N, n: np.log((N + 1) / (n + 0.5)),
    "bm25+": lambda N, n: np.log((N + 1) / n),
}


def _classic(f: _Numbers, l: _Numbers, k1: float, b: float, delta: float) -> _Numbers:
    return f / (k1 * (1 - b + b * l) + f) if k1 else (f > 0).astype(np.float64)


_SATURATION: dict[str, Callable[[_Numbers, _Numbers, float, float, float], _Numbers]] = {
    "lucene": _classic,
    "robertson": _classic,
    "atire": lambda f, l, k1, b, delta: (k1 + 1) * _classic(f, l, k1, b, delta),
    "bm25l": lambda f, l, k1, b, delta: (k1 + 1) * (f / (1 - b + b * l) + delta) / (k1 + f / (1 - b + b * l) + delta),
    "bm25+": lambda f, l, k1, b, delta: (k1 + 1) * _classic(f, l, k1, b, delta) + delta,
}


@dataclass(frozen=True)
class Formula:
    """A BM25 formula with its parameters, see `BM25Index`."""

    method: str
    k1: float
    b: float
    delta: float

    @property
    def has_constants(self) -> bool:
        """Whether tokens add to the scores of passages without them: a per-query constant, kept separately."""
        return self.method in ("bm25l", "bm25+")

    def rarity(self, passages: int, frequencies: NDArray[np.int64]) -> _Numbers:
        """Return the inverse document frequency of each token, given its document frequency. Shape (V,)."""
        return _RARITY[self.method](passages, frequencies.astype(np.float64))

    def saturation(self, counts: _Numbers, lengths: _Numbers) -> _Numbers:
        """Return the term-frequency weight of counts in passages of given lengths relative to the mean. Shape (P,)."""
        return _SATURATION[self.method](counts, lengths, self.k1, self.b, self.delta)
