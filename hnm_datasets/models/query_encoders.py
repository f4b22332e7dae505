"""The encoder of the queries that matches the embeddings of the passages."""

from __future__ import annotations

from hnm_datasets.models.embeddings import StoredVectors
from hnm_datasets.models.encoders import Encoder, TextEncoder
from hnm_datasets.models.handles import LoadedModel
from hnm_datasets.models.sparse_embeddings import SparseEmbeddings
from hnm_datasets.models.sparse_encoders import SparseTextEncoder
from hnm_datasets.models.token_embeddings import TokenEmbeddings
from hnm_datasets.models.token_encoders import TokenEncoder


def query_encoder(
    model: LoadedModel, documents: StoredVectors | TextEncoder, prompt: str | None, batch_size: int
) -> TextEncoder:
    """Create the encoder of queries that matches the encoder or the embeddings of the passages."""
    if isinstance(documents, (SparseEmbeddings, SparseTextEncoder)):
        return SparseTextEncoder(
            model,
            "query",
            prompt=prompt,
            max_active_dims=documents.max_active_dims,
            batch_size=batch_size,
        )
    if isinstance(documents, (TokenEmbeddings, TokenEncoder)):
        return TokenEncoder(model, "query", prompt=prompt, batch_size=batch_size)
    return Encoder(
        model,
        "query",
        prompt=prompt,
        normalize=documents.normalize,
        similarity=documents.similarity,
        batch_size=batch_size,
    )


def check_same_model(step: str, encoder: TextEncoder, embeddings: StoredVectors) -> None:
    """Raise a ValueError if queries and passages are not encoded with the same weights."""
    if encoder.model_fingerprint != embeddings.model_fingerprint:
        kinds = {SparseEmbeddings: ("embed_sparse", "SparseEncoder"), TokenEmbeddings: ("embed_tokens", None)}
        method, kind = kinds.get(type(embeddings), ("embed", "SentenceTransformer"))
        both = f" (To use one model for queries and another for passages, combine them in a {kind} with a Router.)"
        raise ValueError(
            f"{step}: the embeddings were computed with another model, or with other weights of this model. Encode "
            f"the corpus again with corpus.{method}(model).{both if kind else ''}"
        )
