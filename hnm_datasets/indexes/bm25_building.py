"""Building a BM25 index: the tokens of a corpus are counted, of all shards before any is weighed.

bm25s builds only the index of a whole corpus that it holds in memory as Python lists.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets.utils import tqdm
from filelock import Timeout

from hnm_datasets.arrays.ragged import offsets_of
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.indexes.bm25_analyzer import Analyzer
from hnm_datasets.indexes.bm25_counts import Counts, Statistics, TokenCounter
from hnm_datasets.indexes.bm25_files import save_formula, save_vocabulary, writing_postings
from hnm_datasets.indexes.bm25_weights import Formula
from hnm_datasets.indexes.shards import rows_of_shard
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.folders import build_once, cache_root
from hnm_datasets.storage.manifest import is_complete

#: Goes into every index's fingerprint; raise it when the files or the scores change.
_FORMAT = 4

_CHUNK = 20_000

#: Postings weighed at a time, which bounds the memory of building.
_POSTINGS = 1 << 20


@dataclass(frozen=True)
class CountedTokens:
    """The counts of the tokens of a corpus, or of its shards, which are made once and kept in the cache directory.

    Attributes:
        corpus: The passages.
        analyzer: What their tokens are.
        shard: The shard to index; None: the whole corpus.
    """

    corpus: Corpus
    analyzer: Analyzer
    shard: tuple[int, int] | None

    def content(self, shard: tuple[int, int] | None) -> dict[str, Any]:
        """Return everything that the tokens of a shard of the corpus depend on."""
        content = {
            "format": _FORMAT,
            "corpus": self.corpus.fingerprint,
            "tokens": self.analyzer.content,
        }
        return content if shard is None else content | {"shard": list(shard)}

    def write_index(self, folder: Path, formula: Formula) -> None:
        """Weigh the tokens and write the index to a folder.

        The shards of a corpus share one vocabulary, which is in the folder of their statistics, once: bm25s, which
        knows no shards, opens the index of a whole corpus.
        """
        if self.shard is None:
            counts, tokens = self.count(range(len(self.corpus)))
            statistics = Statistics.of([counts])
            # The tokens are in the order of their numbers, and the last is the empty one of bm25s.
            save_vocabulary(folder, statistics.vocabulary, {token: i for i, token in enumerate([*tokens, ""])})
            del tokens
        else:
            counts, statistics = Counts.open(self.counts_of(self.shard[0])), Statistics.open(self.statistics())
        # A token that this shard lacks has no postings; other shards have them.
        frequencies = np.zeros(len(statistics.frequencies), dtype=np.int64)
        frequencies[statistics.vocabulary.find(counts.vocabulary)] = np.diff(counts.starts)
        # Only a corpus of nothing but stop words has a mean length of 0, and it has no postings to divide for.
        relative_lengths = counts.lengths / (statistics.tokens / statistics.passages or 1.0)
        rarity = formula.rarity(statistics.passages, statistics.frequencies)
        floor = formula.saturation(np.zeros(1), np.ones(1))[0]
        owners = np.repeat(np.arange(len(frequencies), dtype=np.int32), frequencies)
        with writing_postings(folder, offsets_of(frequencies), counts.postings) as append:
            for start in range(0, len(owners), _POSTINGS):
                chunk = slice(start, start + _POSTINGS)
                lengths_here = relative_lengths[counts.postings[chunk]]
                saturated = formula.saturation(counts.counts[chunk].astype(np.float64), lengths_here)
                append(rarity[owners[chunk]] * (saturated - floor))
        save_formula(folder, formula, len(counts.lengths), rarity * floor)

    def count(self, rows: range) -> tuple[Counts, list[str]]:
        """Count how often each passage holds each token; return also the tokens."""
        words_of, counter = self.analyzer.words(), TokenCounter(self.analyzer.tokens)
        with tqdm(total=len(rows), desc="Indexing passages (BM25)", unit=" passages") as bar:
            for chunk in self.corpus.iter_texts(_CHUNK, rows):
                counter.add([words_of(text) for text in chunk.to_pylist()])
                bar.update(len(chunk))
        return counter.counts()

    def counts_of(self, number: int, timeout: float = -1) -> Path:
        """Return the folder of the counts of one shard, made once; another method or k1 needs no others."""
        assert self.shard is not None
        shard = (number, self.shard[1])
        name = fingerprint({"kind": "bm25-counts"} | self.content(shard))

        def build(folder: Path) -> None:
            counts, _ = self.count(rows_of_shard(shard, len(self.corpus)))
            counts.save(folder)

        return build_once(cache_root() / "bm25-counts", name, build, timeout=timeout)

    def statistics(self) -> Path:
        """Return the folder of the counts of all shards together, made once."""
        assert self.shard is not None
        own, shards = self.shard
        content = {"kind": "bm25-statistics", "shards": shards}
        name = fingerprint(content | self.content(None))

        def build(folder: Path) -> None:
            Statistics.of([Counts.open(self.counts_of(shard)) for shard in range(shards)]).save(folder)

        parent = cache_root() / "bm25-statistics"
        if not is_complete(parent / name):
            # The lock of the statistics is held while they are made: a process that waits for it could be counting.
            # Each process begins with its own shard and skips those that others count, so that they share the work.
            for step in range(shards):
                with contextlib.suppress(Timeout):
                    self.counts_of((own + step) % shards, timeout=0)
            for shard in range(shards):
                self.counts_of(shard)
        return build_once(parent, name, build)
