"""Queries as tokens of a BM25 index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, offsets_of, take_lists
from hnm_datasets.indexes.bm25_analyzer import Analyzer
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.tables import KeyTable


@dataclass(frozen=True)
class Tokens:
    """B encoded queries.

    Attributes:
        lists: The tokens of each query.
        constants: The constant part of the scores of each query, the same for all passages. Shape (B,).
    """

    lists: Ragged[NDArray[np.int64]]
    constants: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.lists)

    def take(self, which: NDArray[np.integer]) -> Tokens:
        """Return some of the queries."""
        return Tokens(take_lists(self.lists, which), self.constants[which])


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of an index, with their constants, and the tokenization."""

    table: KeyTable
    constants: NDArray[np.float32]
    analyzer: Analyzer

    def tokens_of(self, queries: Sequence[str]) -> Tokens:
        """Return the tokens of each query that are in the vocabulary, including repetitions."""
        words_of = self.analyzer.words()
        found = [words_of(query) for query in queries]
        words = list(dict.fromkeys(chain.from_iterable(found)))
        token_of = dict(zip(words, self.table.find(digest_strings(self.analyzer.tokens(words))).tolist(), strict=True))
        flat = np.array([token_of[word] for word in chain.from_iterable(found)], dtype=np.int64)
        owners = np.repeat(np.arange(len(queries)), [len(query) for query in found])[flat >= 0]
        tokens = flat[flat >= 0]
        offsets = offsets_of(np.bincount(owners, minlength=len(queries)))
        sums = np.bincount(owners, weights=self.constants[tokens], minlength=len(queries)).astype(np.float32)
        return Tokens(Ragged(offsets, tokens), sums)
