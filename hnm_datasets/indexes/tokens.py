"""Late-interaction search: candidates from an index of all token vectors, then exact MaxSim scores."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged, first_of_runs, offsets_of, positions_within
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.indexes import maxsim
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.faiss_files import inverted_lists, read_index, reason, write_index
from hnm_datasets.models.embeddings import embeddings_folder
from hnm_datasets.models.token_embeddings import TokenEmbeddings
from hnm_datasets.models.token_vectors import TokenVectors
from hnm_datasets.runtime.bars import ProgressBar
from hnm_datasets.runtime.timing import clocked
from hnm_datasets.runtime.workers import in_worker
from hnm_datasets.storage.about import About
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.folders import build_once, cache_root
from hnm_datasets.storage.opened import Opened

#: Part of the fingerprint of an index; increase it when the files or the results change.
_FORMAT = 1
_EXACT = "Flat"
#: Up to this number of tokens, all passages are scored; an index would not be faster.
_SMALL = 1 << 18
#: Token vectors that FAISS is trained on, per inverted list.
_TRAINING_PER_LIST = 64
#: One inverted list in _PROBED is searched by default.
_PROBED = 32
#: The number of nearest tokens to retrieve per query token: initially, and at most.
_NEAREST, _MAX_NEAREST = 256, 4096
#: Queries per FAISS search, so that the hits take some megabytes.
_QUERIES = 64
_FILE = "index.faiss"


@dataclass(frozen=True)
class TokenIndex:
    """Search the token vectors of a corpus: candidates from their tokens, scored by exact MaxSim.

    FAISS retrieves the nearest tokens of each query token. The passages of these tokens are the candidates, ranked by
    the scores of their retrieved tokens. The best candidates are scored by exact MaxSim. In a corpus of up to 262,144
    tokens, all passages are scored.

    Args:
        embeddings: The token vectors of a corpus, from `Corpus.embed_tokens`.
        factory: A FAISS factory string, such as `"IVF4096,PQ64"`; `"Flat"`: score all passages; None: `"Flat"` for a
            small corpus, otherwise `"IVF<n>,SQ8"` (8 bits per dimension), with n about twice the square root of the
            number of tokens.
        nprobe: The number of inverted lists to search per token; None: one in 32.
        candidates: The number of passages to score per query. A search returns at most this many passages.

    Raises:
        TypeError: `embeddings` or an option has the wrong type.
        ValueError: An option is out of range, or FAISS cannot create the index for these vectors.

    Example:
        >>> from hnm_datasets import load_sample
        >>> from hnm_datasets.models.token_encoders import TokenEncoder
        >>> corpus, _ = load_sample("earthquakes")
        >>> def first_letters(texts):
        ...     return [[[word[0] == one for one in "abcdefgh"] for word in text.lower().split()] for text in texts]
        >>> index = TokenIndex(corpus.embed_tokens(first_letters, fingerprint="letters-1"))
        >>> queries = TokenEncoder(first_letters, "query", fingerprint="letters-1").vectors(["big fires"])
        >>> index.search(queries, k=1).scores.tolist()
        [[2.0]]
    """

    embeddings: TokenEmbeddings
    factory: str | None = None
    nprobe: int | None = None
    candidates: int = 1000

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.embeddings, TokenEmbeddings):
            raise TypeError(
                f"{name}: embeddings must be TokenEmbeddings, got {type(self.embeddings).__name__}. Create them with "
                f"corpus.embed_tokens(model)."
            )
        if self.factory is not None and not isinstance(self.factory, str):
            raise TypeError(f"{name}: factory must be a string such as 'IVF1024,SQ8' or None, got {self.factory!r}.")
        for option in ("nprobe", "candidates"):
            value = getattr(self, option)
            if value is not None:
                object.__setattr__(self, option, checks.whole_number(name, option, value, low=1))

    @property
    def corpus(self) -> Corpus:
        """The passages."""
        return Corpus(self.embeddings.corpus_fingerprint)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that depend on the embeddings and all options."""
        return fingerprint({"built": self._built, "search": [self.nprobe, self.candidates]})

    @property
    def is_exact(self) -> bool:
        """Whether searches score all passages."""
        return self._factory == _EXACT

    @property
    def _factory(self) -> str:
        if self.factory is not None:
            return self.factory
        tokens = self.embeddings.tokens
        return _EXACT if tokens <= _SMALL else f"IVF{2 ** round(math.log2(2 * math.sqrt(tokens)))},SQ8"

    @property
    def _built(self) -> str:
        content = {"kind": "tokens", "format": _FORMAT, "embeddings": self.embeddings.fingerprint}
        return fingerprint(content | {"factory": self.factory})

    @property
    def _folder(self) -> Path:
        return cache_root() / "tokens" / self._built

    def prepare(self) -> None:
        """Build the index of the tokens in the cache directory, unless it exists or is not needed."""
        if not self.is_exact:
            with clocked("index"):
                of = embeddings_folder(self.embeddings.fingerprint)
                about = About("tokens", "TokenIndex", self._factory, of)
                build_once(cache_root() / "tokens", self._built, self._build, about)

    def close(self) -> None:
        """Close the files. The next search reopens them."""
        _OPENED.forget(self.fingerprint)
        self.embeddings.close()

    def discard(self) -> None:
        """Delete the files of the index and of its embeddings, for example those of a model during training."""
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self.embeddings.discard()

    def search(self, queries: TokenVectors, k: int, *, candidates: int | None = None) -> Hits:
        """Return the k best passages of each query.

        Args:
            queries: The token vectors of B queries, from the model of the embeddings.
            k: Hits per query.
            candidates: The number of passages to score per query; None: the option of the index.

        Returns:
            Rows and scores of shape (B, k), see `Hits`.
        """
        if self.is_exact:
            return maxsim.search(queries, self.embeddings, k)
        found = [
            maxsim.ranked(part, self.embeddings, self._candidates(part, candidates or self.candidates), k)
            for start in range(0, len(queries), _QUERIES)
            for part in [queries.part(start, min(start + _QUERIES, len(queries)))]
        ]
        if not found:
            return Hits(np.empty((0, k), dtype=np.int64), np.empty((0, k), dtype=np.float32))
        return Hits(np.concatenate([hits.rows for hits in found]), np.concatenate([hits.scores for hits in found]))

    def score(self, queries: TokenVectors, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Score given passages of each query. The scores are bit-identical to those of `search`.

        Args:
            queries: The token vectors of B queries.
            rows: B lists of row numbers, C in total.

        Returns:
            Shape (C,), aligned with `rows.values`.
        """
        return maxsim.score(queries, self.embeddings, rows)

    def _candidates(self, queries: TokenVectors, count: int) -> Ragged[NDArray[np.int64]]:
        """Return the passages of the nearest tokens of each query, best first, at most `count`."""
        lists = [np.empty(0, dtype=np.int64)] * len(queries)
        short, nearest = np.arange(len(queries)), _NEAREST
        while len(short):
            found = self._nearest(queries.take(short), nearest, count)
            for number, query in enumerate(short):
                lists[query] = found.values[found.offsets[number] : found.offsets[number + 1]]
            # The nearest tokens may all be from a few passages: retrieve more.
            nearest *= 4
            short = short[found.lengths < min(count, len(self.embeddings))] if nearest <= _MAX_NEAREST else short[:0]
        return Ragged(offsets_of(np.array([len(rows) for rows in lists], dtype=np.int64)), np.concatenate(lists))

    def _nearest(self, queries: TokenVectors, nearest: int, count: int) -> Ragged[NDArray[np.int64]]:
        import faiss

        index = _open(self)
        if in_worker():
            # The threads of the parent do not survive a fork, and the other workers need the cores too.
            faiss.omp_set_num_threads(1)
        offsets = self.embeddings.offsets
        nearest = min(nearest, int(offsets[-1]))
        products, tokens = index.search(queries.vectors.astype(np.float32), nearest)
        line, column = np.nonzero(tokens >= 0)
        rows = np.searchsorted(offsets, tokens[line, column], side="right") - 1
        owners = np.repeat(np.arange(len(queries)), queries.lengths)[line]
        # For a passage without a token among the nearest, the lowest retrieved product is an upper bound.
        lowest = np.where(tokens >= 0, products, np.inf).min(axis=1)
        gains = (products - lowest[:, None])[line, column]
        order = np.lexsort((-gains, rows, line))
        best = order[first_of_runs(line[order], rows[order])]
        keys = owners[best] * len(self.embeddings) + rows[best]
        passages, which = np.unique(keys, return_inverse=True)
        sums = np.bincount(which, weights=gains[best], minlength=len(passages))
        owner, row = np.divmod(passages, len(self.embeddings))
        order = np.lexsort((row, -sums, owner))
        all_offsets = offsets_of(np.bincount(owner, minlength=len(queries)))
        kept = positions_within(all_offsets) < count
        return Ragged(offsets_of(np.minimum(np.diff(all_offsets), count)), row[order][kept])

    # ---- building ------------------------------------------------------------------------------------------------

    def _build(self, folder: Path) -> None:
        index = self._empty_index()
        lists, tokens = inverted_lists(index), self.embeddings.tokens
        size = min(max(50_000, _TRAINING_PER_LIST * lists), tokens)
        if lists > size:
            raise ValueError(
                f"TokenIndex: {self._factory!r} has {lists} inverted lists, but there are only {tokens} tokens for "
                f"training. Use fewer lists, or factory='Flat'."
            )
        with ProgressBar(tokens, f"Indexing tokens ({self._factory})", "tokens") as bar:
            if not index.is_trained:
                sample = -(-size * len(self.embeddings) // tokens)
                rows = np.sort(np.random.default_rng(0).choice(len(self.embeddings), sample, replace=False))
                vectors = self.embeddings.take(rows).vectors.astype(np.float32)
                bar.set_postfix_str(f"training on {len(vectors):,} vectors")
                index.train(vectors)
                bar.set_postfix_str("")
            for block in self.embeddings.blocks():
                index.add(block.vectors.astype(np.float32))
                bar.update(len(block.vectors))
        write_index(index, folder / _FILE)

    def _empty_index(self) -> Any:
        import faiss

        try:
            return faiss.index_factory(self.embeddings.dimension, self._factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise ValueError(
                f"TokenIndex: FAISS cannot create the index {self._factory!r} for vectors of dimension "
                f"{self.embeddings.dimension} ({reason(error)}). Common choices are 'IVF1024,SQ8' and 'IVF1024,PQ32', "
                f"where the number after PQ must divide the dimension."
            ) from None


_OPENED: Opened[Any] = Opened()


def _open(index: TokenIndex) -> Any:
    def opened() -> Any:
        import faiss

        index.prepare()
        found = read_index(index._folder / _FILE)
        lists = inverted_lists(found)
        if lists:
            faiss.ParameterSpace().set_index_parameter(found, "nprobe", index.nprobe or max(1, lists // _PROBED))
        return found

    return _OPENED.get(index.fingerprint, opened)
