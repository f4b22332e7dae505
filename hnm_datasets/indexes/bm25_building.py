"""Building a BM25 index: count the tokens of all shards, then compute the weights of each shard.

bm25s can only index a whole corpus, from Python lists in memory.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout

from hnm_datasets.arrays.ragged import offsets_of
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.indexes.bm25_analyzer import Analyzer
from hnm_datasets.indexes.bm25_counts import Counts, Statistics, TokenCounter
from hnm_datasets.indexes.bm25_files import save_formula, save_vocabulary, writing_postings
from hnm_datasets.indexes.bm25_weights import Formula
from hnm_datasets.indexes.shards import rows_of_shard, shard_in_words, shard_suffix
from hnm_datasets.runtime.bars import DELAY, ProgressBar
from hnm_datasets.storage.about import About
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.folders import build_once, cache_root
from hnm_datasets.storage.manifest import is_complete

#: Part of the fingerprint of an index; increase it when the files or the scores change.
_FORMAT = 4

_CHUNK = 20_000

#: Postings per chunk when computing weights, to limit memory.
_POSTINGS = 1 << 20


@dataclass(frozen=True)
class CountedTokens:
    """Token counts of a corpus or of its shards. The counts of shards are cached in the cache directory.

    Attributes:
        corpus: The passages.
        analyzer: Their tokenization.
        shard: The shard to index; None: the whole corpus.
    """

    corpus: Corpus
    analyzer: Analyzer
    shard: tuple[int, int] | None

    def content(self, shard: tuple[int, int] | None) -> dict[str, Any]:
        """Return everything that the tokens of a shard depend on, for fingerprints."""
        content = {
            "format": _FORMAT,
            "corpus": self.corpus.fingerprint,
            "tokens": self.analyzer.content,
        }
        return content if shard is None else content | {"shard": list(shard)}

    def write_index(self, folder: Path, formula: Formula) -> None:
        """Compute the weights of the tokens and write the index to a folder.

        The shards of a corpus share one vocabulary, stored once in the folder of their statistics. (bm25s does not
        support shards and opens only indexes of a whole corpus.)
        """
        if self.shard is None:
            counts, tokens = self.count(None)
            statistics = Statistics.of([counts])
            # The tokens are in the order of their numbers. The last one is the empty token of bm25s.
            save_vocabulary(folder, statistics.vocabulary, {token: i for i, token in enumerate([*tokens, ""])})
            del tokens
        else:
            counts, statistics = Counts.open(self.counts_of(self.shard[0])), Statistics.open(self.statistics())
        # A token that only other shards contain has no postings here.
        frequencies = np.zeros(len(statistics.frequencies), dtype=np.int64)
        frequencies[statistics.vocabulary.find(counts.vocabulary)] = np.diff(counts.starts)
        # The mean length is 0 only in a corpus of stop words alone, which has no postings.
        relative_lengths = counts.lengths / (statistics.tokens / statistics.passages or 1.0)
        rarity = formula.rarity(statistics.passages, statistics.frequencies)
        floor = formula.saturation(np.zeros(1), np.ones(1))[0]
        owners = np.repeat(np.arange(len(frequencies), dtype=np.int32), frequencies)
        desc = f"Scoring postings (BM25{shard_suffix(self.shard)})"
        with (
            writing_postings(folder, offsets_of(frequencies), counts.postings) as append,
            ProgressBar(len(owners), desc, "postings", delay=DELAY) as bar,
        ):
            for start in range(0, len(owners), _POSTINGS):
                chunk = slice(start, start + _POSTINGS)
                lengths = relative_lengths[counts.postings[chunk]]
                saturated = formula.saturation(counts.counts[chunk].astype(np.float64), lengths)
                append(rarity[owners[chunk]] * (saturated - floor))
                bar.update(len(saturated))
        save_formula(folder, formula, len(counts.lengths), rarity * floor)

    def count(self, shard: tuple[int, int] | None) -> tuple[Counts, list[str]]:
        """Count the tokens of each passage of a shard, or of the corpus; return the counts and the tokens."""
        rows = rows_of_shard(shard, len(self.corpus))
        words_of, counter = self.analyzer.words(), TokenCounter(self.analyzer.tokens)
        with ProgressBar(len(rows), f"Indexing passages (BM25{shard_suffix(shard)})", "passages") as bar:
            for chunk in self.corpus.iter_texts(_CHUNK, rows):
                counter.add([words_of(text) for text in chunk.to_pylist()])
                bar.update(len(chunk))
        return counter.counts()

    def counts_of(self, number: int, timeout: float = -1) -> Path:
        """Return the folder with the counts of one shard, cached. They do not depend on the formula."""
        assert self.shard is not None
        shard = (number, self.shard[1])
        name = fingerprint({"kind": "bm25-counts"} | self.content(shard))

        def build(folder: Path) -> None:
            counts, _ = self.count(shard)
            counts.save(folder)

        about = About(
            "bm25-counts", "BM25Index", shard_in_words(shard), cache_root() / "corpora" / self.corpus.fingerprint
        )
        return build_once(cache_root() / "bm25-counts", name, build, about, timeout=timeout)

    def statistics(self) -> Path:
        """Return the folder with the total counts of all shards, cached."""
        assert self.shard is not None
        own, shards = self.shard
        content = {"kind": "bm25-statistics", "shards": shards}
        name = fingerprint(content | self.content(None))

        def build(folder: Path) -> None:
            Statistics.of([Counts.open(self.counts_of(shard)) for shard in range(shards)]).save(folder)

        parent = cache_root() / "bm25-statistics"
        if not is_complete(parent / name):
            # Count before `build_once` takes the lock of the statistics, so that waiting processes can count too. Each
            # process starts with its own shard and skips shards that others are counting, so they share the work.
            for step in range(shards):
                with contextlib.suppress(Timeout):
                    self.counts_of((own + step) % shards, timeout=0)
            for shard in range(shards):
                self.counts_of(shard)
        of = cache_root() / "corpora" / self.corpus.fingerprint
        return build_once(parent, name, build, About("bm25-statistics", "BM25Index", f"{shards}", of))
