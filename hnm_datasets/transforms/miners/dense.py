"""Dense negatives, mined with an embedding model."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.dense import DenseIndex
from hnm_datasets.indexes.sharded import ShardedIndex
from hnm_datasets.models.embedding_job import EmbeddingJob
from hnm_datasets.models.encoders import Encoder
from hnm_datasets.models.handles import LoadedModel, ModelHandle
from hnm_datasets.transforms.miners.model import ModelNegatives


@dataclass(frozen=True)
class DenseNegatives(ModelNegatives):
    """Mine dense negatives: the passages that an embedding model ranks highest, without known positives.

    If the model is the one in training, these are the hardest negatives for it (Xiong et al. 2020, *Approximate Nearest
    Neighbor Negative Contrastive Learning*, https://arxiv.org/abs/2007.00808). The highest-ranked are often relevant
    but not annotated, so filter them with `RelativeMargin` or `RankWindow`.

    Each distinct query is encoded once and its vector cached on disk, so a different k, index or filter requires no
    encoding. The step uses the current weights of the model; create a new step after the weights change.

    Do not use `num_proc` on a GPU: one process keeps it busy, and forked workers cannot use CUDA. On CPUs, `num_proc`
    helps if the search takes longer than encoding. Each worker uses one core and shares the vectors; forked workers
    also share the model. Spawned workers need the model's path or Hub id instead of the object.

    Args:
        corpus: The passages.
        model: A `SentenceTransformer`, its path or Hub id, or a function from a list of texts to an array of shape
            (B, D), see `fingerprint`.
        k: Candidates per query. Mine many (50 to 200), and let filters and samplers select from them.
        exclude_group: Also exclude all passages from the source documents of the positives. Requires a corpus with
            groups.
        query_prompt: The text before each query; None uses the model's query prompt, if it has one.
        prompt: The text before each passage; None uses the model's document prompt, if it has one, or the prompt of the
            index.
        index: The index to search. The default is `DenseIndex(corpus.embed(model, prompt=prompt))`: exact search over
            embeddings that are computed once, on first use. For other options, pass an index such as
            `DenseIndex(corpus.embed(model), "HNSW32")`.
        batch_size: Texts per forward pass, see `Corpus.embed`.
        fingerprint: For a function: a name that changes whenever the function's vectors change.

    Columns read:
        `query`, `positive_ids`; `query_id` for error messages, if present.

    Columns written:
        `negative_ids` (best first), `negative_scores` (cosine, dot product or negative distance, depending on the
        model's similarity), `negative_ranks` (1-based positions in the full list, before exclusions), `negative_source`
        (`"dense"`), `positive_scores` (from the same model, aligned with `positive_ids`).

    Raises:
        TypeError: `corpus`, `model`, `index` or another option is of the wrong type.
        ValueError: `k` is less than 1, the index belongs to another corpus or model, or a text has a zero or NaN
            vector.

    Example:
        >>> import numpy as np
        >>> from hnm_datasets import load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> def count_words(texts):
        ...     words = ("earthquake", "wave", "plate", "volcano", "the")
        ...     return np.array([[text.lower().count(word) + 0.1 for word in words] for text in texts])
        >>> step = DenseNegatives(corpus, count_words, k=3, fingerprint="words-1")
        >>> mined = queries.map(step, batched=True)
        >>> len(mined[0]["negative_ids"]), mined[0]["negative_source"][0]
        (3, 'dense')
    """

    source: ClassVar[str] = "dense"
    index_kind = DenseIndex
    model_kind = "SentenceTransformer"
    embed = "corpus.embed"

    _: KW_ONLY
    index: DenseIndex | ShardedIndex | None = None

    def _job(self, model: LoadedModel | ModelHandle) -> EmbeddingJob:
        return EmbeddingJob(self.corpus, Encoder(model, "document", prompt=self.prompt, batch_size=self.batch_size))

    def _encode(self, queries: list[str], keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        encoder: Encoder = self.model
        if queries:
            return encoder.vectors(queries)
        # Without queries, the dimension of a function's vectors is unknown.
        vectors: Any = self._vectors
        return np.empty((0, vectors.dimension), np.float32)

    def _search(self, encoded: NDArray[np.float32], which: NDArray[np.int64], depth: int) -> Hits:
        return self._index.search(encoded[which], depth)
