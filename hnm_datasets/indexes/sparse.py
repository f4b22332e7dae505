"""Exact search of sparse vectors with an inverted index."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.indexes import bm25_kernels, sparse_kernels
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.bm25_files import Postings
from hnm_datasets.indexes.search_threads import search_in_threads
from hnm_datasets.indexes.shards import checked_shard, rows_of_shard, shard_in_words, shard_suffix
from hnm_datasets.models.embeddings import embeddings_folder
from hnm_datasets.models.sparse_embeddings import SparseEmbeddings
from hnm_datasets.models.sparse_vectors import SparseVectors, sparse_vectors
from hnm_datasets.runtime.bars import ProgressBar
from hnm_datasets.runtime.timing import clocked
from hnm_datasets.storage.about import About
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.folders import build_once, cache_root, folder_size
from hnm_datasets.storage.mapped import create_array, map_next, open_array, save_array
from hnm_datasets.storage.opened import Opened

#: Part of the fingerprint of an index; increase it when the files or the results change.
_FORMAT = 1
_STARTS, _POSTINGS, _WEIGHTS = "starts", "postings", "weights"


@dataclass(frozen=True)
class SparseIndex:
    """Search the sparse embeddings of a corpus exactly, with an inverted index.

    The index is built on first use and memory-mapped from the `datasets` cache directory. Passages with equal scores
    are in corpus order, so the results of a search are a prefix of the results of a deeper search. Passages with a
    score of 0 or less are never returned: they share no term with the query, or negative products outweigh positive
    ones.

    Args:
        embeddings: The vectors of a corpus, from `Corpus.embed_sparse`.
        shard: `(i, n)`: index only shard i of n shards of the corpus, counted from 0; see `ShardedIndex`.

    Raises:
        TypeError: `embeddings` is not `SparseEmbeddings`.
        ValueError: `shard` is out of range.

    Example:
        >>> from hnm_datasets import load_sample
        >>> corpus, _ = load_sample("earthquakes")
        >>> def count_words(texts):
        ...     return [[text.lower().count(word) for word in ("earthquake", "wave", "plate")] for text in texts]
        >>> index = SparseIndex(corpus.embed_sparse(count_words, fingerprint="words-1"))
        >>> hits = index.search([[0, 1, 2]], k=2)
        >>> corpus.ids(hits.rows[0]).to_pylist(), hits.scores.tolist()
        (['plate-boundaries', 'plate-tectonics'], [[4.0, 4.0]])
    """

    embeddings: SparseEmbeddings
    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.embeddings, SparseEmbeddings):
            raise TypeError(
                f"{name}: embeddings must be SparseEmbeddings, got {type(self.embeddings).__name__}. Create them with "
                f"corpus.embed_sparse(model)."
            )
        if self.shard is not None:
            object.__setattr__(self, "shard", checked_shard(name, self.shard, len(self.embeddings)))

    @property
    def corpus(self) -> Corpus:
        """The passages."""
        return Corpus(self.embeddings.corpus_fingerprint)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that depend on the embeddings and the shard."""
        content = {"kind": "sparse", "format": _FORMAT, "embeddings": self.embeddings.fingerprint}
        return fingerprint(content if self.shard is None else content | {"shard": list(self.shard)})

    @property
    def rows(self) -> range:
        """The indexed rows of the corpus."""
        return rows_of_shard(self.shard, len(self.embeddings))

    @property
    def nbytes(self) -> int:
        """The size in bytes of the files that a search maps into memory."""
        self.prepare()
        return folder_size(self._folder, "*.npy")

    @property
    def _folder(self) -> Path:
        return cache_root() / "sparse" / self.fingerprint

    def prepare(self) -> None:
        """Build the index in the cache directory, unless it exists. The first search does the same."""
        with clocked("index"):
            of = embeddings_folder(self.embeddings.fingerprint)
            about = About("sparse", "SparseIndex", shard_in_words(self.shard), of)
            build_once(cache_root() / "sparse", self.fingerprint, self._build, about)

    def close(self) -> None:
        """Close the files. The next search reopens them."""
        _OPENED.forget(self.fingerprint)

    def discard(self) -> None:
        """Delete the files of the index and of its embeddings, for example those of a model during training."""
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self.embeddings.discard()

    def search(self, queries: SparseVectors | Any, k: int) -> Hits:
        """Return the k best passages of each query.

        Args:
            queries: B vectors: a matrix of shape (B, V) from the model of the embeddings, such as the output of
                `model.encode_query`, or `SparseVectors`.
            k: Hits per query. If k exceeds the number of passages, the result is padded.

        Returns:
            Rows and scores of shape (B, k), see `Hits`. A score is the dot product of query and passage.

        Raises:
            ValueError: The queries are not a matrix, or a weight is NaN, infinite or beyond 1e15.
        """
        vectors, files, passages = self._checked(queries), _open(self), len(self.rows)
        # Ignore terms that are in no passage.
        vectors = vectors.where(vectors.terms < len(files.starts) - 1)
        terms = vectors.terms.astype(np.int64)

        def search_chunk(chunk: slice, keys: NDArray[np.uint64]) -> None:
            offsets = vectors.offsets[chunk.start : chunk.stop + 1]
            bm25_kernels.search(
                files.starts, files.postings, files.weights, offsets, terms, vectors.weights, passages, keys
            )

        return search_in_threads(search_chunk, len(vectors), k, self.rows.start)

    def search_shard(self, queries: SparseVectors | Any, k: int) -> tuple[Hits, None]:
        """Do the same as `search`. The scores have no per-query constant."""
        return self.search(queries, k), None

    def score(self, queries: SparseVectors | Any, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Score given passages of each query. The scores are bit-identical to those of `search`.

        Args:
            queries: B vectors, as in `search`.
            rows: B lists of row numbers, C in total.

        Returns:
            Shape (C,), aligned with `rows.values`.
        """
        used, numbers = np.unique(rows.values, return_inverse=True)
        passages = self.embeddings.take(used)
        return sparse_kernels.score(self._checked(queries), passages, Ragged(rows.offsets, numbers))

    def _checked(self, queries: SparseVectors | Any) -> SparseVectors:
        found = queries if isinstance(queries, SparseVectors) else sparse_vectors(queries)
        if (bad := found.bad()) is not None:
            raise ValueError(f"SparseIndex: a weight of the query vector {bad} is NaN, infinite or beyond 1e15.")
        return found

    # ---- building ------------------------------------------------------------------------------------------------

    def _build(self, folder: Path) -> None:
        """Invert the vectors, in memory-mapped files."""
        counts = np.zeros(0, dtype=np.int64)
        for block in self.embeddings.blocks(self.rows):
            total = np.bincount(block.terms, minlength=len(counts))
            total[: len(counts)] += counts
            counts = total
        starts = offsets_of(counts)
        save_array(folder, _STARTS, starts)
        free, first = starts[:-1].copy(), 0
        postings, weights = (
            _created(folder, name, np.dtype(dtype), int(starts[-1]))
            for name, dtype in ((_POSTINGS, np.int32), (_WEIGHTS, np.float32))
        )
        with ProgressBar(len(self.rows), f"Indexing passages (sparse{shard_suffix(self.shard)})", "passages") as bar:
            for block in self.embeddings.blocks(self.rows):
                sizes = np.diff(block.offsets).astype(np.int32)
                bm25_kernels.scatter(first, sizes, block.terms, block.weights, free, postings, weights)
                first += len(sizes)
                bar.update(len(sizes))


def _created(folder: Path, name: str, dtype: np.dtype[Any], length: int) -> NDArray[Any]:
    """Create a file with an array of zeros and map it for writing."""
    path = folder / f"{name}.npy"
    create_array(path, dtype, (length,))
    with path.open("r+b") as file:
        return map_next(file, "r+")


_OPENED: Opened[Postings] = Opened()


def _open(index: SparseIndex) -> Postings:
    def opened() -> Postings:
        index.prepare()
        arrays: Any = (open_array(index._folder, name) for name in (_STARTS, _POSTINGS, _WEIGHTS))
        return Postings(*arrays)

    return _OPENED.get(index.fingerprint, opened)
