"""The embedding of a corpus by a sparse model: a file of terms and weights for each shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from hnm_datasets.models import shard_job
from hnm_datasets.models.encoders import shortened
from hnm_datasets.models.handles import SparseModel
from hnm_datasets.models.shard_job import Passages, ShardJob
from hnm_datasets.models.sparse_embeddings import SparseEmbeddings, read_shard, shard_file, taken
from hnm_datasets.models.sparse_encoders import SparseTextEncoder
from hnm_datasets.models.sparse_vectors import SparseVectors, joined, sparse_vectors
from hnm_datasets.runtime.interrupts import check_wanted
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.manifest import finish
from hnm_datasets.storage.mapped import write_array
from hnm_datasets.storage.writing import written_aside

#: Goes into the fingerprint; raise it when the files change.
_FORMAT = 1


def embed_passages_sparse(
    passages: Passages,
    model: SparseModel,
    *,
    prompt: str | None = None,
    batch_size: int = 32,
    max_active_dims: int | None = None,
    devices: Sequence[str] | None = None,
    fingerprint: str | None = None,
) -> SparseEmbeddings:
    """Encode what is not yet encoded; see `Corpus.embed_sparse`."""
    encoder = SparseTextEncoder(
        model,
        "document",
        prompt=prompt,
        max_active_dims=max_active_dims,
        batch_size=batch_size,
        fingerprint=fingerprint,
    )
    job = SparseEmbeddingJob(passages, encoder)
    job.ensure(devices)
    return job.embeddings


class SparseEmbeddingJob(ShardJob[SparseVectors]):
    """The embedding of one corpus by sparse vectors, whole or in part; see `ShardJob`."""

    encoder: SparseTextEncoder

    def __init__(self, corpus: Passages, encoder: SparseTextEncoder) -> None:
        name = fingerprint(
            {
                "kind": "sparse-embeddings",
                "format": _FORMAT,
                "corpus": corpus.fingerprint,
                "encoder": encoder.fingerprint,
                "shard": shard_job.SHARD,
            }
        )
        super().__init__(corpus, encoder, name)

    @property
    def embeddings(self) -> SparseEmbeddings:
        """The vectors, which need not be made yet."""
        return SparseEmbeddings(self.name)

    def _encoded(self, shard: int, pool: Any, bar: Any) -> SparseVectors:
        rows = np.asarray(self.rows(shard))
        start, first = rows[0], self.first_rows[rows]
        distinct = np.flatnonzero(first == rows)
        texts = self.corpus.texts(rows[distinct]).to_pylist()
        # Where the vector of each row is; the first one is that of the rows of earlier shards, and empty.
        parts, places = [sparse_vectors(np.zeros((1, 1)))], np.zeros(len(rows), dtype=np.int64)
        count = 1
        for own, vectors in self.encoder.parts(texts, pool):
            check_wanted()
            self._check(vectors, rows[distinct[own]])
            places[distinct[own]] = count + np.arange(len(own))
            parts.append(vectors)
            count += len(own)
            bar.update(len(own))
        bar.update(len(rows) - len(distinct))
        repeated = np.flatnonzero((first != rows) & (first >= start))
        places[repeated] = places[first[repeated] - start]
        return joined(parts).take(places)

    def _check(self, vectors: SparseVectors, rows: NDArray[np.int64]) -> None:
        if (bad := vectors.bad()) is None:
            return
        passage, text = self.corpus.ids(rows[[bad]])[0].as_py(), self.corpus.texts(rows[[bad]])[0].as_py()
        raise ValueError(
            f"The model gives a NaN, infinite or huge weight for the passage {passage!r}, whose text is "
            f"{shortened(text)}. Filter such passages out of the corpus, or check the model: NaN often comes from "
            f"float16 weights that overflow."
        )

    def _put(self, shard: int, vectors: SparseVectors) -> None:
        arrays = vectors.offsets, vectors.terms, vectors.weights
        size = sum(array.nbytes for array in arrays)
        with written_aside(shard_file(self.folder, shard), size) as aside, aside.open("wb") as file:
            for array in arrays:
                write_array(file, array)

    def _stored(self, shard: int) -> SparseVectors:
        vectors = read_shard(self.folder, shard)
        if len(vectors) != len(self.rows(shard)):
            raise ValueError(f"{shard_file(self.folder, shard)} holds other passages.")
        return vectors

    def _digest(self, vectors: SparseVectors, own: NDArray[np.bool_]) -> str:
        kept = vectors if own.all() else vectors.take(np.flatnonzero(own))
        hasher = xxhash.xxh3_128()
        for array in (kept.offsets, kept.terms, kept.weights):
            hasher.update(array.tobytes())
        return hasher.hexdigest()

    def _mend(self) -> None:
        """Do nothing: a file is whole or not there, and its hash tells if it was damaged."""

    def _finish(self) -> None:
        weights = 0
        for shard in range(self.shards):
            own = self._own(shard)
            vectors = self._stored(shard)
            if not own.all():
                repeated = np.flatnonzero(~own)
                earlier = taken(self.folder, shard_job.SHARD, self.first_rows[self.rows(shard).start + repeated])
                places = np.arange(len(own))
                places[repeated] = len(own) + np.arange(len(repeated))
                vectors = joined([vectors, earlier]).take(places)
                self._put(shard, vectors)
            weights += len(vectors.terms)
        self._write_about(
            passages=len(self.corpus),
            shard=shard_job.SHARD,
            weights=weights,
            max_active_dims=self.encoder.max_active_dims,
        )
        finish(self.folder, [*(shard_file(self.folder, shard).name for shard in range(self.shards)), "about.json"])
