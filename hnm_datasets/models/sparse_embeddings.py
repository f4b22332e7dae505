"""The sparse vectors of a corpus, memory-mapped."""

from __future__ import annotations

from typing import ClassVar

from hnm_datasets.models.list_embeddings import ListEmbeddings
from hnm_datasets.models.sparse_vectors import SparseVectors


class SparseEmbeddings(ListEmbeddings[SparseVectors]):
    """The sparse vectors of a corpus: the terms and weights of each passage. Create them with `Corpus.embed_sparse`.

    They are stored in files of some thousand passages, which are memory-mapped for reading. They pickle to their
    fingerprint; other processes open them from the cache directory.

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
            return f"SparseEmbeddings(fingerprint={self.fingerprint!r}, not computed yet)"
        return (
            f"SparseEmbeddings({len(self)} vectors of {self._about['values'] / len(self):.1f} weights on average, "
            f"{self.similarity}, fingerprint={self.fingerprint!r})"
        )

    @property
    def max_active_dims(self) -> int | None:
        """The maximum number of weights per passage; None: no limit beyond the model's."""
        found: int | None = self._about["max_active_dims"]
        return found
