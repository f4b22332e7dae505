"""The embedding of a corpus by a sparse model: a file of terms and weights for each shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hnm_datasets.models import shard_job
from hnm_datasets.models.handles import SparseModel
from hnm_datasets.models.list_embedding_job import ListEmbeddingJob
from hnm_datasets.models.shard_job import Passages
from hnm_datasets.models.sparse_embeddings import SparseEmbeddings
from hnm_datasets.models.sparse_encoders import SparseTextEncoder
from hnm_datasets.models.sparse_vectors import SparseVectors
from hnm_datasets.storage.digests import fingerprint

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


class SparseEmbeddingJob(ListEmbeddingJob[SparseVectors]):
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

    @property
    def _list_encoder(self) -> SparseTextEncoder:
        return self.encoder

    def _fault(self, vectors: SparseVectors, bad: int) -> tuple[str, str]:
        return (
            "a NaN, infinite or huge weight",
            "Filter such passages out of the corpus, or check the model: NaN often comes from float16 weights that "
            "overflow.",
        )

    def _more_about(self) -> dict[str, Any]:
        return {"max_active_dims": self.encoder.max_active_dims}
