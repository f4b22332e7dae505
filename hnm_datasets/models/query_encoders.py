"""The encoder of the queries that belongs to the embeddings of the passages."""

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
    """Make the encoder of queries whose vectors are compared with the vectors of passages."""
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
    """Raise a ValueError unless queries and passages are encoded by the same weights."""
    if encoder.model_fingerprint != embeddings.model_fingerprint:
        kinds = {SparseEmbeddings: ("embed_sparse", "SparseEncoder"), TokenEmbeddings: ("embed_tokens", None)}
        method, kind = kinds.get(type(embeddings), ("embed", "SentenceTransformer"))
        both = f" (Two models, one for queries and one for passages, go into one {kind} with a Router module.)"
        raise ValueError(
            f"{step}: the embeddings are of another model, or of this one with other weights. Encode the corpus again "
            f"with corpus.{method}(model).{both if kind else ''}"
        )
