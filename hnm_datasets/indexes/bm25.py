"""BM25 over a memory-mapped inverted index.

The scores are those of [bm25s](https://arxiv.org/abs/2407.03618) (Lù 2024): each posting carries the token's whole
contribution to the passage's score, computed once when the index is built, so that a search only adds up.
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
from hnm_datasets.indexes.bm25s_import import OWNER, BuiltIndex, kept_folder, opened, sampled_rows
from hnm_datasets.indexes.search_threads import search_in_threads
from hnm_datasets.indexes.shards import checked_shard, rows_of_shard
from hnm_datasets.indexes.tokenizers import FunctionTokenizer, SubwordTokenizer, Tokenizer, named_tokenizer
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.folders import build_once, cache_root, folder_size
from hnm_datasets.storage.opened import Opened


@dataclass(frozen=True)
class BM25Index:
    """BM25 index of a corpus, built on first use, kept under the `datasets` cache directory and opened memory-mapped.

    Two passages with the same score come in the order of the corpus, so a deeper search begins with the answer of a
    shallower one. A passage that shares no token with the query is never an answer.

    Texts in any language are cut into tokens; no option names the language. Case and Unicode form do not count
    (NFKC, case folding), and words keep their combining marks. Where a script puts spaces between words, the words are
    the tokens, but for single Latin letters and digits. Scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer,
    Burmese and their relatives), and Korean, give the overlapping pairs of neighboring characters, and single
    characters that can be words. `tokenizer` takes a segmenter in place of them. The default stemmer and stop words are
    English and leave other scripts alone; set both for other languages in Latin script.

    The index is a folder that bm25s opens, see `folder`, and `from_bm25s` takes one that bm25s has built.

    Args:
        corpus: The passages.
        method: The formula: `"lucene"` (the default, as Elasticsearch and Pyserini score), `"robertson"`, `"atire"`,
            `"bm25l"` or `"bm25+"`; see Kamphuis et al. 2020, *Which BM25 Do You Mean?*
        k1: How slowly a repeated token stops adding to the score; 0 counts each token once. Usual: 0.9 to 2.
        b: How much long passages are discounted, from 0 (not at all) to 1 (in full proportion).
        delta: The floor that `"bm25l"` and `"bm25+"` give to a token in a long passage; the other methods ignore it.
        stemmer: The Snowball language, by name or ISO 639-1 code, such as `"german"` or `"de"`; None: words are
            compared as they are.
        stopwords: A language with a built-in list, such as `"german"` or `"de"`, or the words themselves; None: every
            word counts.
        token_pattern: A regular expression that finds the tokens in the normalized text, such as `"[a-z]+"`. None: as
            above.
        tokenizer: A function from a normalized text to a list of tokens, or a Hugging Face tokenizer: a fast one of
            transformers or a `tokenizers.Tokenizer`, which gets the text as it is. Its tokens are stemmed and compared
            with the stop words like others. None: as above.
        tokenizer_fingerprint: For a function: a name that changes whenever its tokens do.
        shard: `(i, n)`: index only the i-th of n shards of the corpus, counted from 0. Document frequencies and lengths
            are those of the whole corpus, so scores are the same as without shards; see `ShardedIndex`.

    Raises:
        TypeError: `corpus` is not a `Corpus`, or an option is of the wrong type.
        ValueError: An option is out of range, a language is unknown, or a function comes without its name.

    Example:
        >>> from hnm_datasets import load_sample
        >>> corpus, _ = load_sample("earthquakes")
        >>> index = BM25Index(corpus)
        >>> hits = index.search(["what causes earthquakes?"], k=3)
        >>> corpus.ids(hits.rows[0]).to_pylist()
        ['richter-scale', 'tsunamis', 'plate-boundaries']
        >>> BM25Index(corpus, tokenizer=str.split, tokenizer_fingerprint="spaces-1").search(["magma"], k=1).rows.shape
        (1, 1)

        The same index, opened by bm25s:

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
        """Take an index that bm25s has built, to mine with its scores.

        The index is copied into the cache directory once, under a name made of its content. The formula and the
        vocabulary come from it. bm25s does not save how texts became tokens, so the options say it, and they are
        checked: up to 1,000 passages must have the tokens that the index has for them.

        Args:
            corpus: The passages that were indexed: row i of the index is passage i of the corpus.
            index: A `bm25s.BM25`, the folder that its `save` wrote, or its Hub id. Nothing is ever unpickled.
            **options: How texts become tokens, as in `bm25s.tokenize`: `token_pattern` finds the words of the text in
                lower case, `stopwords` are dropped, and `stemmer`, a Snowball language, stems the others. `tokenizer`
                replaces the pattern: a Hugging Face tokenizer, or a function, which gets the text as it is and needs
                `tokenizer_fingerprint`. It may also be a `bm25s.tokenization.Tokenizer`, which sets all options; if it
                splits or stems with a function of its own, it needs `tokenizer_fingerprint` too. Defaults: the stop
                words and the stemmer of a `Tokenizer` that was saved in the folder; otherwise English stop words and
                no stemmer, as in `bm25s.tokenize`, and with a `tokenizer` neither.

        Raises:
            FileNotFoundError: There is no such folder, or it holds no index.
            TypeError: An argument is something else, or an option is unknown.
            ValueError: The index does not fit the corpus or the options, is damaged, or a tokenizer has no name.

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
        built.keep()
        return made

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that depend on the corpus, the options, and the lists and stemmer behind them."""
        content = {"kind": "bm25", "options": [self.method, self.k1, self.b, self.delta]}
        if self.imported is not None:
            content["imported"] = self.imported
        return fingerprint(content | self._counted.content(self.shard))

    @property
    def analyzer(self) -> Analyzer:
        """What turns texts into tokens."""
        kind = Analyzer if self.imported is None else Bm25sAnalyzer
        return kind(self.stemmer, self.stopwords, self.token_pattern, self.tokenizer)  # type: ignore[arg-type]

    @property
    def rows(self) -> range:
        """The rows of the corpus that are indexed."""
        return rows_of_shard(self.shard, len(self.corpus))

    @property
    def nbytes(self) -> int:
        """The size in bytes of the files that a search maps."""
        return folder_size(self.folder, "*.npy") + bm25_skipping.size_of_bounds(self.fingerprint)

    @property
    def folder(self) -> Path:
        """The folder of the index, which `bm25s.BM25.load` opens too, unless it is of a shard; built first if need be.

        bm25s takes queries as `tokenize` returns them. Never change its files.
        """
        if self.imported is not None:
            return kept_folder(self.imported)
        return build_once(cache_root() / "bm25", self.fingerprint, self._build)

    def prepare(self) -> None:
        """Build the index and keep it in the cache directory, unless it is there; the first search does the same."""
        _ = self.folder

    def close(self) -> None:
        """Let go of the files; the next search opens them again."""
        _OPENED.forget(self.fingerprint)
        _VOCABULARIES.forget(self.fingerprint)
        bm25_skipping.close_bounds(self.fingerprint)

    def tokenize(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the tokens of texts as strings, in order, which bm25s' `retrieve` and `get_scores` take.

        Args:
            texts: B texts.
        """
        self._check_texts("texts", texts)
        return self.analyzer.tokenize(texts)

    def encode(self, queries: Sequence[str]) -> Tokens:
        """Return the known tokens of queries, which `search` and `score` take in place of texts.

        Args:
            queries: B texts.
        """
        self._check_texts("queries", queries)
        return _open_vocabulary(self).tokens_of(queries)

    def _check_texts(self, name: str, texts: Sequence[str]) -> None:
        if isinstance(texts, str):
            raise TypeError(f"{type(self).__name__}: {name} must be a list of texts, got one: pass [{texts!r}].")
        other = next(((place, text) for place, text in enumerate(texts) if not isinstance(text, str)), None)
        if other is not None:
            raise TypeError(f"{type(self).__name__}: {name}[{other[0]}] must be a text, got {other[1]!r}.")

    def search(self, queries: Sequence[str] | Tokens, k: int) -> Hits:
        """Return the k best passages of each query.

        Args:
            queries: B texts, or their tokens.
            k: Hits per query. More than the corpus has passages is no error: the rest stays empty.

        Returns:
            Rows and scores of shape (B, k), see `Hits`.
        """
        hits, constants = self.search_shard(queries, k)
        return Hits(hits.rows, hits.scores + constants[:, None])

    def search_shard(self, queries: Sequence[str] | Tokens, k: int) -> tuple[Hits, NDArray[np.float32]]:
        """Search as `search` does, and return the constant part of each query's scores separately.

        Adding the constant can round distinct sums to ties.

        Args:
            queries: B texts, or their tokens.
            k: Hits per query.

        Returns:
            Rows and sums of shape (B, k), in the order of the sums, and the constants to add to them, of shape (B,).
        """
        tokens = queries if isinstance(queries, Tokens) else self.encode(queries)
        # The threads have no cache folder of their own: they get opened files.
        files, passages = _open(self), len(self.rows)
        skips = k > 0 and passages >= bm25_skipping.PASSAGES_PER_HIT * k
        bounds = bm25_skipping.open_bounds(self.fingerprint, files, passages) if skips else None

        def search_some(some: slice, keys: NDArray[np.uint64]) -> None:
            asked = tokens.lists.offsets[some.start : some.stop + 1], tokens.lists.values
            if bounds is None:
                bm25_kernels.search(files.starts, files.postings, files.weights, *asked, None, passages, keys)
            else:
                bm25_skipping.search(files, *asked, passages, bounds, keys)

        return search_in_threads(search_some, len(tokens), k, self.rows.start), tokens.constants

    def score(self, queries: Sequence[str] | Tokens, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the score of certain passages of each query, the same to the bit as `search` gives them.

        Args:
            queries: B texts, or their tokens.
            rows: B lists of row numbers of passages that are indexed, C in all.

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
