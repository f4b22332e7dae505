"""Sparse negatives."""

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
from hnm_datasets.runtime.notices import tell_once
from hnm_datasets.transforms.miners.model import ModelNegatives

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SparseNegatives(ModelNegatives):
    """Mine sparse negatives: passages that a sparse model ranks high and that are not known to be relevant.

    A sparse model gives terms of its vocabulary weights, also terms that a text lacks (Formal et al. 2022, *From
    Distillation to Hard Negative Sampling*, https://arxiv.org/abs/2205.04733). With the model that is being trained
    these are the hardest negatives for it. The best of them are often relevant but not annotated: go on with
    `RelativeMargin` or `RankWindow`.

    The corpus and each distinct query are encoded once, and the search is exact. A query finds the passages whose score
    is above 0, which may be fewer than k. The step stands for the weights that the model has now; make a new one after
    each training step. `DenseNegatives` says what holds for GPUs and for `num_proc`.

    Args:
        corpus: The passages.
        model: A `SparseEncoder` (SPLADE, inference-free with a `Router`, static weights of words), its path or Hub id,
            or a function from a list of texts to a matrix of shape (B, V), see `fingerprint`. It compares by the dot
            product or the cosine.
        k: Candidates per query. Mine deep (50 to 200) and let filters and samplers choose.
        exclude_group: Exclude also every passage of the documents that the positives were cut from. Needs a corpus
            with groups.
        query_prompt: The text before each query; None: the model's own prompt for queries, if it has one.
        prompt: The text before each passage; None: the model's own prompt for documents, if it has one, or that of the
            index.
        index: The index to search; by default `SparseIndex(corpus.embed_sparse(model, prompt=prompt))`, made once, on
            first use. Several: `ShardedIndex([SparseIndex(embeddings, shard=(i, 4)) for i in range(4)])`.
        batch_size: Texts per forward pass, see `Corpus.embed_sparse`.
        max_active_dims: Keep this many of the largest weights of each query and passage; None: as many as the model
            keeps, or those of the index.
        fingerprint: For a function: a name that changes whenever its answers do.

    Columns read:
        `query`, `positive_ids`; `query_id` for error messages, if there.

    Columns written:
        `negative_ids` (best first), `negative_scores` (dot product or cosine, as the model compares), `negative_ranks`
        (1-based, in the list before anything was removed), `negative_source` (`"sparse"`), `positive_scores` (by the
        same model, aligned with `positive_ids`).

    Raises:
        TypeError: `corpus`, `model` or `index` is something else, or an option is of the wrong type.
        ValueError: `k` is less than 1, the index is of another corpus or of another model, the model compares by a
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
                f"{self.max_active_dims!r}. Leave max_active_dims= out, or pass "
                f"SparseIndex(corpus.embed_sparse(model, max_active_dims=...))."
            )

    def _encode(self, queries: list[str], keys: NDArray[np.uint64]) -> SparseVectors:
        encoder: SparseTextEncoder = self.model
        vectors = encoder.vectors(queries)
        if queries and not len(vectors.terms):
            tell_once(
                logger,
                "SparseNegatives: no terms",
                "SparseNegatives: a batch of %d queries got no negatives, first %r: the model gives no term of them a "
                "weight. Check the model's vocabulary; a training with too strong a regularizer empties all vectors.",
                len(queries),
                queries[0][:100],
            )
        return vectors

    def _search(self, encoded: SparseVectors, which: NDArray[np.int64], depth: int) -> Hits:
        return self._index.search(encoded.take(which), depth)
