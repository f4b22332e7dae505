"""The encoder of the queries that belongs to the embeddings of the passages."""

from __future__ import annotations

from hnm_datasets.models.embeddings import Embeddings
from hnm_datasets.models.encoders import Encoder
from hnm_datasets.models.handles import LoadedModel


def query_encoder(model: LoadedModel, embeddings: Embeddings | Encoder, prompt: str | None, batch_size: int) -> Encoder:
    """Make the encoder of queries whose vectors are compared with the embeddings of passages."""
    return Encoder(
        model,
        "query",
        prompt=prompt,
        normalize=embeddings.normalize,
        similarity=embeddings.similarity,
        batch_size=batch_size,
    )


def check_same_model(step: str, encoder: Encoder, embeddings: Embeddings) -> None:
    """Raise a ValueError unless queries and passages are encoded by the same weights."""
    if encoder.model_fingerprint != embeddings.model_fingerprint:
        raise ValueError(
            f"{step}: the embeddings are of another model, or of this one with other weights. Encode the corpus again "
            f"with corpus.embed(model). (Two models, one for queries and one for passages, go into one "
            f"SentenceTransformer with a Router module.)"
        )
