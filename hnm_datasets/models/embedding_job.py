"""Embedding a corpus with a dense model.

All vectors are in one file, so that a search reads them as one matrix. A shard is a range of its rows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from filelock import FileLock
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.models import shard_job
from hnm_datasets.models.embeddings import BLOCK, VECTORS, Embeddings
from hnm_datasets.models.encoders import Encoder, bad_vectors, shortened
from hnm_datasets.models.handles import EmbeddingModel
from hnm_datasets.models.shard_job import Passages, ShardJob
from hnm_datasets.storage.about import ABOUT
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.manifest import finish
from hnm_datasets.storage.mapped import allocate, create_array, map_next, read_header
from hnm_datasets.storage.writing import written_aside

#: Part of the fingerprint; increase it when the file format changes.
_FORMAT = 1
DTYPES = ("float32", "float16")


def embed_passages(
    passages: Passages,
    model: EmbeddingModel,
    *,
    prompt: str | None = None,
    batch_size: int = 32,
    dtype: str = "float32",
    devices: Sequence[str] | None = None,
    normalize: bool | None = None,
    similarity: str | None = None,
    fingerprint: str | None = None,
) -> Embeddings:
    """Encode the passages that are not yet encoded; see `Corpus.embed`."""
    encoder = Encoder(
        model,
        "document",
        prompt=prompt,
        normalize=normalize,
        similarity=similarity,
        batch_size=batch_size,
        fingerprint=fingerprint,
    )
    job = EmbeddingJob(passages, encoder, checks.one_of("embed", "dtype", dtype, DTYPES))
    job.ensure(devices)
    return job.embeddings


class EmbeddingJob(ShardJob[NDArray[Any]]):
    """Embeds one corpus, or part of it, with a dense model; see `ShardJob`."""

    encoder: Encoder
    _made_by = "Corpus.embed"
    _vectors = "dense"

    def __init__(self, corpus: Passages, encoder: Encoder, dtype: str = "float32") -> None:
        self.dtype = np.dtype(dtype)
        name = fingerprint(
            {
                "kind": "embeddings",
                "format": _FORMAT,
                "corpus": corpus.fingerprint,
                "encoder": encoder.fingerprint,
                "similarity": encoder.similarity,
                "dtype": dtype,
                "shard": shard_job.SHARD,
            }
        )
        super().__init__(corpus, encoder, name)

    @property
    def embeddings(self) -> Embeddings:
        """The embeddings; their vectors may not be computed yet."""
        return Embeddings(self.name)

    def _encoded(self, shard: int, pool: Any, bar: Any) -> NDArray[Any]:
        """Encode the distinct passages of a shard."""
        rows = np.asarray(self.rows(shard))
        start, first = rows[0], self.first_rows[rows]
        distinct = np.flatnonzero(first == rows)
        texts = self.corpus.texts(rows[distinct]).to_pylist()
        whole = np.empty((0, 0), dtype=self.dtype)
        for positions, vectors in self.encoder.parts(texts, pool, bar.update):
            with np.errstate(over="ignore"):
                kept = vectors.astype(self.dtype)
            self._check(vectors, kept, rows[distinct[positions]])
            if not len(whole):
                whole = np.zeros((len(rows), vectors.shape[1]), dtype=self.dtype)
            whole[distinct[positions]] = kept
        bar.update(len(rows) - len(distinct))
        repeated = np.flatnonzero((first != rows) & (first >= start))
        whole[repeated] = whole[first[repeated] - start]
        return whole

    def _check(self, vectors: NDArray[np.float32], kept: NDArray[Any], rows: NDArray[np.int64]) -> None:
        bad = bad_vectors(vectors)
        overflown = bad | bad_vectors(kept.astype(np.float32))
        if not overflown.any():
            return
        first = int(np.flatnonzero(overflown)[0])
        passage, text = self.corpus.ids(rows[[first]])[0].as_py(), self.corpus.texts(rows[[first]])[0].as_py()
        if not bad[first]:
            raise ValueError(
                f"The vector of the passage {passage!r} does not fit into {self.dtype}: its largest value is "
                f"{np.abs(vectors[first]).max():g}. Store the vectors with dtype='float32', or normalize them."
            )
        raise ValueError(
            f"The model returns a zero, NaN or infinite vector for the passage {passage!r} with the text "
            f"{shortened(text)}. Remove such passages from the corpus, or check the model: overflow in float16 weights "
            f"often causes NaN."
        )

    def _put(self, shard: int, vectors: NDArray[Any]) -> None:
        if not self._own(shard).any():
            return
        path = self._file(vectors.shape[1])
        size = vectors.shape[1] * self.dtype.itemsize
        with path.open("r+b") as file:
            read_header(file)
            file.seek(self.rows(shard).start * size, os.SEEK_CUR)
            file.write(vectors.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def _stored(self, shard: int) -> NDArray[Any]:
        rows = self.rows(shard)
        return self._map()[rows.start : rows.stop]

    def _digest(self, vectors: NDArray[Any], own: NDArray[np.bool_]) -> str:
        return xxhash.xxh3_128_hexdigest(vectors[own].tobytes() if own.any() else b"")

    def _file(self, dimension: int) -> Path:
        """Return the file of all vectors; create it if necessary."""
        path, shape = self.folder / VECTORS, (len(self.corpus), dimension)
        with FileLock(self.folder / "file.lock"):
            # With a damaged header, all shards count as damaged.
            if not path.exists() or (self._map().shape != shape and not self._holds_any()):
                with written_aside(path, math.prod(shape) * self.dtype.itemsize) as aside:
                    create_array(aside, self.dtype, shape)
            found = self._map().shape
        if found != shape:
            raise ValueError(
                f"The model returns vectors of {dimension} dimensions, but earlier vectors with the same fingerprint "
                f"have {found[1]}. Choose another name for the new vectors: fingerprint='...'."
            )
        return path

    def _holds_any(self) -> bool:
        return any(self.is_done(shard) for shard in range(self.shards) if self._own(shard).any())

    def _map(self) -> NDArray[Any]:
        """Memory-map the file of all vectors; raise a ValueError if it does not belong to this job."""
        with (self.folder / VECTORS).open("rb") as file:
            vectors = map_next(file)
        if vectors.ndim != 2 or len(vectors) != len(self.corpus) or vectors.dtype != self.dtype:
            raise ValueError(f"{self.folder / VECTORS} contains other vectors.")
        return vectors

    def _mend(self) -> None:
        """Restore the length of a truncated file; the hashes show which shards are lost."""
        path = self.folder / VECTORS
        with FileLock(self.folder / "file.lock"):
            if not path.exists():
                return
            try:
                with path.open("r+b") as file:
                    dtype, shape = read_header(file)
                    file.truncate(file.tell() + math.prod(shape) * dtype.itemsize)
                self._map()
            except (OSError, OverflowError, ValueError):
                path.unlink()

    def _finish(self) -> None:
        """Fill in passages that repeat one of an earlier shard, and mark the embeddings as finished."""
        with (self.folder / VECTORS).open("r+b") as file:
            # Allocate first: writing to a mapped file on a full disk would crash the process.
            allocate(file, file.seek(0, os.SEEK_END))
            file.seek(0)
            vectors = map_next(file, "r+")
        shard_starts = np.arange(len(vectors)) // shard_job.SHARD * shard_job.SHARD
        repeated = np.flatnonzero(self.first_rows < shard_starts)
        for begin in range(0, len(repeated), BLOCK):
            part = repeated[begin : begin + BLOCK]
            vectors[part] = vectors[self.first_rows[part]]
        finish(self.folder, [VECTORS, ABOUT], self.about())
