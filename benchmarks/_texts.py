"""Texts of words whose frequencies fall as those of a language do, made from a number alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from _common import SEED
from _vectors import QUERIES
from numpy.typing import NDArray

WORDS, LEFT_OUT, VOCABULARY = 50, 50, 200_000
#: Passages or queries made at a time.
BATCH = 1000


def words_of(seed: int, count: int, length: int) -> list[str]:
    """Draw texts of words whose frequency is inverse to their rank (Zipf 1935)."""
    shares, names = _vocabulary()
    drawn = np.searchsorted(shares, np.random.default_rng((SEED, seed)).random((count, length)))
    return [" ".join(line) for line in names[drawn]]


@lru_cache(maxsize=1)
def _vocabulary() -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    ranks = np.arange(LEFT_OUT, VOCABULARY)
    cumulated = np.cumsum(1 / (ranks + 2.7))
    return cumulated / cumulated[-1], np.array([f"w{rank:x}" for rank in ranks])


def passages(starts: list[int], size: int) -> Iterator[dict[str, str]]:
    """Yield passages; the number that each ends with is that of its vector."""
    for start in starts:
        texts = words_of(start, min(BATCH, size - start), WORDS)
        for row, text in enumerate(texts, start):
            yield {"id": f"p{row}", "text": f"{text} {row:09d}"}


def queries(start: int, count: int, size: int) -> dict[str, list[Any]]:
    """Return queries of eight words of a passage, which is their positive."""
    rng = np.random.default_rng((SEED, 1, start))
    blocks = rng.integers(0, max(1, size // BATCH), -(-count // 50))
    texts, positives = [], []
    for block in blocks.tolist():
        drawn = words_of(block * BATCH, min(BATCH, size), WORDS)
        for row in rng.integers(0, len(drawn), 50).tolist():
            words = rng.choice(drawn[row].split(), 8, replace=False)
            texts.append(f"{' '.join(words)} {QUERIES + start + len(texts):09d}")
            positives.append([f"p{block * BATCH + row}"])
    ids = [f"q{start + row}" for row in range(count)]
    return {"query_id": ids, "query": texts[:count], "positive_ids": positives[:count]}
