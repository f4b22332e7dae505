"""Sparse negatives, mined with a sparse embedding model."""

from __future__ import annotations

import logging
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.sharded import ShardedIndex
from hnm_datasets.indexes.sparse import SparseIndex
from hnm_datasets.models.embeddings import StoredVectors
from hnm_datasets.models.handles import LoadedModel, ModelHandle
from hnm_datasets.models.sparse_embedding_job import SparseEmbeddingJob
from hnm_datasets.models.sparse_encoders import SparseTextEncoder
from hnm_datasets.models.sparse_vectors import SparseVectors
from hnm_datasets.runtime.notices import tell_of_batch
from hnm_datasets.transforms.miners.model import ModelNegatives

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SparseNegatives(ModelNegatives):
    """Mine sparse negatives: the passages that a sparse model ranks highest, without known positives.

    A sparse model assigns weights to the terms of its vocabulary, including terms that do not occur in the text (Formal
    et al. 2022, *From Distillation to Hard Negative Sampling*, https://arxiv.org/abs/2205.04733). If the model is the
    one in training, these are the hardest negatives for it. The highest-ranked are often relevant but not annotated, so
    filter them with `RelativeMargin` or `RankWindow`.

    The corpus and each distinct query are encoded once, and the search is exact. A query finds only passages with a
    score above 0, which may be fewer than k. The step uses the current weights of the model; create a new step after
    the weights change. See `DenseNegatives` for GPUs and `num_proc`.

    Args:
        corpus: The passages.
        model: A `SparseEncoder` (SPLADE, inference-free with a `Router`, or static word weights), its path or Hub id,
            or a function from a list of texts to a matrix of shape (B, V), see `fingerprint`. Its similarity must be
            the dot product or the cosine.
        k: Candidates per query. Mine many (50 to 200), and let filters and samplers select from them.
        exclude_group: Also exclude all passages from the source documents of the positives. Requires a corpus with
            groups.
        query_prompt: The text before each query; None uses the model's query prompt, if it has one.
        prompt: The text before each passage; None uses the model's document prompt, if it has one, or the prompt of the
            index.
        index: The index to search. The default is `SparseIndex(corpus.embed_sparse(model, prompt=prompt))`, built once,
            on first use. For several shards: `ShardedIndex([SparseIndex(embeddings, shard=(i, 4)) for i in range(4)])`.
        batch_size: Texts per forward pass, see `Corpus.embed_sparse`.
        max_active_dims: Keep this many of the largest weights of each query and passage; None uses the setting of the
            model or the index.
        fingerprint: For a function: a name that changes whenever the function's results change.

    Columns read:
        `query`, `positive_ids`; `query_id` for error messages, if present.

    Columns written:
        `negative_ids` (best first), `negative_scores` (dot product or cosine, depending on the model's similarity),
        `negative_ranks` (1-based positions in the full list, before exclusions), `negative_source` (`"sparse"`),
        `positive_scores` (from the same model, aligned with `positive_ids`).

    Raises:
        TypeError: `corpus`, `model`, `index` or another option is of the wrong type.
        ValueError: `k` is less than 1, the index belongs to another corpus or model, the model's similarity is a
            distance, or a weight is NaN or infinite.

    Example:
        >>> from hnm_datasets import load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> def count_words(texts):
        ...     words = ("earthquake", "wave", "plate", "volcano", "the")
        ...     return [[text.lower().count(word) for word in words] for text in texts]
        >>> step = SparseNegatives(corpus, count_words, k=3, fingerprint="words-1")
        >>> mined = queries.map(step, batched=True)
        >>> len(mined[0]["negative_ids"]), mined[0]["negative_source"][0]
        (3, 'sparse')
    """

    source: ClassVar[str] = "sparse"
    index_kind = SparseIndex
    model_kind = "SparseEncoder"
    embed = "corpus.embed_sparse"

    _: KW_ONLY
    index: SparseIndex | ShardedIndex | None = None
    max_active_dims: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        encoder: SparseTextEncoder = self.model
        self._set(max_active_dims=encoder.max_active_dims)

    def _job(self, model: LoadedModel | ModelHandle) -> SparseEmbeddingJob:
        encoder = SparseTextEncoder(
            model,
            "document",
            prompt=self.prompt,
            max_active_dims=self.max_active_dims,
            batch_size=self.batch_size,
        )
        return SparseEmbeddingJob(self.corpus, encoder)

    def _check_given(self, documents: StoredVectors) -> None:
        super()._check_given(documents)
        own = getattr(documents, "max_active_dims", None)
        if self.max_active_dims not in (None, own):
            raise ValueError(
                f"SparseNegatives: the passages of the index were encoded with max_active_dims={own}, not "
                f"{self.max_active_dims!r}. Omit max_active_dims=, or pass "
                f"SparseIndex(corpus.embed_sparse(model, max_active_dims=...))."
            )

    def _encode(self, queries: list[str], keys: NDArray[np.uint64]) -> SparseVectors:
        encoder: SparseTextEncoder = self.model
        vectors = encoder.vectors(queries)
        if queries and not len(vectors.terms):
            tell_of_batch(
                logger,
                "SparseNegatives: no terms",
                "SparseNegatives: none of the %d queries in this batch got negatives (the first is %r), because the "
                "model gives them no weights. Check the model's vocabulary; training with too strong a regularizer "
                "makes all vectors empty.",
                len(queries),
                queries[0][:100],
            )
        return vectors

    def _search(self, encoded: SparseVectors, which: NDArray[np.int64], depth: int) -> Hits:
        return self._index.search(encoded.take(which), depth)
