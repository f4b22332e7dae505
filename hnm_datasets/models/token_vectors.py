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

    Half precision halves the size. It changes the dot product of two vectors of length 1 by some hundred-thousandths,
    less than the error of a model in bfloat16.

    Attributes:
        offsets: The start and end of each text's tokens. Shape (B + 1,).
        vectors: One vector per token. Shape (T, D), float16.
    """

    offsets: NDArray[np.int64]
    vectors: NDArray[np.float16]

    @property
    def values(self) -> tuple[NDArray[Any], ...]:
        """The vectors."""
        return (self.vectors,)

    @classmethod
    def of(cls, offsets: NDArray[np.int64], *values: NDArray[Any]) -> TokenVectors:
        """Create token vectors from their offsets and vectors."""
        (vectors,) = values
        if vectors.dtype != np.float16 or vectors.ndim != 2:
            raise ValueError("The array does not contain token vectors.")
        return cls(offsets, vectors)

    @classmethod
    def empty(cls, count: int) -> TokenVectors:
        """Return `count` texts without tokens."""
        return cls(np.zeros(count + 1, np.int64), np.empty((0, 0), np.float16))

    def bad(self) -> int | None:
        """Return the first text without tokens or with a value that is NaN, infinite or beyond 65,504, or None."""
        wrong = self.lengths == 0
        owners = np.repeat(np.arange(len(self)), self.lengths)
        wrong[owners[~np.isfinite(self.vectors).all(axis=1)]] = True
        found = np.flatnonzero(wrong)
        return int(found[0]) if len(found) else None

    def fault(self, bad: int) -> tuple[str, str]:
        """Return the fault of the text that `bad` returned, and the remedy."""
        if not self.lengths[bad]:
            return "no token vectors", "Remove such texts, or check the words that the model's mask skips."
        return (
            "a NaN or infinite token vector, or one with a value beyond 65,504,",
            "Normalize the vectors with a Normalize module at the end of the model, or remove such texts. Overflow in "
            "float16 weights often causes NaN.",
        )


def token_vectors(arrays: Sequence[Any]) -> TokenVectors:
    """Convert the outputs of a model to token vectors.

    Args:
        arrays: B arrays or tensors of shape (tokens, D).

    Raises:
        ValueError: The arrays have other shapes, or differ in D.

    Example:
        >>> vectors = token_vectors([[[1, 0], [0, 1]], [[0.5, 0.5]]])
        >>> vectors.offsets.tolist(), vectors.vectors.shape
        ([0, 2, 3], (3, 2))
    """
    found = [np.asarray(array.detach().cpu().float() if hasattr(array, "detach") else array) for array in arrays]
    shapes = {array.shape[1:] for array in found if len(array)}
    if any(array.ndim != 2 and len(array) for array in found) or len(shapes) > 1:
        raise ValueError(
            f"Token vectors must be one array of shape (tokens, D) per text, with the same D for all texts, got the "
            f"shapes {sorted({array.shape for array in found})[:4]}."
        )
    filled = [array for array in found if len(array)]
    if not filled:
        return TokenVectors.empty(len(found))
    with np.errstate(over="ignore"):
        vectors = np.concatenate(filled).astype(np.float16)
    return TokenVectors(offsets_of(np.array([len(array) for array in found])), vectors)
