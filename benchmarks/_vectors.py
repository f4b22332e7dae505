"""Vectors made from a number alone, a block at a time: any number of them, and none held."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from _common import measured
from datasets import Dataset
from numpy.typing import NDArray

import hnm_datasets as hnm

DIMENSION = 64
CLUSTERS, NOISE = 1000, 0.7
#: Numbers from here on are queries'.
QUERIES = 900_000_000
_BLOCK = 4096


class NumberedVectors:
    """A function model: a text's vector comes from the number that it ends with, whatever else is asked for.

    Args:
        kind: `"random"` unit vectors, or `"clustered"` around 1,000 random centres.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.fingerprint = f"numbered-{kind}-1"

    def __call__(self, texts: list[str]) -> NDArray[np.float32]:
        return self.vectors(np.array([int(text[-9:]) for text in texts]))

    def vectors(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        found = np.empty((len(numbers), DIMENSION), dtype=np.float32)
        for block in np.unique(numbers // _BLOCK):
            here = numbers // _BLOCK == block
            found[here] = _block(self.kind, int(block))[numbers[here] % _BLOCK]
        return found


@lru_cache(maxsize=4)
def _block(kind: str, block: int) -> NDArray[np.float32]:
    rng = np.random.default_rng([1, block])
    vectors = _unit(rng.standard_normal((_BLOCK, DIMENSION), dtype=np.float32))
    if kind == "random":
        return vectors
    centres = _unit(np.random.default_rng(0).standard_normal((CLUSTERS, DIMENSION), dtype=np.float32))
    return _unit(centres[rng.integers(0, CLUSTERS, _BLOCK)] + NOISE * vectors)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def task_embed(kind: str, size: int) -> dict[str, Any]:
    """Make a corpus and embed it, after a small one."""
    model, spent = NumberedVectors(kind), {}

    def corpus(name: str, length: int) -> hnm.Corpus:
        ids = [f"{name} {i:09d}" for i in range(length)]
        return hnm.Corpus.from_dataset(Dataset.from_dict({"id": ids, "text": ids}))

    passages = corpus("passage", size)
    corpus("warm-up", 100).embed(model, fingerprint=model.fingerprint)
    with measured(spent):
        embeddings = passages.embed(model, fingerprint=model.fingerprint)
    return {"seconds": spent["total"], "embeddings": embeddings.fingerprint}


def query_vectors(kind: str, count: int) -> NDArray[np.float32]:
    """Return vectors of numbers that no passage has. Shape (B, D)."""
    return NumberedVectors(kind).vectors(QUERIES + np.arange(count))
