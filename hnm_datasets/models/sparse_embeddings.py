"""The sparse vectors of a corpus, memory-mapped."""

from __future__ import annotations

from typing import ClassVar

from hnm_datasets.models.list_embeddings import ListEmbeddings
from hnm_datasets.models.sparse_vectors import SparseVectors


class SparseEmbeddings(ListEmbeddings[SparseVectors]):
    """The terms and weights of the passages of a corpus under a sparse model. Make them with `Corpus.embed_sparse`.

    They are in files of some thousand passages, which are mapped while they are read. They pickle to their fingerprint
    alone and are opened from the cache directory where they are used.

    Attributes:
        fingerprint: 32 hexadecimal digits that depend on the corpus, the model, the prompt and the options.

    Example:
        >>> import numpy as np
        >>> from hnm_datasets import load_sample
        >>> corpus, _ = load_sample("earthquakes")
        >>> def count_words(texts):
        ...     return [[text.lower().count(word) for word in ("earthquake", "wave", "plate")] for text in texts]
        >>> embeddings = corpus.embed_sparse(count_words, fingerprint="words-1")
        >>> found = embeddings.take(corpus.rows(["tsunamis"]))
        >>> len(embeddings) == len(corpus), found.terms.tolist(), found.weights.tolist()
        (True, [0, 1], [1.0, 1.0])
    """

    kind: ClassVar[type[SparseVectors]] = SparseVectors
    _made_by: ClassVar[str] = "embed_sparse"

    def __repr__(self) -> str:
        if not self.are_made:
            return f"SparseEmbeddings(fingerprint={self.fingerprint!r}, not made yet)"
        return (
            f"SparseEmbeddings({len(self)} vectors of {self._about['values'] / len(self):.1f} weights on average, "
            f"{self.similarity}, fingerprint={self.fingerprint!r})"
        )

    @property
    def max_active_dims(self) -> int | None:
        """The number of weights that each passage has at most; None: as many as the model gave."""
        found: int | None = self._about["max_active_dims"]
        return found
