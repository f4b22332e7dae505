"""BM25 over a memory-mapped inverted index.

The scores are those of [bm25s](https://arxiv.org/abs/2407.03618) (Lù 2024): each posting carries the token's whole
contribution to the passage's score, computed once when the index is built, so that a search only adds up.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import bm25s.stopwords
import numpy as np
import Stemmer
from datasets.utils import tqdm
from filelock import Timeout
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.indexes import bm25_kernels
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.bm25_counts import Counter, Counts, Statistics
from hnm_datasets.indexes.bm25_weights import RARITY, SATURATION
from hnm_datasets.indexes.shards import checked_part, rows_of_part
from hnm_datasets.runtime.workers import threads
from hnm_datasets.storage.digests import digest_strings, fingerprint
from hnm_datasets.storage.folders import build_once, cache_root, folder_size, is_complete
from hnm_datasets.storage.mapped import append_array, open_array, save_array
from hnm_datasets.storage.tables import KeyTable

#: Goes into every index's fingerprint; raise it when the files or the scores change.
_FORMAT = 1


_CHUNK = 20_000


#: Queries per thread's turn: few enough that threads end together, many enough that a turn's buffer pays.
_TURN = 64


#: Postings weighed at a time, which bounds the memory of building.
_POSTINGS = 1 << 20


_METHODS = ("lucene", "robertson", "atire", "bm25l", "bm25+")


_STOP_WORDS = {
    name.removeprefix("STOPWORDS_").lower(): name
    for name in sorted(vars(bm25s.stopwords))
    if name.startswith("STOPWORDS_") and name not in ("STOPWORDS_EN", "STOPWORDS_EN_PLUS")
} | {"english": "STOPWORDS_EN", "english_plus": "STOPWORDS_EN_PLUS"}


@dataclass(frozen=True)
class BM25Index:
    """BM25 index of a corpus, built once, kept under the `datasets` cache directory and opened memory-mapped.

    Two passages with the same score come in the order of the corpus, so a deeper search begins with the answer of a
    shallower one. A passage that shares no token with the query is never an answer.

    Args:
        corpus: The passages.
        method: The formula: `"lucene"` (the default, as Elasticsearch and Pyserini score), `"robertson"`, `"atire"`,
            `"bm25l"` or `"bm25+"`; see Kamphuis et al. 2020, *Which BM25 Do You Mean?*
        k1: How slowly a repeated token stops adding to the score; 0 counts each token once. Usual: 0.9 to 2.
        b: How much long passages are discounted, from 0 (not at all) to 1 (in full proportion).
        delta: The floor that `"bm25l"` and `"bm25+"` give to a token in a long passage; the other methods ignore it.
        stemmer: The Snowball language, such as `"english"` or `"german"`; None: words are compared as they are.
        stopwords: A language with a built-in list, such as `"english"` or `"german"`, or the words themselves; None:
            every word counts.
        token_pattern: The regular expression that finds the tokens in the lower-cased text.
        part: `(i, n)`: index the i-th of n parts of the corpus alone, counted from 0. Document frequencies and lengths
            are those of the whole corpus, so scores are the same as without parts; see `ShardedIndex`.

    Raises:
        TypeError: `corpus` is not a `Corpus`, or an option is of the wrong type.
        ValueError: An option is out of range, or a language is unknown.

    Example:
        >>> from hnm_datasets import load_sample
        >>> corpus, _ = load_sample("earthquakes")
        >>> index = BM25Index(corpus)
        >>> hits = index.search(["what causes earthquakes?"], k=3)
        >>> corpus.ids(hits.rows[0]).to_pylist()
        ['richter-scale', 'tsunamis', 'plate-boundaries']
    """

    corpus: Corpus
    method: str = "lucene"
    k1: float = 1.5
    b: float = 0.75
    delta: float = 0.5
    stemmer: str | None = "english"
    stopwords: str | Sequence[str] | None = "english"
    token_pattern: str = r"(?u)\b\w\w+\b"
    part: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_corpus(name, self.corpus)
        values = {
            "method": checks.one_of(name, "method", self.method, _METHODS),
            "k1": checks.real_number(name, "k1", self.k1),
            "b": checks.real_number(name, "b", self.b),
            "delta": checks.real_number(name, "delta", self.delta),
        }
        if values["k1"] < 0 or not 0 <= values["b"] <= 1 or values["delta"] < 0:  # type: ignore[operator]
            raise ValueError(f"{name}: k1 and delta must not be negative and b must be from 0 to 1, got {values}.")
        if values["method"] == "bm25l" and not values["k1"] and not values["delta"]:
            raise ValueError(f"{name}: bm25l is undefined when both k1 and delta are 0; set one of them.")
        if self.stemmer is not None:
            checks.one_of(name, "stemmer", self.stemmer, Stemmer.algorithms())
        if isinstance(self.stopwords, str):
            checks.one_of(name, "stopwords", self.stopwords, sorted(_STOP_WORDS))
        elif self.stopwords is not None:
            values["stopwords"] = tuple(sorted({str(word) for word in self.stopwords}))
        try:
            re.compile(self.token_pattern)
        except (re.error, TypeError) as error:
            raise ValueError(f"{name}: token_pattern is not a regular expression: {error}") from None
        values["part"] = checked_part(name, self.part, len(self.corpus))
        for field, value in values.items():
            object.__setattr__(self, field, value)
        _open(self)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that depend on the corpus, the options, and the lists and stemmer behind them."""
        options = {"options": [self.method, self.k1, self.b, self.delta, self.token_pattern]}
        return fingerprint({"kind": "bm25"} | self._tokens_of(self.part) | options)

    def _tokens_of(self, part: tuple[int, int] | None) -> dict[str, Any]:
        """Return what the tokens of a part of the corpus depend on."""
        content = {
            "format": _FORMAT,
            "corpus": self.corpus.fingerprint,
            "stemmer": self.stemmer and [self.stemmer, Stemmer.version()],
            "stopwords": sorted(self._stop_words()),
        }
        return content if part is None else content | {"part": list(part)}

    @property
    def rows(self) -> range:
        """The rows of the corpus that are indexed."""
        return rows_of_part(self.part, len(self.corpus))

    @property
    def nbytes(self) -> int:
        """The bytes of the files that a search maps."""
        return folder_size(cache_root() / "bm25" / self.fingerprint)

    def close(self) -> None:
        """Let go of the files; the next search opens them again."""
        _OPENED.pop(self.fingerprint, None)

    def search(self, queries: Sequence[str], k: int) -> Hits:
        """Return the k best passages of each query.

        Args:
            queries: B texts.
            k: Places per query. More than the corpus has passages is no error: the rest stays empty.

        Returns:
            Rows and scores of shape (B, k), see `Hits`.
        """
        hits, extras = self.search_sums(queries, k)
        return Hits(hits.rows, hits.scores + extras[:, None])

    def search_sums(self, queries: Sequence[str], k: int) -> tuple[Hits, NDArray[np.float32]]:
        """Search as `search` does, but keep apart what each score of a query gets on top: it makes unequal sums equal.

        Args:
            queries: B texts.
            k: Places per query.

        Returns:
            Rows and sums of shape (B, k), in the order of the sums, and what is to be added to them, of shape (B,).
        """
        if isinstance(queries, str):
            raise TypeError(f"{type(self).__name__}: queries must be a list of texts, got one: pass [{queries!r}].")
        files = _open(self)
        tokens, extras = files.encode(queries)
        rows = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)

        def turn(start: int) -> None:
            stop = min(start + _TURN, len(queries))
            bm25_kernels.search(
                files.starts,
                files.postings,
                files.weights,
                tokens.offsets[start : stop + 1],
                tokens.values,
                len(self.rows),
                rows[start:stop],
                scores[start:stop],
            )

        with ThreadPoolExecutor(threads()) as pool:
            list(pool.map(turn, range(0, len(queries), _TURN)))
        if self.rows.start:
            rows[rows >= 0] += self.rows.start
        return Hits(rows, scores), extras

    def score(self, queries: Sequence[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the score of certain passages of each query, the same to the bit as `search` gives them.

        Args:
            queries: B texts.
            rows: B lists of row numbers of passages that are indexed, C in all.

        Returns:
            Shape (C,), aligned with `rows.values`.
        """
        files = _open(self)
        tokens, extras = files.encode(queries)
        scores = np.empty(len(rows.values), dtype=np.float32)
        bm25_kernels.score(
            files.starts,
            files.postings,
            files.weights,
            tokens.offsets,
            tokens.values,
            extras,
            rows.offsets,
            rows.values - self.rows.start,
            scores,
        )
        return scores

    # ---- building ------------------------------------------------------------------------------------------------

    def _stop_words(self) -> frozenset[str]:
        if isinstance(self.stopwords, str):
            return frozenset(getattr(bm25s.stopwords, _STOP_WORDS[self.stopwords]))
        return frozenset(self.stopwords or ())

    def _tokenizer(self) -> Callable[[str], list[str]]:
        find = re.compile(self.token_pattern).findall
        return lambda text: find(text.lower())

    def _stem(self, words: list[str]) -> list[str]:
        stop_words = self._stop_words()
        stems = words if self.stemmer is None else Stemmer.Stemmer(self.stemmer).stemWords(words)
        # A stop word becomes the empty token, which no text has.
        return ["" if word in stop_words else stem for word, stem in zip(words, stems, strict=True)]

    def _build(self, folder: Path) -> None:
        counted = self._counted(self.rows) if self.part is None else Counts.open(self._counts_of(self.part[0]))
        all_ = Statistics.of([counted]) if self.part is None else Statistics.open(self._statistics())
        # A token that this part lacks has no postings, and others find it.
        frequencies = np.zeros(len(all_.frequencies), dtype=np.int64)
        frequencies[all_.vocabulary.find(counted.vocabulary)] = np.diff(counted.starts)
        # Only a corpus of nothing but stop words has a mean length of 0, and it has no postings to divide for.
        relative_lengths = counted.lengths / (all_.tokens / all_.passages or 1.0)
        rarity = RARITY[self.method](all_.passages, all_.frequencies.astype(np.float64))
        saturation = SATURATION[self.method]
        floor = saturation(np.zeros(1), np.ones(1), self.k1, self.b, self.delta)[0]
        owners = np.repeat(np.arange(len(frequencies), dtype=np.int32), frequencies)
        with append_array(folder, "weights", np.dtype(np.float32)) as append:
            for start in range(0, len(owners), _POSTINGS):
                part = slice(start, start + _POSTINGS)
                lengths_here = relative_lengths[counted.postings[part]]
                counts = counted.counts[part].astype(np.float64)
                saturated = saturation(counts, lengths_here, self.k1, self.b, self.delta)
                append(rarity[owners[part]] * (saturated - floor))
        save_array(folder, "starts", offsets_of(frequencies))
        save_array(folder, "postings", counted.postings)
        save_array(folder, "extras", (rarity * floor).astype(np.float32))
        if self.part is None:
            all_.vocabulary.save(folder, "vocabulary")

    def _counted(self, rows: range) -> Counts:
        """Count how often each passage holds each token."""
        tokenize, counter = self._tokenizer(), Counter(self._stem)
        with tqdm(total=len(rows), desc="Indexing passages (BM25)", unit=" passages") as bar:
            for chunk in self.corpus.iter_texts(_CHUNK, rows):
                counter.add([tokenize(text) for text in chunk.to_pylist()])
                bar.update(len(chunk))
        return counter.counts()

    def _counts_of(self, part: int, timeout: float = -1) -> Path:
        """Return the folder of the counts of one part, made once; another method or k1 needs no others."""
        assert self.part is not None
        place = (part, self.part[1])
        name = fingerprint({"kind": "bm25-counts", "pattern": self.token_pattern} | self._tokens_of(place))
        return build_once(
            "bm25-counts",
            name,
            lambda folder: self._counted(rows_of_part(place, len(self.corpus))).save(folder),
            timeout=timeout,
        )

    def _statistics(self) -> Path:
        """Return the folder of what all parts hold together, made once."""
        assert self.part is not None
        own, parts = self.part
        content = {"kind": "bm25-statistics", "pattern": self.token_pattern, "parts": parts}
        name = fingerprint(content | self._tokens_of(None))

        def build(folder: Path) -> None:
            Statistics.of([Counts.open(self._counts_of(part)) for part in range(parts)]).save(folder)

        if not is_complete(cache_root() / "bm25-statistics" / name):
            # The lock of the statistics is held while they are made: whoever waits for it could be counting. Each
            # process begins with its own part and passes over what others are at, so that several share the work.
            for step in range(parts):
                with contextlib.suppress(Timeout):
                    self._counts_of((own + step) % parts, timeout=0)
            for part in range(parts):
                self._counts_of(part)
        return build_once("bm25-statistics", name, build)


# ---- opened files ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Files:
    """The memory-mapped files of one index, and what turns a query into its tokens."""

    starts: NDArray[np.int64]
    postings: NDArray[np.int32]
    weights: NDArray[np.float32]
    extras: NDArray[np.float32]
    vocabulary: KeyTable
    tokenize: Callable[[str], list[str]]
    stem: Callable[[list[str]], list[str]]

    def encode(self, queries: Sequence[str]) -> tuple[Ragged[NDArray[np.int64]], NDArray[np.float32]]:
        """Return the known tokens of each query, repeated ones included, and what its scores get on top."""
        found = [self.tokenize(query) for query in queries]
        words = list(dict.fromkeys(chain.from_iterable(found)))
        token_of = dict(zip(words, self.vocabulary.find(digest_strings(self.stem(words))).tolist(), strict=True))
        flat = np.array([token_of[word] for word in chain.from_iterable(found)], dtype=np.int64)
        owners = np.repeat(np.arange(len(queries)), [len(query) for query in found])[flat >= 0]
        tokens = flat[flat >= 0]
        offsets = offsets_of(np.bincount(owners, minlength=len(queries)))
        extras = np.bincount(owners, weights=self.extras[tokens], minlength=len(queries)).astype(np.float32)
        return Ragged(offsets, tokens), extras


#: What this process has opened; a forked worker inherits it.
_OPENED: dict[str, _Files] = {}


def _open(index: BM25Index) -> _Files:
    name = index.fingerprint
    if name not in _OPENED:
        folder = build_once("bm25", name, index._build)
        arrays: Any = {part: open_array(folder, part) for part in ("starts", "postings", "weights", "extras")}
        vocabulary = KeyTable.open(folder if index.part is None else index._statistics(), "vocabulary")
        _OPENED[name] = _Files(**arrays, vocabulary=vocabulary, tokenize=index._tokenizer(), stem=index._stem)
    return _OPENED[name]
