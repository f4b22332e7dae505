"""A model of late interaction: what encodes queries, and the token vectors of the passages that belong to it."""

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
    """What a step holds in place of a model; it pickles to fingerprints.

    Attributes:
        queries: The encoder of the queries.
        documents: The encoder of the passages; None: their vectors were given.
        embeddings: The token vectors of the passages, which need not be made yet.
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
        """Check the options of a step, and make encoders of them.

        Raises:
            TypeError: `model` or `embeddings` is something else.
            ValueError: The embeddings are not made, or of another corpus, model or prompt.
        """
        if embeddings is not None and not isinstance(embeddings, TokenEmbeddings):
            raise TypeError(
                f"{step}: embeddings must be TokenEmbeddings, got {type(embeddings).__name__}. Make them with "
                f"corpus.embed_tokens(model)."
            )
        handle = model.queries if isinstance(model, LateModel) else model
        loaded = load_model(handle, fingerprint, kind="MultiVectorEncoder")
        queries = TokenEncoder(loaded, "query", prompt=query_prompt, batch_size=batch_size)
        documents = TokenEncoder(loaded, "document", prompt=prompt, batch_size=batch_size)
        own = TokenEmbeddingJob(corpus, documents).embeddings
        if embeddings is None or embeddings == own:
            return cls(queries, documents, own)
        if not embeddings.are_made:
            raise ValueError(
                f"{step}: the embeddings are not in the cache directory. Make them with corpus.embed_tokens(model), or "
                f"pass embeddings=None."
            )
        if embeddings.corpus_fingerprint != corpus.fingerprint:
            raise ValueError(
                f"{step}: the embeddings are of another corpus. Pass corpus.embed_tokens(model) of this one."
            )
        check_same_model(step, queries, embeddings)
        if prompt not in (None, embeddings.prompt):
            raise ValueError(
                f"{step}: the passages were encoded with the prompt {embeddings.prompt!r}, not {prompt!r}. Leave "
                f"prompt= out, or pass embeddings=corpus.embed_tokens(model, prompt=...)."
            )
        return cls(queries, None, embeddings)

    @property
    def prompt(self) -> str:
        """The text before each passage."""
        return self.embeddings.prompt if self.documents is None else self.documents.prompt

    def prepare(self, corpus: Passages) -> None:
        """Encode the passages, unless their vectors are in the cache directory."""
        if self.documents is not None:
            TokenEmbeddingJob(corpus, self.documents).ensure()
