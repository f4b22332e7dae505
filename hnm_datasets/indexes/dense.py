"""Dense search: exact by default, or with any FAISS index over the same vectors."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.indexes import exact, quantized
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.candidates import Known, supports_int8
from hnm_datasets.indexes.faiss_files import inverted_lists, read_index, reason, write_index
from hnm_datasets.indexes.quick import quick_products
from hnm_datasets.indexes.shards import checked_shard, rows_of_shard, shard_in_words, shard_suffix
from hnm_datasets.models.embeddings import Embeddings, embeddings_folder
from hnm_datasets.runtime.bars import ProgressBar
from hnm_datasets.runtime.timing import clocked
from hnm_datasets.runtime.workers import in_worker
from hnm_datasets.storage.about import About
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.folders import build_once, cache_root, folder_size
from hnm_datasets.storage.mapped import release
from hnm_datasets.storage.opened import Opened

logger = logging.getLogger(__name__)

#: Part of the fingerprint of an index; increase it when the files or the results change.
_FORMAT = 1
_EXACT = "Flat"
#: Vectors that FAISS is trained on by default: the larger of this number and this number per inverted list.
_TRAINING = 50_000
_TRAINING_PER_LIST = 64
#: The number of sampled queries for measuring recall.
_SAMPLE = 1000
_FILE = "index.faiss"
#: Below this total number of elements, each process quantizes the vectors itself, in a fraction of a second.
_SMALL = 1 << 24
#: The largest k of FAISS on a GPU.
_MAX_K_ON_GPU = 2048


@dataclass(frozen=True)
class DenseIndex:
    """Search the embeddings of a corpus, exactly or with an approximate FAISS index.

    The default `"Flat"` is exact and reads the memory-mapped embeddings directly. On processors with fast 8-bit
    products, the first search of a large corpus also writes the embeddings as 8-bit integers, a quarter of their size.
    If there is a GPU, exact search runs on it. Any other factory string builds that FAISS index once, in the `datasets`
    cache directory, and opens it memory-mapped (or on the GPUs, if FAISS supports them). Its hits are rescored from the
    embeddings, so scores are exact and comparable for all indexes. The similarity is that of the embeddings.

    Args:
        embeddings: The vectors of a corpus, from `Corpus.embed`.
        factory: A FAISS factory string, such as `"HNSW32"`, `"IVF4096,Flat"` or `"IVF4096,PQ64"`; see
            https://github.com/facebookresearch/faiss/wiki/The-index-factory.
        training_size: The number of random vectors that the index is trained on; None: 64 per inverted list and at
            least 50,000, or all vectors if there are fewer.
        nprobe: For IVF: the number of inverted lists to search. Higher values are slower and increase recall. FAISS's
            default is 1.
        ef_search: For HNSW: the search width. Higher values are slower and increase recall. FAISS's default is 16.
        shard: `(i, n)`: index only shard i of n shards of the corpus, counted from 0; see `ShardedIndex`.

    Raises:
        TypeError: `embeddings` or an option has the wrong type.
        ValueError: The factory string is unknown or does not fit the vectors, the index needs more training vectors
            than the corpus has, or a search option is not supported by this kind of index.

    Example:
        >>> import numpy as np
        >>> from hnm_datasets import load_sample
        >>> corpus, _ = load_sample("earthquakes")
        >>> def count_letters(texts):
        ...     return np.array([[text.count("a"), text.count("e"), 1] for text in texts])
        >>> index = DenseIndex(corpus.embed(count_letters, fingerprint="letters-1"))
        >>> hits = index.search(np.float32([[1, 0, 0]]), k=2)
        >>> corpus.ids(hits.rows[0]).to_pylist()
        ['sourdough', 'tsunamis']
    """

    embeddings: Embeddings
    factory: str = _EXACT
    training_size: int | None = None
    nprobe: int | None = None
    ef_search: int | None = None
    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.embeddings, Embeddings):
            raise TypeError(
                f"{name}: embeddings must be Embeddings, got {type(self.embeddings).__name__}. Create them with "
                f"corpus.embed(model)."
            )
        if not isinstance(self.factory, str):
            raise TypeError(f"{name}: factory must be a string such as 'IVF256,Flat', got {self.factory!r}.")
        if self.shard is not None:
            object.__setattr__(self, "shard", checked_shard(name, self.shard, len(self.embeddings)))
        for option in ("training_size", "nprobe", "ef_search"):
            value = getattr(self, option)
            if value is None:
                continue
            object.__setattr__(self, option, checks.whole_number(name, option, value, low=1))
            if self.is_exact:
                raise ValueError(f"{name}: {option} has no effect on the exact index 'Flat'; remove it.")
        if not self.is_exact:
            self._check_options(self._empty_index())

    @property
    def is_exact(self) -> bool:
        """Whether searches are exact."""
        return self.factory == _EXACT

    @property
    def corpus(self) -> Corpus:
        """The passages."""
        return Corpus(self.embeddings.corpus_fingerprint)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that depend on the embeddings and all options."""
        return fingerprint({"built": self._built, "search": [self.nprobe, self.ef_search]})

    @property
    def rows(self) -> range:
        """The indexed rows of the corpus."""
        return rows_of_shard(self.shard, len(self.embeddings))

    @property
    def nbytes(self) -> int:
        """The size in bytes of the files that a search maps into memory."""
        self.prepare()
        own = self._vectors.nbytes if self.is_exact else 0
        return own + (folder_size(self._folder) if self._has_folder else 0)

    def prepare(self) -> None:
        """Build the index in the cache directory, unless it exists. The first search does the same.

        An exact index of many vectors writes them as 8-bit integers if that speeds up searches: for cosine and dot
        product, on a processor with fast 8-bit products.
        """
        if self._has_folder:
            with clocked("index"):
                build_once(cache_root() / "dense", self._built, self._build, self._about)

    def close(self) -> None:
        """Close the index and release the memory of the vectors. The next search reopens them."""
        _OPENED.forget(self.fingerprint)
        _KNOWN.forget(self.fingerprint)
        release(self._vectors)

    @property
    def _vectors(self) -> NDArray[Any]:
        return self.embeddings.vectors[self.rows.start : self.rows.stop]

    @property
    def _folder(self) -> Path:
        return cache_root() / "dense" / self._built

    @property
    def _has_folder(self) -> bool:
        return not self.is_exact or self._is_quantized

    @property
    def _is_quantized(self) -> bool:
        if not self.is_exact or exact.is_on_gpu() or len(self.rows) * self.embeddings.dimension < _SMALL:
            return False
        return supports_int8(self.embeddings.similarity, self.embeddings.dimension, quick_products())

    @property
    def _built(self) -> str:
        options = [self.factory, self.training_size]
        content = {"kind": "dense", "format": _FORMAT, "embeddings": self.embeddings.fingerprint, "options": options}
        return fingerprint(content if self.shard is None else content | {"shard": list(self.shard)})

    @property
    def _about(self) -> About:
        detail = "exact, in bytes" if self.is_exact else self.factory
        detail = ", ".join(filter(None, [detail, shard_in_words(self.shard)]))
        of = embeddings_folder(self.embeddings.fingerprint)
        return About("dense", "DenseIndex", detail, of, options={"training_size": self.training_size})

    def search(self, queries: NDArray[np.float32], k: int) -> Hits:
        """Return the k best passages of each query.

        Args:
            queries: Vectors of shape (B, D), from the model of the embeddings.
            k: Hits per query. If k exceeds the number of passages, the result is padded.

        Returns:
            Rows and scores of shape (B, k), see `Hits`. A higher score is better: the cosine, the dot product, or the
            negative distance.

        Raises:
            ValueError: The vectors have another dimension, or are NaN or infinite.
        """
        queries = self._checked(queries)
        if self.is_exact:
            return self._in_corpus(self._search_exact(queries, k))
        return self._search_approximate(queries, k)

    def score(self, queries: NDArray[np.float32], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Score given passages of each query. The scores are bit-identical to those of `search`.

        Args:
            queries: Vectors of shape (B, D).
            rows: B lists of row numbers, C in total.

        Returns:
            Shape (C,), aligned with `rows.values`.
        """
        return exact.score(self._checked(queries), self.embeddings.vectors, rows, self.embeddings.similarity)

    def recall(self, queries: NDArray[np.float32], k: int = 100) -> float:
        """Measure the recall of the index: the fraction of the k best passages of an exact search that it finds.

        Args:
            queries: Vectors of shape (B, D). If there are more than 1,000, a random sample of 1,000 is used.
            k: Hits per query.

        Returns:
            The recall, from 0 to 1; 1 for the exact index.
        """
        queries = self._checked(queries)
        if len(queries) > _SAMPLE:
            queries = queries[np.sort(np.random.default_rng(0).choice(len(queries), _SAMPLE, replace=False))]
        k = min(k, len(self.rows))
        best = self._search_exact(queries, k)
        # Compare scores, not rows: passages with equal scores are interchangeable.
        recall = float((self.search(queries, k).scores >= best.scores[:, -1:]).mean())
        logger.info("Recall@%d of %s: %.1f%% (%d queries).", k, self.factory, 100 * recall, len(queries))
        return recall

    def discard(self) -> None:
        """Delete the files of the index and of its embeddings, for example those of a model during training."""
        _OPENED.forget(self.fingerprint)
        _KNOWN.forget(self.fingerprint)
        shutil.rmtree(self._folder, ignore_errors=True)
        self.embeddings.discard()

    def search_shard(self, queries: NDArray[np.float32], k: int) -> tuple[Hits, None]:
        """Do the same as `search`. The scores have no per-query constant."""
        return self.search(queries, k), None

    def _checked(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        queries = np.array(queries, dtype=np.float32, order="C", ndmin=1)
        dimension = self.embeddings.dimension
        if queries.ndim != 2 or queries.shape[1] != dimension:
            raise ValueError(
                f"DenseIndex: queries must be vectors of shape (B, {dimension}), like the embeddings, got "
                f"{queries.shape}. Encode them with the model of the embeddings."
            )
        if not np.isfinite(queries).all():
            row = int(np.flatnonzero(~np.isfinite(queries).all(axis=1))[0])
            raise ValueError(f"DenseIndex: the query vector {row} contains NaN or infinite values.")
        return queries

    def _search_exact(self, queries: NDArray[np.float32], k: int) -> Hits:
        vectors, similarity = self._vectors, self.embeddings.similarity

        def known() -> Known:
            self.prepare()
            return Known(vectors, similarity, self._folder if self._is_quantized else None)

        return exact.search(queries, vectors, k, similarity, _KNOWN.get(self.fingerprint, known))

    def _search_approximate(self, queries: NDArray[np.float32], k: int) -> Hits:
        import faiss

        index, on_gpus = _open(self)
        wanted = min(k, len(self.rows))
        if on_gpus is not None and wanted <= _MAX_K_ON_GPU:
            index = on_gpus
        if in_worker():
            # The threads of the parent do not survive a fork, and the other workers need the cores too.
            faiss.omp_set_num_threads(1)
        _, found = index.search(queries, wanted)
        # FAISS pads each line with -1.
        counts = (found >= 0).sum(axis=1)
        return self._in_corpus(exact.rank(queries, self._vectors, found, counts, k, self.embeddings.similarity))

    def _in_corpus(self, hits: Hits) -> Hits:
        """Convert row numbers within the shard to row numbers of the corpus."""
        if self.rows.start:
            hits.rows[hits.rows >= 0] += self.rows.start
        return hits

    # ---- building ------------------------------------------------------------------------------------------------

    def _build(self, folder: Path) -> None:
        desc = f"Indexing vectors ({self.factory}{shard_suffix(self.shard)})"
        with ProgressBar(len(self.rows), desc, "passages") as bar:
            for added in quantized.write(self._vectors, folder) if self.is_exact else self._write_faiss(folder, bar):
                bar.update(added)

    def _write_faiss(self, folder: Path, bar: ProgressBar) -> Iterator[int]:
        """Build a FAISS index; yield the number of vectors in each added block."""
        index = self._empty_index()
        self._check_options(index)
        if not index.is_trained:
            vectors = self._training_vectors(index)
            bar.set_postfix_str(f"training on {len(vectors):,} vectors")
            index.train(vectors)
            bar.set_postfix_str("")
        for block in self.embeddings.blocks(self.rows):
            index.add(block)
            yield len(block)
        write_index(index, folder / _FILE)

    def _empty_index(self) -> Any:
        import faiss

        metric = faiss.METRIC_L2 if self.embeddings.similarity == "euclidean" else faiss.METRIC_INNER_PRODUCT
        try:
            return faiss.index_factory(self.embeddings.dimension, self.factory, metric)
        except RuntimeError as error:
            raise ValueError(
                f"DenseIndex: FAISS cannot create the index {self.factory!r} for vectors of dimension "
                f"{self.embeddings.dimension} ({reason(error)}). Common choices are 'Flat', 'HNSW32', 'IVF1024,Flat' "
                f"and 'IVF1024,PQ32', where the number after PQ must divide the dimension."
            ) from None

    def _check_options(self, index: Any) -> None:
        """Raise a ValueError if there are too few vectors for the index, or if it does not support a search option."""
        total, size, lists = len(self.rows), self._training_size(index), inverted_lists(index)
        if lists > min(size, total):
            raise ValueError(
                f"DenseIndex: {self.factory!r} has {lists} inverted lists. Training needs at least as many vectors "
                f"({39 * lists} for good results), but there are only {min(size, total)}. Use fewer lists (about "
                f"{max(1, 4 * int(total**0.5))} for {total} passages) or the exact index 'Flat'."
            )
        self._set_search_options(index)

    def _set_search_options(self, index: Any) -> None:
        import faiss

        for option, parameter in (("nprobe", "nprobe"), ("ef_search", "efSearch")):
            value = getattr(self, option)
            if value is None:
                continue
            try:
                faiss.ParameterSpace().set_index_parameter(index, parameter, value)
            except RuntimeError:
                raise ValueError(
                    f"DenseIndex: the index {self.factory!r} does not support {option}. nprobe is for IVF indexes, "
                    f"ef_search for HNSW indexes."
                ) from None

    def _training_size(self, index: Any) -> int:
        return self.training_size or max(_TRAINING, _TRAINING_PER_LIST * inverted_lists(index))

    def _training_vectors(self, index: Any) -> NDArray[np.float32]:
        total, size = len(self.rows), self._training_size(index)
        rows = np.arange(total)
        if size < total:
            rows = np.sort(np.random.default_rng(0).choice(total, size, replace=False))
        return np.asarray(self._vectors[rows], dtype=np.float32)


#: Data derived from the vectors, for exact searches.
_KNOWN: Opened[Known] = Opened()

#: The memory-mapped index, and its copy on the GPUs, if any.
_OPENED: Opened[tuple[Any, Any]] = Opened()


def _open(index: DenseIndex) -> tuple[Any, Any]:
    def opened() -> tuple[Any, Any]:
        import faiss

        index.prepare()
        path = index._folder / _FILE
        found = read_index(path)
        index._set_search_options(found)
        on_gpus = faiss.get_num_gpus() > 0 and not in_worker()
        return found, faiss.index_cpu_to_all_gpus(found) if on_gpus else None

    return _OPENED.get(index.fingerprint, opened)
