"""Importing an index that bm25s built into the cache directory, for `BM25Index`."""

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
from hnm_datasets.storage.about import About
from hnm_datasets.storage.digests import digest_strings, fingerprint
from hnm_datasets.storage.folders import build_once, cache_root
from hnm_datasets.storage.json_values import is_encodable, typed
from hnm_datasets.storage.manifest import check_complete
from hnm_datasets.storage.tables import KeyTable

OWNER = "BM25Index.from_bm25s"
#: Increase it when the files change.
_FORMAT = 1
#: The number of passages whose tokens are compared with the index.
_PASSAGES = 1000
#: Postings per chunk, to limit memory.
_POSTINGS = 1 << 22
#: The number of tokens in an error message.
_SHOWN = 5


@dataclass(frozen=True)
class BuiltIndex:
    """An index that bm25s built.

    Attributes:
        formula: Its formula.
        rarity_method: The method of its inverse document frequency.
        passages: The number of indexed passages, N.
        starts: Where the postings of each token begin and end. Shape (V + 1,).
        postings: The rows that contain each token, ascending. Shape (P,).
        weights: The contribution of the token to the score of each of these rows. Shape (P,).
        constants: The contribution of each token to the scores of all passages. Shape (V,), or empty if the formula has
            no constants.
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
        """Validate the arrays of a retriever and convert them for `BM25Index`.

        Raises:
            ValueError: Arrays are missing or inconsistent, so that a search could read out of bounds.
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
                # An index of token ids has numbers as tokens until it is saved.
                {str(token): int(number) for token, number in retriever.vocab_dict.items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{OWNER}: {source} is not a complete bm25s index: {error}.") from None
        if fault := found._fault():
            raise ValueError(f"{OWNER}: {source} is damaged or not a bm25s index: {fault}.")
        return found

    def _fault(self) -> str | None:
        """Return the first inconsistency, or invalid scores, as text; None if the index is valid."""
        tokens, postings = len(self.starts) - 1, len(self.postings)
        if {array.ndim for array in (self.starts, self.postings, self.weights, self.constants)} != {1}:
            return "its arrays are not one-dimensional"
        if tokens < 0 or self.starts[0] or (np.diff(self.starts) < 0).any() or self.starts[-1] != postings:
            return "its indptr does not match its postings"
        if len(self.weights) != postings or len(self.constants) != tokens * self.formula.has_constants:
            return "the lengths of its arrays do not match"
        if not self.vocabulary:
            return "it has no vocabulary; load the index with load_vocab=True"
        if min(self.vocabulary.values()) < 0 or max(self.vocabulary.values()) > tokens:
            return "its vocabulary has token ids outside the index"
        if not is_encodable("".join(self.vocabulary)):
            return "its vocabulary contains unpaired surrogates"
        is_first = np.zeros(postings + 1, dtype=bool)
        is_first[self.starts] = True
        for part in _parts(postings):
            rows, weights = self.postings[part], self.weights[part]
            # Include the last posting of the previous part.
            later = np.diff(self.postings[max(part.start - 1, 0) : part.stop]) > 0
            if rows.min() < 0 or rows.max() >= self.passages:
                return f"it has postings outside its {self.passages:,} passages"
            if not (later | is_first[max(part.start, 1) : part.stop]).all():
                return "the postings of a token are not in ascending order of the passages"
            if not (weights >= 0).all() or np.isinf(weights).any():
                return "it has scores that are negative, infinite or NaN"
        return None if np.isfinite(self.constants).all() else "it has constants that are infinite or NaN"

    @cached_property
    def name(self) -> str:
        """32 hexadecimal digits that depend on the whole content of the index."""
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

    def keep(self, corpus: Corpus) -> Path:
        """Write the index of a corpus to the cache directory, unless it exists, and return its folder."""

        def write(folder: Path) -> None:
            # The table does not need the empty token, because no text contains it.
            tokens = [token for token in self.vocabulary if token]
            table = KeyTable.from_digests(digest_strings(tokens))
            rows = np.array([self.vocabulary[token] for token in tokens], dtype=np.int64)[table.rows]
            save_vocabulary(folder, KeyTable(table.high, table.low, rows), self.vocabulary)
            with writing_postings(folder, self.starts, self.postings) as append:
                for part in _parts(len(self.weights)):
                    append(self.weights[part])
            save_formula(folder, self.formula, self.passages, self.constants, self.rarity_method)

        of = cache_root() / "corpora" / corpus.fingerprint
        return build_once(
            imported_folder(self.name).parent,
            self.name,
            write,
            About("bm25-imported", OWNER, of=of, options=asdict(self.formula)),
        )

    def check_corpus(self, corpus: Corpus, analyzer: Analyzer) -> None:
        """Raise a ValueError unless row i of the index is passage i of the corpus, checked on sampled passages."""
        if self.passages != len(corpus):
            raise ValueError(
                f"{OWNER}: the index has {self.passages:,} passages, but the corpus has {len(corpus):,}. Row i of the "
                f"index must be passage i of the corpus. Pass the corpus that was indexed, in the same order."
            )
        rows = sampled_rows(corpus)
        texts = analyzer.tokenize(corpus.texts(rows).to_pylist())
        indexed = self._tokens_of(rows)
        expected = [{self.vocabulary.get(token, token) for token in tokens} for tokens in texts]
        differing = [position for position in range(len(rows)) if indexed[position] != expected[position]]
        if not differing:
            return
        position, row = differing[0], int(rows[differing[0]])
        token_of: dict[Any, str] = {number: token for token, number in self.vocabulary.items()}
        own, other = (
            sorted(str(token_of.get(token, token)) for token in tokens)[:_SHOWN]
            for tokens in (indexed[position] - expected[position], expected[position] - indexed[position])
        )
        raise ValueError(
            f"{OWNER}: the index does not match the corpus: {len(differing):,} of {len(rows):,} sampled passages have "
            f"different tokens. For {corpus[row]['id']!r} (row {row:,}), only the index has "
            f"{own or 'none'} and only the corpus has {other or 'none'}. If these are forms of the same words, pass "
            f"the options that the index was built with: stemmer=, stopwords=, token_pattern= or tokenizer=. If they "
            f"are from different texts, pass the corpus that was indexed, in the same order. The text of a passage is "
            f"its title and its text; Corpus.from_dataset(..., title_column=None) excludes the titles."
        )

    def _tokens_of(self, rows: NDArray[np.int64]) -> list[set[Any]]:
        """Return the distinct tokens of the given passages, without the empty token."""
        position_of = np.full(self.passages, -1, dtype=np.int32)
        position_of[rows] = np.arange(len(rows))
        found: list[set[Any]] = [set() for _ in rows]
        empty = self.vocabulary.get("", -1)
        for part in _parts(len(self.postings)):
            positions = position_of[self.postings[part]]
            hits = np.flatnonzero(positions >= 0)
            tokens = np.searchsorted(self.starts, hits + part.start, side="right") - 1
            for position, token in zip(positions[hits].tolist(), tokens.tolist(), strict=True):
                if token != empty:
                    found[position].add(token)
        return found


def sampled_rows(corpus: Corpus) -> NDArray[np.int64]:
    """Return evenly spaced rows of a corpus."""
    return np.unique(np.linspace(0, len(corpus) - 1, min(len(corpus), _PASSAGES)).astype(np.int64))


def kept_folder(name: str) -> Path:
    """Return the folder of an imported index by its name.

    Raises:
        FileNotFoundError: The index is not in the cache directory.
        DamagedFolderError: Its files are damaged.
    """
    folder = imported_folder(name)
    check_complete(
        folder,
        f"The imported bm25s index {name}",
        "Repeat BM25Index.from_bm25s(...). The index is read from the datasets cache directory, so HF_DATASETS_CACHE "
        "must be the same folder in every process.",
    )
    return folder


def opened(source: Any) -> tuple[bm25s.BM25, Path | None]:
    """Return the retriever of an index, and its folder if it was loaded from one.

    Args:
        source: A retriever, the folder of a saved one, or its Hub id.

    Raises:
        FileNotFoundError: The folder does not exist or has no index.
        TypeError: `source` has an unsupported type.
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
            f"{OWNER}: {source} is not a bm25s index: {missing[0]} is missing. Pass the folder that "
            f"retriever.save(folder) wrote. If its files have other names, load the retriever and pass it instead."
        )
    try:
        return bm25s.BM25.load(folder, mmap=True, override_params={"backend": "numpy"}), folder
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{OWNER}: the index in {source} cannot be read: {error}.") from error


def _downloaded(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=[*INDEX_FILES, CONSTANTS_FILE, *TOKENIZER_FILES]))
    except HFValidationError:
        raise FileNotFoundError(f"{OWNER}: {name!r} is neither a folder nor a Hub id like 'name/index'.") from None


def imported_folder(name: str) -> Path:
    """Return where an index of this name is kept."""
    return cache_root() / "bm25-imported" / name


def _parts(length: int) -> Iterator[slice]:
    """Yield consecutive slices that cover an array of this length."""
    return (slice(start, min(start + _POSTINGS, length)) for start in range(0, length, _POSTINGS))
