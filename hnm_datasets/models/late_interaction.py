"""A late-interaction model: the encoder of the queries and the token vectors of the passages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hnm_datasets.models.handles import load_model
from hnm_datasets.models.query_encoders import check_same_model
from hnm_datasets.models.shard_job import Passages
from hnm_datasets.models.token_embedding_job import TokenEmbeddingJob
from hnm_datasets.models.token_embeddings import TokenEmbeddings
from hnm_datasets.models.token_encoders import TokenEncoder


@dataclass(frozen=True)
class LateModel:
    """The late-interaction model of a step; it pickles to fingerprints.

    Attributes:
        queries: The encoder of the queries.
        documents: The encoder of the passages; None if their vectors were given.
        embeddings: The token vectors of the passages; they may not be computed yet.
    """

    queries: TokenEncoder
    documents: TokenEncoder | None
    embeddings: TokenEmbeddings

    @classmethod
    def of(
        cls,
        step: str,
        corpus: Passages,
        model: Any,
        *,
        query_prompt: str | None,
        prompt: str | None,
        embeddings: TokenEmbeddings | None,
        batch_size: int,
        fingerprint: str | None,
    ) -> LateModel:
        """Check the options of a step and create the encoders.

        Raises:
            TypeError: `model` or `embeddings` has the wrong type.
            ValueError: The embeddings are not computed, or belong to another corpus, model or prompt.
        """
        if embeddings is not None and not isinstance(embeddings, TokenEmbeddings):
            raise TypeError(
                f"{step}: embeddings must be TokenEmbeddings, got {type(embeddings).__name__}. Create them with "
                f"corpus.embed_tokens(model)."
            )
        handle = model.queries if isinstance(model, LateModel) else model
        loaded = load_model(handle, fingerprint, kind="MultiVectorEncoder", owner=step)
        queries = TokenEncoder(loaded, "query", prompt=query_prompt, batch_size=batch_size)
        documents = TokenEncoder(loaded, "document", prompt=prompt, batch_size=batch_size)
        own = TokenEmbeddingJob(corpus, documents).embeddings
        if embeddings is None or embeddings == own:
            return cls(queries, documents, own)
        if not embeddings.are_made:
            raise ValueError(
                f"{step}: the embeddings are not in the cache directory. Compute them with corpus.embed_tokens(model), "
                f"or pass embeddings=None."
            )
        if embeddings.corpus_fingerprint != corpus.fingerprint:
            raise ValueError(
                f"{step}: the embeddings belong to another corpus. Pass corpus.embed_tokens(model) of this corpus."
            )
        check_same_model(step, queries, embeddings)
        if prompt not in (None, embeddings.prompt):
            raise ValueError(
                f"{step}: the passages were encoded with the prompt {embeddings.prompt!r}, not {prompt!r}. Remove "
                f"prompt=, or pass embeddings=corpus.embed_tokens(model, prompt=...)."
            )
        return cls(queries, None, embeddings)

    @property
    def prompt(self) -> str:
        """The prompt before each passage."""
        return self.embeddings.prompt if self.documents is None else self.documents.prompt

    def prepare(self, corpus: Passages) -> None:
        """Encode the passages, unless their vectors are in the cache directory."""
        if self.documents is not None:
            TokenEmbeddingJob(corpus, self.documents).ensure()
