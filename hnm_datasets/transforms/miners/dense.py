"""Dense negatives."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.dense import DenseIndex
from hnm_datasets.indexes.sharded import ShardedIndex, is_index_of
from hnm_datasets.models.embedding_job import EmbeddingJob
from hnm_datasets.models.embeddings import Embeddings
from hnm_datasets.models.encoders import Encoder
from hnm_datasets.models.handles import LoadedModel, load_model
from hnm_datasets.models.query_encoders import check_same_model, query_encoder
from hnm_datasets.transforms.miners.base import Miner


@dataclass(frozen=True)
class DenseNegatives(Miner):
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

    model: Any
    _: KW_ONLY
    query_prompt: str | None = None
    prompt: str | None = None
    index: DenseIndex | ShardedIndex | None = None
    batch_size: int = 32
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(batch_size=checks.whole_number("DenseNegatives", "batch_size", self.batch_size, low=1))
        if self.index is not None and not is_index_of(DenseIndex, self.index):
            raise TypeError(
                f"DenseNegatives: index must be a DenseIndex, or a ShardedIndex of such, got "
                f"{type(self.index).__name__}. Make one of the embeddings: DenseIndex(corpus.embed(model))."
            )
        loaded = load_model(self.model, self.fingerprint)
        documents: Encoder | Embeddings
        if self.index is None or self._is_default_index(loaded):
            documents = Encoder(loaded, "document", prompt=self.prompt, batch_size=self.batch_size)
            self._set(index=DenseIndex(EmbeddingJob(self.corpus, documents).embeddings))
            encoder = query_encoder(loaded, documents, self.query_prompt, self.batch_size)
        else:
            documents = self._dense.embeddings
            if not documents.are_made:
                raise ValueError(
                    "DenseNegatives: the embeddings of the index are not in the cache directory, or not those of this "
                    "corpus, model and prompt. Make them with corpus.embed(model), or pass index=None."
                )
            if self._dense.corpus != self.corpus:
                raise ValueError(
                    "DenseNegatives: the index is of another corpus. Pass DenseIndex(corpus.embed(model)) of this "
                    "corpus."
                )
            if self.prompt not in (None, documents.prompt):
                raise ValueError(
                    f"DenseNegatives: the passages of the index were encoded with the prompt {documents.prompt!r}, not "
                    f"{self.prompt!r}. Leave prompt= out, or pass DenseIndex(corpus.embed(model, prompt=...))."
                )
            encoder = query_encoder(loaded, documents, self.query_prompt, self.batch_size)
            check_same_model("DenseNegatives", encoder, documents)
        # From here on the encoder stands for the model and its prompt: it pickles to their fingerprints.
        self._set(model=encoder, query_prompt=encoder.prompt, prompt=documents.prompt)

    def _is_default_index(self, loaded: LoadedModel) -> bool:
        """Return whether the index is the one that the step makes itself: it may not be embedded yet."""
        if not isinstance(self.index, DenseIndex) or self.index != DenseIndex(self.index.embeddings):
            return False
        documents = Encoder(loaded, "document", prompt=self.prompt, batch_size=self.batch_size)
        return self.index.embeddings == EmbeddingJob(self.corpus, documents).embeddings

    @property
    def _dense(self) -> DenseIndex | ShardedIndex:
        assert self.index is not None  # set in __post_init__
        return self.index

    def prepare(self) -> None:
        """Encode the corpus, unless its embeddings are in the cache directory, and build the index."""
        if isinstance(self.index, DenseIndex) and not self.index.embeddings.are_made:
            documents = Encoder(self.model, "document", prompt=self.prompt, batch_size=self.batch_size)
            job = EmbeddingJob(self.corpus, documents)
            # Embeddings with other options are not made here; the search says what to do where they are missing.
            if job.embeddings == self.index.embeddings:
                job.ensure()
        self._dense.prepare()

    def _encode(self, queries: list[str], keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        encoder: Encoder = self.model
        # A function that is asked nothing does not know the length of its vectors.
        return encoder.vectors(queries) if queries else np.empty((0, self._dense.embeddings.dimension), np.float32)

    def _search(self, encoded: NDArray[np.float32], which: NDArray[np.int64], depth: int) -> Hits:
        return self._dense.search(encoded[which], depth)

    def _score(self, encoded: NDArray[np.float32], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        return self._dense.score(encoded, rows)
