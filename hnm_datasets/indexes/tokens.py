"""Search by late interaction: candidates by an index of all token vectors, then exact MaxSim."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets.utils import tqdm
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged, first_of_runs, offsets_of, positions_within
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.indexes import maxsim
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.faiss_files import inverted_lists, read_index, reason, write_index
from hnm_datasets.models.token_embeddings import TokenEmbeddings
from hnm_datasets.models.token_vectors import TokenVectors
from hnm_datasets.runtime.timing import clocked
from hnm_datasets.runtime.workers import in_worker
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.folders import build_once, cache_root
from hnm_datasets.storage.opened import Opened

#: Goes into every index's fingerprint; raise it when the files or the answers change.
_FORMAT = 1
_EXACT = "Flat"
#: Up to so many tokens, all passages are scored: an index would take as long.
_SMALL = 1 << 18
#: Token vectors that FAISS is trained on, for each inverted list.
_TRAINING_PER_LIST = 64
#: One in so many inverted lists is searched by default.
_PROBED = 32
#: Tokens that are looked up for each token of a query, at first and at most.
_NEAREST, _MOST = 256, 4096
#: Queries that are looked up at a time, so that their hits take some megabytes.
_QUERIES = 64
_FILE = "index.faiss"


@dataclass(frozen=True)
class TokenIndex:
    """Search the token vectors of a corpus: candidates by their tokens, scored by exact MaxSim.

    FAISS finds the nearest tokens of each token of a query. The passages that they are from are the candidates, best
    first by what these tokens alone add up to. MaxSim scores the first of them exactly. In a corpus of up to 262,144
    tokens all passages are scored.

    Args:
        embeddings: The token vectors of a corpus, from `Corpus.embed_tokens`.
        factory: FAISS's description of an index, such as `"IVF4096,PQ64"`; `"Flat"`: score all passages; None: `"Flat"`
            for a small corpus, else `"IVF<n>,SQ8"`, a byte a number, with n of about twice the square root of the
            number of tokens.
        nprobe: How many inverted lists are searched for each token; None: one in 32.
        candidates: Passages that are scored for each query; a search finds no others.

    Raises:
        TypeError: `embeddings` or an option is of the wrong type.
        ValueError: An option is out of range, or FAISS cannot make such an index of the vectors.

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
                f"{name}: embeddings must be TokenEmbeddings, got {type(self.embeddings).__name__}. Make them with "
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
        """32 hexadecimal digits that depend on the embeddings and on all options."""
        return fingerprint({"built": self._built, "search": [self.nprobe, self.candidates]})

    @property
    def is_exact(self) -> bool:
        """Whether every search scores all passages."""
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
        """Build the index of the tokens and keep it in the cache directory, unless it is there or none is needed."""
        if not self.is_exact:
            with clocked("index"):
                build_once(cache_root() / "tokens", self._built, self._build)

    def close(self) -> None:
        """Let go of the files; the next search opens them again."""
        _OPENED.forget(self.fingerprint)
        self.embeddings.close()

    def discard(self) -> None:
        """Delete the index and its vectors, for example those of a model in the middle of its training."""
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self.embeddings.discard()

    def search(self, queries: TokenVectors, k: int, *, candidates: int | None = None) -> Hits:
        """Return the k best passages of each query.

        Args:
            queries: The token vectors of B queries, from the model that made the embeddings.
            k: Hits per query.
            candidates: Passages that are scored for each query; None: those of the index.

        Returns:
            Rows and scores of shape (B, k), see `Hits`.
        """
        if self.is_exact:
            return maxsim.search(queries, self.embeddings, k)
        found = [
            maxsim.ranked(some, self.embeddings, self._candidates(some, candidates or self.candidates), k)
            for start in range(0, len(queries), _QUERIES)
            for some in [queries.part(start, min(start + _QUERIES, len(queries)))]
        ]
        if not found:
            return Hits(np.empty((0, k), dtype=np.int64), np.empty((0, k), dtype=np.float32))
        return Hits(np.concatenate([hits.rows for hits in found]), np.concatenate([hits.scores for hits in found]))

    def score(self, queries: TokenVectors, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the score of certain passages of each query, the same to the bit as `search` gives them.

        Args:
            queries: The token vectors of B queries.
            rows: B lists of row numbers, C in all.

        Returns:
            Shape (C,), aligned with `rows.values`.
        """
        return maxsim.score(queries, self.embeddings, rows)

    def _candidates(self, queries: TokenVectors, count: int) -> Ragged[NDArray[np.int64]]:
        """Return the passages of the nearest tokens of each query, at most so many and best first."""
        lists = [np.empty(0, dtype=np.int64)] * len(queries)
        short, nearest = np.arange(len(queries)), _NEAREST
        while len(short):
            found = self._nearest(queries.take(short), nearest, count)
            for number, query in enumerate(short):
                lists[query] = found.values[found.offsets[number] : found.offsets[number + 1]]
            # Tokens of few passages may be near to all tokens of a query.
            nearest *= 4
            short = short[found.lengths < min(count, len(self.embeddings))] if nearest <= _MOST else short[:0]
        return Ragged(offsets_of(np.array([len(own) for own in lists], dtype=np.int64)), np.concatenate(lists))

    def _nearest(self, queries: TokenVectors, nearest: int, count: int) -> Ragged[NDArray[np.int64]]:
        import faiss

        index = _open(self)
        if in_worker():
            # After a fork the parent's threads are gone, and the cores belong to the other workers as well.
            faiss.omp_set_num_threads(1)
        offsets = self.embeddings.offsets
        nearest = min(nearest, int(offsets[-1]))
        products, tokens = index.search(queries.vectors.astype(np.float32), nearest)
        line, place = np.nonzero(tokens >= 0)
        rows = np.searchsorted(offsets, tokens[line, place], side="right") - 1
        owners = np.repeat(np.arange(len(queries)), queries.lengths)[line]
        # A passage that has no token among the nearest of a query's token gets at most what the last of them gets.
        lowest = np.where(tokens >= 0, products, np.inf).min(axis=1)
        gains = (products - lowest[:, None])[line, place]
        order = np.lexsort((-gains, rows, line))
        best = order[first_of_runs(line[order], rows[order])]
        keys = owners[best] * len(self.embeddings) + rows[best]
        passages, which = np.unique(keys, return_inverse=True)
        sums = np.bincount(which, weights=gains[best], minlength=len(passages))
        owner, row = np.divmod(passages, len(self.embeddings))
        order = np.lexsort((row, -sums, owner))
        every = offsets_of(np.bincount(owner, minlength=len(queries)))
        kept = positions_within(every) < count
        return Ragged(offsets_of(np.minimum(np.diff(every), count)), row[order][kept])

    # ---- building ------------------------------------------------------------------------------------------------

    def _build(self, folder: Path) -> None:
        index = self._empty_index()
        lists, tokens = inverted_lists(index), self.embeddings.tokens
        size = min(max(50_000, _TRAINING_PER_LIST * lists), tokens)
        if lists > size:
            raise ValueError(
                f"TokenIndex: {self._factory!r} has {lists} inverted lists and there are only {tokens} tokens to train "
                f"on. Take fewer lists, or factory='Flat'."
            )
        if not index.is_trained:
            share = -(-size * len(self.embeddings) // tokens)
            rows = np.sort(np.random.default_rng(0).choice(len(self.embeddings), share, replace=False))
            index.train(self.embeddings.take(rows).vectors.astype(np.float32))
        with tqdm(total=tokens, desc=f"Indexing tokens ({self._factory})", unit=" tokens") as bar:
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
                f"TokenIndex: FAISS cannot make the index {self._factory!r} for vectors of "
                f"{self.embeddings.dimension} dimensions ({reason(error)}). Usual ones are 'IVF1024,SQ8' and "
                f"'IVF1024,PQ32', where the number after PQ divides the dimensions."
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
