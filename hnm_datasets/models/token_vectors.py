"""The token vectors of texts as arrays, in half precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import offsets_of
from hnm_datasets.models.list_vectors import ListVectors


@dataclass(frozen=True, eq=False)
class TokenVectors(ListVectors):
    """The token vectors of B texts.

    Half precision takes half the space. Of vectors of length 1 it moves a dot product by some hundred-thousandths,
    less than what a model in bfloat16 is off.

    Attributes:
        offsets: Where the tokens of each text begin and end. Shape (B + 1,).
        vectors: A vector for each token. Shape (T, D), float16.
    """

    offsets: NDArray[np.int64]
    vectors: NDArray[np.float16]

    @property
    def values(self) -> tuple[NDArray[Any], ...]:
        """The vectors."""
        return (self.vectors,)

    @classmethod
    def of(cls, offsets: NDArray[np.int64], *values: NDArray[Any]) -> TokenVectors:
        """Make token vectors of their offsets and vectors."""
        (vectors,) = values
        if vectors.dtype != np.float16 or vectors.ndim != 2:
            raise ValueError("The array holds no token vectors.")
        return cls(offsets, vectors)

    @classmethod
    def empty(cls, count: int) -> TokenVectors:
        """Return so many texts without tokens."""
        return cls(np.zeros(count + 1, np.int64), np.empty((0, 0), np.float16))

    def bad(self) -> int | None:
        """Return the first text without a token, or with a number that is NaN, infinite or beyond 65,504."""
        wrong = self.lengths == 0
        owners = np.repeat(np.arange(len(self)), self.lengths)
        wrong[owners[~np.isfinite(self.vectors).all(axis=1)]] = True
        places = np.flatnonzero(wrong)
        return int(places[0]) if len(places) else None

    def fault(self, bad: int) -> tuple[str, str]:
        """Say what is wrong with the text that `bad` returned, and the way out."""
        if not self.lengths[bad]:
            return "no token vector", "Filter such texts out, or look at the words that the model's mask skips."
        return (
            "a NaN or infinite token vector, or one with a number beyond 65,504,",
            "Scale the vectors, by a Normalize module at the end of the model, or filter such texts out: NaN often "
            "comes from float16 weights that overflow.",
        )


def token_vectors(arrays: Sequence[Any]) -> TokenVectors:
    """Read what a model gives.

    Args:
        arrays: B arrays or tensors of shape (tokens, D).

    Raises:
        ValueError: They are something else.

    Example:
        >>> vectors = token_vectors([[[1, 0], [0, 1]], [[0.5, 0.5]]])
        >>> vectors.offsets.tolist(), vectors.vectors.shape
        ([0, 2, 3], (3, 2))
    """
    found = [np.asarray(array.detach().cpu().float() if hasattr(array, "detach") else array) for array in arrays]
    shapes = {array.shape[1:] for array in found if len(array)}
    if any(array.ndim != 2 and len(array) for array in found) or len(shapes) > 1:
        raise ValueError(
            f"Token vectors must be an array of shape (tokens, D) for each text, with one D for all, got the shapes "
            f"{sorted({array.shape for array in found})[:4]}."
        )
    filled = [array for array in found if len(array)]
    if not filled:
        return TokenVectors.empty(len(found))
    with np.errstate(over="ignore"):
        vectors = np.concatenate(filled).astype(np.float16)
    return TokenVectors(offsets_of(np.array([len(array) for array in found])), vectors)
