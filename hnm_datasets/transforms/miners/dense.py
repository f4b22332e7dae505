"""Dense negatives."""

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
    """Mine dense negatives: passages that an embedding model ranks high and that are not known to be relevant.

    With the model that is being trained these are the hardest negatives for it (Xiong et al. 2020, *Approximate Nearest
    Neighbor Negative Contrastive Learning*, https://arxiv.org/abs/2007.00808). The best of them are often relevant but
    not annotated: go on with `RelativeMargin` or `RankWindow`.

    Each distinct query is encoded once and its vector kept on disk, so another k, index or filter encodes nothing
    again. The step stands for the weights that the model has now; make a new one after each training step.

    On a GPU leave `num_proc` out: one process keeps it busy, and a forked one cannot use it. On CPUs `num_proc` helps
    where the search takes longer than encoding; each worker uses one core and shares the vectors, and with `fork` also
    the model. Spawned workers need the model's path or Hub id in place of the object.

    Args:
        corpus: The passages.
        model: A `SentenceTransformer`, its path or Hub id, or a function from a list of texts to an array of shape
            (B, D), see `fingerprint`.
        k: Candidates per query. Mine deep (50 to 200) and let filters and samplers choose.
        exclude_group: Exclude also every passage of the documents that the positives were cut from. Needs a corpus
            with groups.
        query_prompt: The text before each query; None: the model's own prompt for queries, if it has one.
        prompt: The text before each passage; None: the model's own prompt for documents, if it has one, or that of the
            index.
        index: The index to search; by default `DenseIndex(corpus.embed(model, prompt=prompt))`: exact search over
            embeddings that are made once, on first use. With other options:
            `DenseIndex(corpus.embed(model), "HNSW32")`.
        batch_size: Texts per forward pass, see `Corpus.embed`.
        fingerprint: For a function: a name that changes whenever its vectors do.

    Columns read:
        `query`, `positive_ids`; `query_id` for error messages, if there.

    Columns written:
        `negative_ids` (best first), `negative_scores` (cosine, dot product or negative distance, as the model
        compares), `negative_ranks` (1-based, in the list before anything was removed), `negative_source` (`"dense"`),
        `positive_scores` (by the same model, aligned with `positive_ids`).

    Raises:
        TypeError: `corpus`, `model` or `index` is something else, or an option is of the wrong type.
        ValueError: `k` is less than 1, the index is of another corpus or of another model, or a text has a zero or NaN
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
        # A function that is asked nothing does not know the length of its vectors.
        vectors: Any = self._vectors
        return np.empty((0, vectors.dimension), np.float32)

    def _search(self, encoded: NDArray[np.float32], which: NDArray[np.int64], depth: int) -> Hits:
        return self._index.search(encoded[which], depth)
