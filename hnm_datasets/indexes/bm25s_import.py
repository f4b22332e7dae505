"""An index that bm25s has built, as a folder of the cache directory that a `BM25Index` searches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import xxhash
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from numpy.typing import NDArray

from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.indexes.bm25_analyzer import Analyzer
from hnm_datasets.indexes.bm25_files import CONSTANTS_FILE, INDEX_FILES, save_formula, save_vocabulary, writing_postings
from hnm_datasets.indexes.bm25_weights import Formula
from hnm_datasets.indexes.bm25s_analyzer import TOKENIZER_FILES
from hnm_datasets.storage.digests import digest_strings, fingerprint
from hnm_datasets.storage.folders import build_once, cache_root
from hnm_datasets.storage.json_values import is_encodable, typed
from hnm_datasets.storage.manifest import check_complete
from hnm_datasets.storage.tables import KeyTable

OWNER = "BM25Index.from_bm25s"
#: Raise it when the files change.
_FORMAT = 1
#: Passages whose tokens are compared with those of the index.
_PASSAGES = 1000
#: Postings that are looked at together, which bounds the memory.
_POSTINGS = 1 << 22
#: Tokens that an error shows.
_SHOWN = 5


@dataclass(frozen=True)
class BuiltIndex:
    """An index that bm25s has built.

    Attributes:
        formula: Its formula.
        rarity_method: The method whose rarity of tokens it was built with.
        passages: How many are indexed, N.
        starts: Where each token's postings begin and end. Shape (V + 1,).
        postings: The rows that hold each token, ascending. Shape (P,).
        weights: What the token adds to each such row's score. Shape (P,).
        constants: What each token adds to the scores of all passages. Shape (V,), or empty where the formula has none.
        vocabulary: The number of each token.
    """

    formula: Formula
    rarity_method: str
    passages: int
    starts: NDArray[np.int64]
    postings: NDArray[np.int32]
    weights: NDArray[np.float32]
    constants: NDArray[np.float32]
    vocabulary: dict[str, int]

    @classmethod
    def of(cls, retriever: bm25s.BM25, formula: Formula, source: str) -> BuiltIndex:
        """Check the arrays of a retriever and make them those of a `BM25Index`.

        Raises:
            ValueError: They are not there, or contradict each other, so that a search would read beyond them.
        """
        try:
            constants = retriever.nonoccurrence_array if formula.has_constants else ()
            found = cls(
                formula,
                str(retriever.idf_method),
                typed(int, retriever.scores["num_docs"], "num_docs"),
                np.asarray(retriever.scores["indptr"]).astype(np.int64, copy=False),
                np.asarray(retriever.scores["indices"]).astype(np.int32, copy=False),
                np.asarray(retriever.scores["data"]).astype(np.float32, copy=False),
                np.asarray(constants).astype(np.float32, copy=False),
                # An index of numbers has numbers for tokens, until it is saved.
                {str(token): int(number) for token, number in retriever.vocab_dict.items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{OWNER}: {source} has no complete index of bm25s: {error}.") from None
        if fault := found._fault():
            raise ValueError(f"{OWNER}: {source} has a damaged index, or none of bm25s: {fault}.")
        return found

    def _fault(self) -> str | None:
        """Return in what its parts contradict each other, or what a search cannot add up; None if all is right."""
        tokens, postings = len(self.starts) - 1, len(self.postings)
        if {array.ndim for array in (self.starts, self.postings, self.weights, self.constants)} != {1}:
            return "its arrays have more than one dimension"
        if tokens < 0 or self.starts[0] or (np.diff(self.starts) < 0).any() or self.starts[-1] != postings:
            return "indptr does not say where the postings of each token begin"
        if len(self.weights) != postings or len(self.constants) != tokens * self.formula.has_constants:
            return "its arrays have lengths that do not fit together"
        if not self.vocabulary:
            return "it has no vocabulary; bm25s loads it with load_vocab=True"
        if min(self.vocabulary.values()) < 0 or max(self.vocabulary.values()) > tokens:
            return "its vocabulary has tokens without postings"
        if not is_encodable("".join(self.vocabulary)):
            return "its vocabulary has halves of characters"
        is_first = np.zeros(postings + 1, dtype=bool)
        is_first[self.starts] = True
        for part in _parts(postings):
            rows, weights = self.postings[part], self.weights[part]
            # One more, of the part before.
            later = np.diff(self.postings[max(part.start - 1, 0) : part.stop]) > 0
            if rows.min() < 0 or rows.max() >= self.passages:
                return f"it has postings of other rows than its {self.passages:,} passages"
            if not (later | is_first[max(part.start, 1) : part.stop]).all():
                return "the postings of a token are not in the order of the passages"
            if not (weights >= 0).all() or np.isinf(weights).any():
                return "it has scores that are negative or no numbers"
        return None if np.isfinite(self.constants).all() else "it has scores that are no numbers"

    @cached_property
    def name(self) -> str:
        """32 hexadecimal digits that depend on everything in it."""
        arrays = (self.starts, self.postings, self.weights, self.constants)
        content = {
            "kind": "bm25-imported",
            "format": _FORMAT,
            "formula": asdict(self.formula) | {"rarity": self.rarity_method},
            "passages": self.passages,
            "arrays": [xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).data) for array in arrays],
            "vocabulary": xxhash.xxh3_128_hexdigest(json.dumps(self.vocabulary).encode()),
        }
        return fingerprint(content)

    def keep(self) -> Path:
        """Write the index to the cache directory, unless it is there, and return the folder."""

        def write(folder: Path) -> None:
            # No text has the empty token.
            tokens = [token for token in self.vocabulary if token]
            table = KeyTable.from_digests(digest_strings(tokens))
            rows = np.array([self.vocabulary[token] for token in tokens], dtype=np.int64)[table.rows]
            save_vocabulary(folder, KeyTable(table.high, table.low, rows), self.vocabulary)
            with writing_postings(folder, self.starts, self.postings) as append:
                for part in _parts(len(self.weights)):
                    append(self.weights[part])
            save_formula(folder, self.formula, self.passages, self.constants, self.rarity_method)

        return build_once(_parent(), self.name, write)

    def check_corpus(self, corpus: Corpus, analyzer: Analyzer) -> None:
        """Raise a ValueError unless row i of the index is passage i of a corpus, as far as some passages show it."""
        if self.passages != len(corpus):
            raise ValueError(
                f"{OWNER}: the index has {self.passages:,} passages and the corpus has {len(corpus):,}. Row i of the "
                f"index must be passage i of the corpus. Pass the corpus that was indexed, in its order."
            )
        rows = sampled_rows(corpus)
        texts = analyzer.tokenize(corpus.texts(rows).to_pylist())
        indexed = self._tokens_of(rows)
        expected = [{self.vocabulary.get(token, token) for token in tokens} for tokens in texts]
        differing = [place for place in range(len(rows)) if indexed[place] != expected[place]]
        if not differing:
            return
        place = differing[0]
        token_of: dict[Any, str] = {number: token for token, number in self.vocabulary.items()}
        own, other = (
            sorted(str(token_of.get(token, token)) for token in tokens)[:_SHOWN]
            for tokens in (indexed[place] - expected[place], expected[place] - indexed[place])
        )
        raise ValueError(
            f"{OWNER}: the index does not fit the corpus: of {len(rows):,} passages that were compared, "
            f"{len(differing):,} have other tokens. In {corpus.ids(rows[[place]])[0].as_py()!r} (row {rows[place]:,}) "
            f"the index alone has {own or 'none'} and the corpus alone {other or 'none'}. If the words differ in form, "
            f"pass the options with which the index was built: stemmer=, stopwords=, token_pattern= or tokenizer=. If "
            f"they are of other texts, pass the corpus that was indexed, in its order; a passage's text is its title "
            f"and its text, and Corpus.from_dataset(..., title_column=None) leaves the titles out."
        )

    def _tokens_of(self, rows: NDArray[np.int64]) -> list[set[Any]]:
        """Return the tokens of some passages but for the empty one."""
        place_of = np.full(self.passages, -1, dtype=np.int32)
        place_of[rows] = np.arange(len(rows))
        found: list[set[Any]] = [set() for _ in rows]
        empty = self.vocabulary.get("", -1)
        for part in _parts(len(self.postings)):
            places = place_of[self.postings[part]]
            hits = np.flatnonzero(places >= 0)
            tokens = np.searchsorted(self.starts, hits + part.start, side="right") - 1
            for place, token in zip(places[hits].tolist(), tokens.tolist(), strict=True):
                if token != empty:
                    found[place].add(token)
        return found


def sampled_rows(corpus: Corpus) -> NDArray[np.int64]:
    """Return rows of a corpus, evenly apart."""
    return np.unique(np.linspace(0, len(corpus) - 1, min(len(corpus), _PASSAGES)).astype(np.int64))


def kept_folder(name: str) -> Path:
    """Return the folder of an index by its name.

    Raises:
        FileNotFoundError: It is not in the cache directory.
        DamagedFolderError: It was damaged.
    """
    folder = _parent() / name
    check_complete(
        folder,
        f"The index {name} of bm25s",
        "Repeat BM25Index.from_bm25s(...). It is opened from the datasets cache directory: HF_DATASETS_CACHE must be "
        "the same folder in every process.",
    )
    return folder


def opened(source: Any) -> tuple[bm25s.BM25, Path | None]:
    """Return the retriever of an index, and its folder if it has one.

    Args:
        source: A retriever, the folder of a saved one, or its Hub id.

    Raises:
        FileNotFoundError: There is no such folder, or it holds no index.
        TypeError: It is something else.
        ValueError: The index cannot be read.
    """
    if isinstance(source, bm25s.BM25):
        return source, None
    if not isinstance(source, (str, Path)):
        raise TypeError(
            f"{OWNER}: index must be a bm25s.BM25, the folder of a saved one or its Hub id, got "
            f"{type(source).__name__}."
        )
    folder = Path(source) if Path(source).is_dir() else _downloaded(str(source))
    if missing := [name for name in INDEX_FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"{OWNER}: {source} holds no index of bm25s: {missing[0]} is missing. Pass the folder that "
            f"retriever.save(folder) wrote; if its files have other names, load the retriever and pass that."
        )
    try:
        return bm25s.BM25.load(folder, mmap=True, override_params={"backend": "numpy"}), folder
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{OWNER}: the index in {source} cannot be read: {error}.") from error


def _downloaded(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=[*INDEX_FILES, CONSTANTS_FILE, *TOKENIZER_FILES]))
    except HFValidationError:
        raise FileNotFoundError(f"{OWNER}: {name!r} is neither a folder nor a Hub id, 'name/index'.") from None


def _parent() -> Path:
    return cache_root() / "bm25-imported"


def _parts(length: int) -> Iterator[slice]:
    """Yield slices that cover an array of a length."""
    return (slice(start, min(start + _POSTINGS, length)) for start in range(0, length, _POSTINGS))
