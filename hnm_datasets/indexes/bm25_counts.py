"""Token counts of a corpus or of its shards, from which the BM25 weights are computed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import first_of_runs, offsets_of
from hnm_datasets.indexes import bm25_kernels
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.mapped import open_array, save_array
from hnm_datasets.storage.tables import KeyTable


@dataclass(frozen=True)
class Counts:
    """The counts of V tokens in n passages, by token.

    Attributes:
        starts: Where the postings of each token begin and end. Shape (V + 1,).
        postings: Passages, counted from 0, ascending for each token. Shape (P,).
        counts: The occurrences of the token in the passage. Shape (P,), float32.
        lengths: The number of tokens in each passage. Shape (n,).
        vocabulary: The digest of each token, ascending. Shape (V, 2).
    """

    starts: NDArray[np.int64]
    postings: NDArray[np.int32]
    counts: NDArray[np.float32]
    lengths: NDArray[np.float64]
    vocabulary: NDArray[np.uint64]

    def save(self, folder: Path) -> None:
        """Write the arrays to a folder."""
        for field in fields(self):
            save_array(folder, field.name, getattr(self, field.name))

    @classmethod
    def open(cls, folder: Path) -> Counts:
        """Map the arrays that `save` wrote."""
        arrays: Any = {field.name: open_array(folder, field.name) for field in fields(cls)}
        return cls(**arrays)


class TokenCounter:
    """Counts the tokens of passages chunk by chunk. It needs eight bytes per distinct token of a passage.

    Args:
        stem: Maps words to tokens, and stop words to the empty token, which is not counted.
    """

    def __init__(self, stem: Callable[[list[str]], list[str]]) -> None:
        self.stem = stem
        # Words and tokens are numbered in the order of first appearance.
        self.words: defaultdict[str, int] = defaultdict()
        self.words.default_factory = self.words.__len__
        self.tokens: defaultdict[str, int] = defaultdict()
        self.tokens.default_factory = self.tokens.__len__
        self.token_of = np.empty(0, dtype=np.int32)
        self.chunks: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]] = []
        self.lengths: list[NDArray[np.int64]] = []

    def add(self, passages: list[list[str]]) -> None:
        """Count the words of the next passages."""
        sizes = np.array([len(passage) for passage in passages], dtype=np.int64)
        words = self.words
        found = np.fromiter(map(words.__getitem__, chain.from_iterable(passages)), np.int32, int(sizes.sum()))
        new = list(islice(reversed(words), len(words) - len(self.token_of)))[::-1]
        stems = (self.tokens[stem] if stem else -1 for stem in self.stem(new))
        self.token_of = np.concatenate([self.token_of, np.fromiter(stems, np.int32, len(new))])
        tokens = self.token_of[found]
        kept = tokens >= 0
        owners = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[kept]
        pairs = (np.ones(len(owners), dtype=np.float32), (owners, tokens[kept]))
        summed = scipy.sparse.coo_array(pairs, shape=(len(sizes), len(self.tokens))).tocsr()
        self.chunks.append((np.diff(summed.indptr), summed.indices, summed.data))
        self.lengths.append(np.bincount(owners, minlength=len(sizes)))

    def counts(self) -> tuple[Counts, list[str]]:
        """Return the counts by token, and the tokens. This releases the memory of the counter; call it once."""
        distinct = list(self.tokens)
        # Sort by digest, as in a `KeyTable`, so that the order does not depend on the other tokens.
        digests = digest_strings(distinct)
        order = np.lexsort((digests[:, 1], digests[:, 0]))
        positions = np.empty(len(order), dtype=np.int32)
        positions[order] = np.arange(len(order), dtype=np.int32)
        frequencies = np.zeros(len(order), dtype=np.int64)
        for _, tokens, _ in self.chunks:
            frequencies += np.bincount(tokens, minlength=len(order))
        starts = offsets_of(frequencies[order])
        free = starts[:-1].copy()
        postings = np.empty(starts[-1], dtype=np.int32)
        counts = np.empty(starts[-1], dtype=np.float32)
        first = 0
        self.chunks.reverse()
        while self.chunks:
            sizes, tokens, numbers = self.chunks.pop()
            bm25_kernels.scatter(first, sizes, positions[tokens], numbers, free, postings, counts)
            first += len(sizes)
        lengths = np.concatenate([np.empty(0, np.int64), *self.lengths]).astype(np.float64)
        return Counts(starts, postings, counts, lengths, digests[order]), [distinct[token] for token in order.tolist()]


@dataclass(frozen=True)
class Statistics:
    """The statistics of a whole corpus that the formulas need.

    Attributes:
        vocabulary: The number of each token.
        frequencies: The document frequency of each token. Shape (V,).
        passages: The number of passages.
        tokens: The number of tokens in all passages.
    """

    vocabulary: KeyTable
    frequencies: NDArray[np.int64]
    passages: int
    tokens: float

    @classmethod
    def of(cls, shards: list[Counts]) -> Statistics:
        """Sum the counts of all shards."""
        digests = np.concatenate([shard.vocabulary for shard in shards])
        frequencies = np.concatenate([np.diff(shard.starts) for shard in shards])
        order = np.lexsort((digests[:, 1], digests[:, 0]))
        digests, frequencies = digests[order], frequencies[order]
        first = first_of_runs(digests[:, 0], digests[:, 1])
        totals = np.add.reduceat(frequencies, np.flatnonzero(first)) if len(first) else frequencies
        return cls(
            KeyTable.from_digests(digests[first]),
            totals,
            sum(len(shard.lengths) for shard in shards),
            float(sum(shard.lengths.sum() for shard in shards)),
        )

    def save(self, folder: Path) -> None:
        """Write the arrays to a folder."""
        self.vocabulary.save(folder, "vocabulary")
        save_array(folder, "frequencies", self.frequencies)
        save_array(folder, "sizes", np.array([self.passages, self.tokens]))

    @classmethod
    def open(cls, folder: Path) -> Statistics:
        """Map the arrays that `save` wrote."""
        sizes = open_array(folder, "sizes")
        frequencies: Any = open_array(folder, "frequencies")
        return cls(KeyTable.open(folder, "vocabulary"), frequencies, int(sizes[0]), float(sizes[1]))
