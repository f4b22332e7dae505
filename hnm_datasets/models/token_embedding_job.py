"""Embedding a corpus with a multi-vector model: one file of token vectors per shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hnm_datasets.models import shard_job
from hnm_datasets.models.handles import TokenModel
from hnm_datasets.models.list_embedding_job import ListEmbeddingJob
from hnm_datasets.models.list_vectors import check_one_width, read_shard
from hnm_datasets.models.shard_job import Passages
from hnm_datasets.models.token_embeddings import TokenEmbeddings
from hnm_datasets.models.token_encoders import TokenEncoder
from hnm_datasets.models.token_vectors import TokenVectors
from hnm_datasets.storage.digests import fingerprint

#: Part of the fingerprint; increase it when the file format changes.
_FORMAT = 1


def embed_passages_by_tokens(
    passages: Passages,
    model: TokenModel,
    *,
    prompt: str | None = None,
    batch_size: int = 32,
    token_pooling: Any = None,
    devices: Sequence[str] | None = None,
    fingerprint: str | None = None,
) -> TokenEmbeddings:
    """Encode the passages that are not yet encoded; see `Corpus.embed_tokens`."""
    encoder = TokenEncoder(
        model,
        "document",
        prompt=prompt,
        token_pooling=token_pooling,
        batch_size=batch_size,
        fingerprint=fingerprint,
    )
    job = TokenEmbeddingJob(passages, encoder)
    job.ensure(devices)
    return job.embeddings


class TokenEmbeddingJob(ListEmbeddingJob[TokenVectors]):
    """Embeds one corpus, or part of it, as token vectors; see `ShardJob`."""

    encoder: TokenEncoder
    _made_by = "Corpus.embed_tokens"
    _vectors = "tokens"

    def __init__(self, corpus: Passages, encoder: TokenEncoder) -> None:
        name = fingerprint(
            {
                "kind": "token-embeddings",
                "format": _FORMAT,
                "corpus": corpus.fingerprint,
                "encoder": encoder.fingerprint,
                "similarity": encoder.similarity,
                "shard": shard_job.SHARD,
            }
        )
        super().__init__(corpus, encoder, name)

    @property
    def embeddings(self) -> TokenEmbeddings:
        """The embeddings; their vectors may not be computed yet."""
        return TokenEmbeddings(self.name)

    @property
    def _list_encoder(self) -> TokenEncoder:
        return self.encoder

    def _fault(self, vectors: TokenVectors, bad: int) -> tuple[str, str]:
        return vectors.fault(bad)

    def _more_about(self) -> dict[str, Any]:
        found = (read_shard(TokenVectors, self.folder, shard).vectors for shard in range(self.shards))
        widths = {vectors.shape[1:] for vectors in found if len(vectors)}
        check_one_width(widths)
        return {"dimension": widths.pop()[0] if widths else 0}
