"""BM25 over a memory-mapped inverted index.

The scores are those of [bm25s](https://arxiv.org/abs/2407.03618) (Lù 2024): each posting stores the full contribution
of a token to the score of a passage, computed when the index is built, so a search only adds weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.indexes import bm25_kernels, bm25_skipping
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.bm25_analyzer import STOP_WORDS, Analyzer, checked_pattern, language_of
from hnm_datasets.indexes.bm25_building import CountedTokens
from hnm_datasets.indexes.bm25_files import Postings, open_constants, open_vocabulary
from hnm_datasets.indexes.bm25_tokens import Tokens, Vocabulary
from hnm_datasets.indexes.bm25_weights import METHODS, Formula
from hnm_datasets.indexes.bm25s_analyzer import Bm25sAnalyzer, TokenOptions, token_options
from hnm_datasets.indexes.bm25s_import import OWNER, BuiltIndex, imported_folder, kept_folder, opened, sampled_rows
from hnm_datasets.indexes.search_threads import search_in_threads
from hnm_datasets.indexes.shards import checked_shard, rows_of_shard, shard_in_words
from hnm_datasets.indexes.tokenizers import FunctionTokenizer, SubwordTokenizer, Tokenizer, named_tokenizer
from hnm_datasets.storage.about import About
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.folders import build_once, cache_root, folder_size
from hnm_datasets.storage.opened import Opened

#: The options that `about.json` names.
_DESCRIBED = ("method", "k1", "b", "delta", "stemmer", "stopwords", "token_pattern", "tokenizer")


@dataclass(frozen=True)
class BM25Index:
    """BM25 index of a corpus, built on first use and memory-mapped from the `datasets` cache directory.

    Passages with equal scores are in corpus order, so the results of a search are a prefix of the results of a deeper
    search. Passages that share no token with the query are never returned.

    Tokenization works for all languages without a language option. It ignores case and Unicode form (NFKC, case
    folding) and keeps combining marks. In scripts with spaces, tokens are words, except single Latin letters and single
    digits. In scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese and related scripts) and in Korean,
    tokens are overlapping pairs of adjacent characters, and single characters that can be words. To use a word
    segmenter instead, pass it as `tokenizer`. The default stemmer and stop words are English and do not affect other
    scripts; set both for other languages in Latin script.

    bm25s can open the index, see `folder`. To search an index that bm25s built, see `from_bm25s`.

    Args:
        corpus: The passages.
        method: The formula: `"lucene"` (the default, as in Elasticsearch and Pyserini), `"robertson"`, `"atire"`,
            `"bm25l"` or `"bm25+"`; see Kamphuis et al. 2020, *Which BM25 Do You Mean?*
        k1: Term frequency saturation: the higher, the more repeated tokens count; 0 counts each token once. Usual: 0.9
            to 2.
        b: Length normalization, from 0 (none) to 1 (full).
        delta: The lower bound for the contribution of a token in a long passage, for `"bm25l"` and `"bm25+"`; the other
            methods ignore it.
        stemmer: The Snowball language, by name or ISO 639-1 code, such as `"german"` or `"de"`; None: no stemming.
        stopwords: A language with a built-in list, such as `"german"` or `"de"`, or a list of words; None: no stop
            words.
        token_pattern: A regular expression that matches the tokens of a normalized text, such as `"[a-z]+"`. None: the
            tokenization above.
        tokenizer: A function from a normalized text to a list of tokens, or a Hugging Face tokenizer (a fast one of
            transformers or a `tokenizers.Tokenizer`), which gets the original text. Stop words and stemmer apply to its
            tokens too. None: the tokenization above.
        tokenizer_fingerprint: For a function: a name that you change whenever its tokens change.
        shard: `(i, n)`: index only shard i of n shards of the corpus, counted from 0. Document frequencies and lengths
            are those of the whole corpus, so scores do not depend on the shards; see `ShardedIndex`.

    Raises:
        TypeError: `corpus` is not a `Corpus`, or an option has the wrong type.
        ValueError: An option is out of range, a language is unknown, or a function has no `tokenizer_fingerprint`.

    Example:
        >>> from hnm_datasets import load_sample
        >>> corpus, _ = load_sample("earthquakes")
        >>> index = BM25Index(corpus)
        >>> hits = index.search(["what causes earthquakes?"], k=3)
        >>> corpus.ids(hits.rows[0]).to_pylist()
        ['richter-scale', 'tsunamis', 'plate-boundaries']
        >>> BM25Index(corpus, tokenizer=str.split, tokenizer_fingerprint="spaces-1").search(["magma"], k=1).rows.shape
        (1, 1)

        Open the same index with bm25s:

        >>> import bm25s
        >>> retriever = bm25s.BM25.load(index.folder, mmap=True)
        >>> index.tokenize(["what causes earthquakes?"])
        [['what', 'caus', 'earthquak']]
        >>> found, scores = retriever.retrieve(index.tokenize(["what causes earthquakes?"]), k=3, show_progress=False)
        >>> corpus.ids(found[0]).to_pylist()
        ['richter-scale', 'tsunamis', 'plate-boundaries']
    """

    corpus: Corpus
    method: str = "lucene"
    k1: float = 1.5
    b: float = 0.75
    delta: float = 0.5
    stemmer: str | None = "english"
    stopwords: str | Sequence[str] | None = "english"
    token_pattern: str | None = None
    shard: tuple[int, int] | None = None
    tokenizer: Tokenizer | FunctionTokenizer | SubwordTokenizer | None = None
    tokenizer_fingerprint: str | None = None
    #: The name of the copy that `from_bm25s` made.
    imported: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_corpus(name, self.corpus)
        values = {
            "method": checks.one_of(name, "method", self.method, METHODS),
            "k1": checks.real_number(name, "k1", self.k1),
            "b": checks.real_number(name, "b", self.b),
            "delta": checks.real_number(name, "delta", self.delta),
        }
        if values["k1"] < 0 or not 0 <= values["b"] <= 1 or values["delta"] < 0:  # type: ignore[operator]
            raise ValueError(f"{name}: k1 and delta must not be negative and b must be from 0 to 1, got {values}.")
        if values["method"] == "bm25l" and not values["k1"] and not values["delta"]:
            raise ValueError(f"{name}: bm25l is undefined when both k1 and delta are 0; set one of them.")
        if self.stemmer is not None:
            values["stemmer"] = language_of(name, "stemmer", self.stemmer, Stemmer.algorithms())
        if isinstance(self.stopwords, str):
            values["stopwords"] = language_of(name, "stopwords", self.stopwords, sorted(STOP_WORDS))
        elif self.stopwords is not None:
            values["stopwords"] = tuple(sorted({str(word) for word in self.stopwords}))
        checked_pattern(name, self.token_pattern, self.tokenizer)
        values["tokenizer"] = named_tokenizer(name, self.tokenizer, self.tokenizer_fingerprint)
        values["shard"] = checked_shard(name, self.shard, len(self.corpus))
        for option, value in values.items():
            object.__setattr__(self, option, value)

    @classmethod
    def from_bm25s(cls, corpus: Corpus, index: bm25s.BM25 | str | Path, **options: Unpack[TokenOptions]) -> BM25Index:
        """Import an index that bm25s built, to mine with its scores.

        The index is copied into the cache directory once, under a name derived from its content. Formula and vocabulary
        are those of the index. bm25s does not save its tokenization settings, so pass them as options. They are
        verified: the tokens of up to 1,000 passages must be equal to the tokens in the index.

        Args:
            corpus: The indexed passages: row i of the index is passage i of the corpus.
            index: A `bm25s.BM25`, the folder that its `save` wrote, or its Hub id. No pickle files are loaded.
            **options: The tokenization, as in `bm25s.tokenize`: `token_pattern` matches words in the lowercase text,
                `stopwords` are dropped, and `stemmer`, a Snowball language, stems the other words. `tokenizer` replaces
                the pattern: a Hugging Face tokenizer, or a function, which gets the original text and requires
                `tokenizer_fingerprint`. It may also be a `bm25s.tokenization.Tokenizer`, which sets all options; if it
                uses a custom function to split or stem, it requires `tokenizer_fingerprint` too. Defaults: stop words
                and stemmer of a `Tokenizer` saved in the folder; otherwise English stop words and no stemmer, as in
                `bm25s.tokenize`; with a `tokenizer`, no stop words and no stemmer.

        Raises:
            FileNotFoundError: The folder does not exist or has no index.
            TypeError: An argument has an unsupported type, or an option is unknown.
            ValueError: The index does not match the corpus or the options, the index is damaged, or a tokenizer has no
                `tokenizer_fingerprint`.

        Example:
            >>> import bm25s, Stemmer
            >>> from hnm_datasets import BM25Negatives, load_sample
            >>> corpus, queries = load_sample("earthquakes")
            >>> texts = corpus.texts(np.arange(len(corpus))).to_pylist()
            >>> retriever = bm25s.BM25(method="bm25+", k1=1.2)
            >>> tokens = bm25s.tokenize(texts, stemmer=Stemmer.Stemmer("english"), show_progress=False)
            >>> retriever.index(tokens, show_progress=False)
            >>> index = BM25Index.from_bm25s(corpus, retriever, stemmer="english")
            >>> mined = queries.map(BM25Negatives(corpus, k=2, index=index), batched=True)
            >>> mined[0]["negative_ids"]
            ['richter-scale', 'tsunamis']
        """
        check_corpus(OWNER, corpus)
        retriever, folder = opened(index)
        texts = corpus.texts(sampled_rows(corpus)).to_pylist()
        formula = {name: getattr(retriever, name) for name in ("method", "k1", "b", "delta")}
        made = cls(corpus, **formula, **token_options(OWNER, options, folder, texts))
        built = BuiltIndex.of(retriever, made._formula, "the retriever" if folder is None else str(index))
        object.__setattr__(made, "imported", built.name)
        built.check_corpus(corpus, made.analyzer)
        built.keep(corpus)
        return made

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that depend on the corpus, the options, the stop words and the stemmer version."""
        content = {"kind": "bm25", "options": [self.method, self.k1, self.b, self.delta]}
        if self.imported is not None:
            content["imported"] = self.imported
        return fingerprint(content | self._counted.content(self.shard))

    @property
    def analyzer(self) -> Analyzer:
        """The tokenization of passages and queries."""
        kind = Analyzer if self.imported is None else Bm25sAnalyzer
        return kind(self.stemmer, self.stopwords, self.token_pattern, self.tokenizer)  # type: ignore[arg-type]

    @property
    def rows(self) -> range:
        """The indexed rows of the corpus."""
        return rows_of_shard(self.shard, len(self.corpus))

    @property
    def nbytes(self) -> int:
        """The size in bytes of the files that a search maps into memory."""
        return folder_size(self.folder, "*.npy") + bm25_skipping.size_of_bounds(self.fingerprint)

    @property
    def folder(self) -> Path:
        """The folder of the index. The first access builds the index.

        `bm25s.BM25.load` can open it, unless it is a shard; pass the output of `tokenize` as queries. Never modify its
        files.
        """
        if self.imported is not None:
            return kept_folder(self.imported)
        of = cache_root() / "corpora" / self.corpus.fingerprint
        options = {name: getattr(self, name) for name in _DESCRIBED}
        about = About("bm25", "BM25Index", shard_in_words(self.shard), of, options=options)
        return build_once(cache_root() / "bm25", self.fingerprint, self._build, about)

    @property
    def _path(self) -> Path:
        """The folder of the index, whether it is there or not."""
        imported = self.imported
        return cache_root() / "bm25" / self.fingerprint if imported is None else imported_folder(imported)

    def prepare(self) -> None:
        """Build the index in the cache directory, unless it exists. The first search does the same."""
        _ = self.folder

    def close(self) -> None:
        """Close the files. The next search reopens them."""
        _OPENED.forget(self.fingerprint)
        _VOCABULARIES.forget(self.fingerprint)
        bm25_skipping.close_bounds(self.fingerprint)

    def tokenize(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the tokens of texts as strings, in order, for `retrieve` and `get_scores` of bm25s.

        Args:
            texts: B texts.
        """
        self._check_texts("texts", texts)
        return self.analyzer.tokenize(texts)

    def encode(self, queries: Sequence[str]) -> Tokens:
        """Return the tokens of queries that are in the vocabulary. `search` and `score` accept them instead of texts.

        Args:
            queries: B texts.
        """
        self._check_texts("queries", queries)
        return _open_vocabulary(self).tokens_of(queries)

    def _check_texts(self, name: str, texts: Sequence[str]) -> None:
        if isinstance(texts, str):
            raise TypeError(f"{type(self).__name__}: {name} must be a list of texts, got one text: pass [{texts!r}].")
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"{type(self).__name__}: {name}[{number}] must be a text, got {text!r}.")

    def search(self, queries: Sequence[str] | Tokens, k: int) -> Hits:
        """Return the k best passages of each query.

        Args:
            queries: B texts, or their tokens.
            k: Hits per query. If k exceeds the number of passages, the result is padded.

        Returns:
            Rows and scores of shape (B, k), see `Hits`.
        """
        hits, constants = self.search_shard(queries, k)
        return Hits(hits.rows, hits.scores + constants[:, None])

    def search_shard(self, queries: Sequence[str] | Tokens, k: int) -> tuple[Hits, NDArray[np.float32]]:
        """Do the same as `search`, but return the per-query constant of the scores separately.

        Adding the constant can round distinct sums to ties.

        Args:
            queries: B texts, or their tokens.
            k: Hits per query.

        Returns:
            Rows and sums of shape (B, k), in the order of the sums, and the constants to add to them, of shape (B,).
        """
        tokens = queries if isinstance(queries, Tokens) else self.encode(queries)
        # Open the files here: the cache directory is a context variable, which threads do not inherit.
        files, passages = _open(self), len(self.rows)
        skips = k > 0 and passages >= bm25_skipping.PASSAGES_PER_HIT * k
        bounds = bm25_skipping.open_bounds(self.fingerprint, files, passages, self._path) if skips else None

        def search_chunk(chunk: slice, keys: NDArray[np.uint64]) -> None:
            lists = tokens.lists.offsets[chunk.start : chunk.stop + 1], tokens.lists.values
            if bounds is None:
                bm25_kernels.search(files.starts, files.postings, files.weights, *lists, None, passages, keys)
            else:
                bm25_skipping.search(files, *lists, passages, bounds, keys)

        return search_in_threads(search_chunk, len(tokens), k, self.rows.start), tokens.constants

    def score(self, queries: Sequence[str] | Tokens, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Score given passages of each query. The scores are bit-identical to those of `search`.

        Args:
            queries: B texts, or their tokens.
            rows: B lists of row numbers of indexed passages, C in total.

        Returns:
            Shape (C,), aligned with `rows.values`.
        """
        tokens = queries if isinstance(queries, Tokens) else self.encode(queries)
        files = _open(self)
        scores = np.empty(len(rows.values), dtype=np.float32)
        bm25_kernels.score(
            files.starts,
            files.postings,
            files.weights,
            tokens.lists.offsets,
            tokens.lists.values,
            tokens.constants,
            rows.offsets,
            rows.values - self.rows.start,
            scores,
        )
        return scores

    # ---- files ---------------------------------------------------------------------------------------------------

    @property
    def _counted(self) -> CountedTokens:
        return CountedTokens(self.corpus, self.analyzer, self.shard)

    @property
    def _formula(self) -> Formula:
        return Formula(self.method, self.k1, self.b, self.delta)

    def _build(self, folder: Path) -> None:
        self._counted.write_index(folder, self._formula)


# ---- opened files ------------------------------------------------------------------------------------------------


_OPENED: Opened[Postings] = Opened()
_VOCABULARIES: Opened[Vocabulary] = Opened()


def _open(index: BM25Index) -> Postings:
    return _OPENED.get(index.fingerprint, lambda: Postings.open(index.folder))


def _open_vocabulary(index: BM25Index) -> Vocabulary:
    def opened() -> Vocabulary:
        folder = index.folder
        table = open_vocabulary(folder if index.shard is None else index._counted.statistics())
        return Vocabulary(table, open_constants(folder, index._formula), index.analyzer)

    return _VOCABULARIES.get(index.fingerprint, opened)
