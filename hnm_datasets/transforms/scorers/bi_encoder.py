"""Scores from an embedding model."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.indexes import exact, sparse_kernels
from hnm_datasets.models.embeddings import Embeddings
from hnm_datasets.models.encoders import Encoder, TextEncoder
from hnm_datasets.models.handles import kind_of, load_model
from hnm_datasets.models.query_encoders import check_same_model, query_encoder
from hnm_datasets.models.sparse_embeddings import SparseEmbeddings
from hnm_datasets.models.sparse_encoders import SparseTextEncoder
from hnm_datasets.models.sparse_vectors import SparseVectors
from hnm_datasets.transforms.scorers.base import Scorer
from hnm_datasets.transforms.similarity import check_embeddings

_SPARSE = "SparseEncoder"


@dataclass(frozen=True)
class BiEncoderScores(Scorer):
    """Score the positives and the candidates of any source with an embedding model.

    Only these passages are encoded, each once, and their vectors are cached on disk.

    Args:
        corpus: The passages.
        model: A `SentenceTransformer` or `SparseEncoder`, its path or Hub id, or a function from a list of texts to an
            array of shape (B, D), see `fingerprint`. With sparse `embeddings`, a function as in `SparseNegatives`.
        name: Part of the names of the columns.
        query_prompt: The text before each query; None uses the model's query prompt, if it has one.
        prompt: The text before each passage; None uses the model's document prompt, if it has one.
        embeddings: The model's vectors of the whole corpus, to look vectors up instead of encoding passages. They
            determine `prompt`.
        batch_size: Texts per forward pass, see `Corpus.embed`.
        fingerprint: For a function: a name that changes whenever the function's vectors change.

    Columns read:
        `query`, `positive_ids`, `negative_ids`.

    Columns written:
        `positive_<name>_scores` and `negative_<name>_scores`, aligned with the ids.

    Raises:
        KeyError: An id is not in the corpus.
        TypeError: `corpus` or `model` is of the wrong type.
        ValueError: `name` is not a word, the embeddings belong to another corpus or model, or a vector is zero or NaN.

    Example:
        >>> import numpy as np
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=3), batched=True)
        >>> def count_words(texts):
        ...     words = ("earthquake", "wave", "plate", "volcano", "the")
        ...     return np.array([[text.lower().count(word) + 0.1 for word in words] for text in texts])
        >>> scored = mined.map(BiEncoderScores(corpus, count_words, fingerprint="words-1"), batched=True)
        >>> [len(scored[0][name]) for name in ("positive_teacher_scores", "negative_teacher_scores")]
        [1, 3]
    """

    name: str = "teacher"
    _: KW_ONLY
    query_prompt: str | None = None
    prompt: str | None = None
    embeddings: Embeddings | SparseEmbeddings | None = None
    batch_size: int = 32
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        step = type(self).__name__
        self._set(batch_size=checks.whole_number(step, "batch_size", self.batch_size, low=1))
        model = self.model.documents if isinstance(self.model, _BiEncoder) else self.model
        is_sparse = isinstance(self.embeddings, SparseEmbeddings) or kind_of(model) == _SPARSE
        if self.embeddings is not None:
            check_embeddings(step, self.corpus, self.embeddings, SparseEmbeddings if is_sparse else Embeddings)
        loaded = load_model(model, self.fingerprint, kind=_SPARSE if is_sparse else "SentenceTransformer", owner=step)
        kind = SparseTextEncoder if is_sparse else Encoder
        documents: TextEncoder = kind(loaded, "document", prompt=self.prompt, batch_size=self.batch_size)
        queries = query_encoder(loaded, self.embeddings or documents, self.query_prompt, self.batch_size)
        if self.embeddings is not None:
            check_same_model(step, queries, self.embeddings)
        # The encoders replace the model and its prompts, because they pickle to their fingerprints.
        self._set(model=_BiEncoder(queries, documents), query_prompt=queries.prompt, prompt=documents.prompt)

    def _scores_of(self, queries: list[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        asked = self.model.queries.vectors(queries)
        if isinstance(self.embeddings, Embeddings):
            return exact.score(asked, self.embeddings.vectors, rows, self.embeddings.similarity)
        used, numbers = np.unique(rows.values, return_inverse=True)
        if not len(used):
            return np.empty(0, dtype=np.float32)
        if self.embeddings is not None:
            return sparse_kernels.score(asked, self.embeddings.take(used), Ragged(rows.offsets, numbers))
        vectors = self.model.documents.vectors(self.corpus.texts(used).to_pylist())
        if isinstance(vectors, SparseVectors):
            return sparse_kernels.score(asked, vectors, Ragged(rows.offsets, numbers))
        return exact.score(asked, vectors, Ragged(rows.offsets, numbers), self.model.queries.similarity)


@dataclass(frozen=True)
class _BiEncoder:
    """One model with its prompts for queries and documents."""

    queries: TextEncoder
    documents: TextEncoder
