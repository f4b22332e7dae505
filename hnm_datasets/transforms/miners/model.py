"""The base of miners with an embedding model, for vectors of any kind."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.indexes.base import Index
from hnm_datasets.indexes.dense import DenseIndex
from hnm_datasets.indexes.sharded import ShardedIndex, is_index_of
from hnm_datasets.indexes.sparse import SparseIndex
from hnm_datasets.indexes.tokens import TokenIndex
from hnm_datasets.models.embeddings import StoredVectors
from hnm_datasets.models.encoders import TextEncoder
from hnm_datasets.models.handles import LoadedModel, ModelHandle, load_model
from hnm_datasets.models.query_encoders import check_same_model, query_encoder
from hnm_datasets.models.shard_job import ShardJob
from hnm_datasets.transforms.miners.base import Miner


@dataclass(frozen=True)
class ModelNegatives(Miner):
    """A miner that encodes the corpus and the queries with one model. Subclasses set the kind of model and index.

    Args:
        corpus: The passages.
        model: The model, its path or Hub id, or a function.
        k: Candidates per query.
        exclude_group: Also exclude all passages from the source documents of the positives.
        query_prompt: The text before each query.
        prompt: The text before each passage.
        index: The index to search; None creates an index of the whole corpus, which is encoded on first use.
        batch_size: Texts per forward pass.
        fingerprint: For a function: a name that changes whenever the function's vectors change.
    """

    #: The classes of the index and of the model.
    index_kind: ClassVar[type[DenseIndex] | type[SparseIndex] | type[TokenIndex]]
    model_kind: ClassVar[str]
    #: The method of a corpus that encodes it.
    embed: ClassVar[str]

    model: Any
    _: KW_ONLY
    query_prompt: str | None = None
    prompt: str | None = None
    index: Any = None
    batch_size: int = 32
    fingerprint: str | None = None

    @abstractmethod
    def _job(self, model: LoadedModel | ModelHandle) -> ShardJob[Any]:
        """Return the job that embeds the corpus for the default index."""

    def __post_init__(self) -> None:
        super().__post_init__()
        name, kind, embed = type(self).__name__, self.index_kind, self.embed
        self._set(batch_size=checks.whole_number(name, "batch_size", self.batch_size, low=1))
        if self.index is not None and not is_index_of(kind, self.index):
            several = "" if kind is TokenIndex else f" or a ShardedIndex of {kind.__name__}"
            raise TypeError(
                f"{name}: index must be a {kind.__name__}{several}, got {type(self.index).__name__}. "
                f"Create one from the embeddings: {kind.__name__}({embed}(model))."
            )
        loaded = load_model(self.model, self.fingerprint, kind=self.model_kind, owner=name)
        documents: TextEncoder | StoredVectors
        if self.index is None or self._is_default_index(loaded):
            job = self._job(loaded)
            documents = job.encoder
            self._set(index=kind(job.embeddings))  # type: ignore[arg-type]
            encoder = query_encoder(loaded, documents, self.query_prompt, self.batch_size)
        else:
            documents = self._vectors
            if not documents.are_made:
                raise ValueError(
                    f"{name}: the embeddings of the index are not in the cache directory, or they belong to another "
                    f"corpus, model or prompt. Compute them with {embed}(model), or pass index=None."
                )
            if self.index.corpus != self.corpus:
                raise ValueError(
                    f"{name}: the index belongs to another corpus. Pass {kind.__name__}({embed}(model)) of this corpus."
                )
            self._check_given(documents)
            encoder = query_encoder(loaded, documents, self.query_prompt, self.batch_size)
            check_same_model(name, encoder, documents)
        # The encoder replaces the model and its prompt, because it pickles to their fingerprints.
        self._set(model=encoder, query_prompt=encoder.prompt, prompt=documents.prompt)

    def _check_given(self, documents: StoredVectors) -> None:
        """Raise if an option contradicts the vectors of the index that was passed."""
        if self.prompt not in (None, documents.prompt):
            raise ValueError(
                f"{type(self).__name__}: the passages of the index were encoded with the prompt {documents.prompt!r}, "
                f"not {self.prompt!r}. Omit prompt=, or pass {self.index_kind.__name__}({self.embed}(model, "
                f"prompt=...))."
            )

    def _is_default_index(self, loaded: LoadedModel) -> bool:
        """Return whether the index equals the default index, which may not be embedded yet."""
        if isinstance(self.index, ShardedIndex) or self.index != self.index_kind(self.index.embeddings):
            return False
        return bool(self.index.embeddings == self._job(loaded).embeddings)

    @property
    def _index(self) -> Index[Any]:
        index: Index[Any] = self.index
        return index

    @property
    def _vectors(self) -> StoredVectors:
        vectors: StoredVectors = self.index.embeddings
        return vectors

    def prepare(self) -> None:
        """Encode the corpus, unless its embeddings are cached, and build the index."""
        self._ensure_embedded()
        self._index.prepare()

    def _ensure_embedded(self) -> None:
        if not isinstance(self.index, ShardedIndex) and not self._vectors.are_made:
            job = self._job(self.model)
            # Embeddings with other options are not computed here; if they are missing, the search raises an error.
            if job.embeddings == self._vectors:
                job.ensure()

    def _score(self, encoded: Any, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        return self._index.score(encoded, rows)
