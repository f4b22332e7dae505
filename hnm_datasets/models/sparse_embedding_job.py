"""Embedding a corpus with a sparse model: one file of terms and weights per shard."""

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

#: Part of the fingerprint; increase it when the file format changes.
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
    """Encode the passages that are not yet encoded; see `Corpus.embed_sparse`."""
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
    """Embeds one corpus, or part of it, as sparse vectors; see `ShardJob`."""

    encoder: SparseTextEncoder
    _made_by = "Corpus.embed_sparse"
    _vectors = "sparse"

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
        """The embeddings; their vectors may not be computed yet."""
        return SparseEmbeddings(self.name)

    @property
    def _list_encoder(self) -> SparseTextEncoder:
        return self.encoder

    def _fault(self, vectors: SparseVectors, bad: int) -> tuple[str, str]:
        return (
            "a NaN, infinite or huge weight",
            "Remove such passages from the corpus, or check the model: overflow in float16 weights often causes NaN.",
        )

    def _more_about(self) -> dict[str, Any]:
        return {"max_active_dims": self.encoder.max_active_dims}
