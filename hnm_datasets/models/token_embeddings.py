"""The token vectors of a corpus, memory-mapped."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.models.embeddings import embeddings_folder
from hnm_datasets.models.list_embeddings import ListEmbeddings
from hnm_datasets.models.list_vectors import read_shard
from hnm_datasets.models.token_vectors import TokenVectors
from hnm_datasets.storage.opened import Opened


class TokenEmbeddings(ListEmbeddings[TokenVectors]):
    """The token vectors of a corpus, for late interaction. Create them with `Corpus.embed_tokens`.

    They are stored in half precision, in files of some thousand passages: a passage of 60 tokens and 128 dimensions
    takes 15 KiB. The files are memory-mapped for reading. The embeddings pickle to their fingerprint; other processes
    open them from the cache directory.

    Attributes:
        fingerprint: 32 hexadecimal digits that depend on the corpus, the model, the prompt and the options.

    Example:
        >>> from hnm_datasets import load_sample
        >>> corpus, _ = load_sample("earthquakes")
        >>> def word_lengths(texts):
        ...     return [[[len(word), 1] for word in text.split()] for text in texts]
        >>> embeddings = corpus.embed_tokens(word_lengths, fingerprint="lengths-1")
        >>> len(embeddings) == len(corpus), embeddings.dimension, embeddings.take(corpus.rows(["tsunamis"])).vectors[0]
        (True, 2, array([8., 1.], dtype=float16))
    """

    kind: ClassVar[type[TokenVectors]] = TokenVectors
    _made_by: ClassVar[str] = "embed_tokens"

    def __repr__(self) -> str:
        if not self.are_made:
            return f"TokenEmbeddings(fingerprint={self.fingerprint!r}, not computed yet)"
        return (
            f"TokenEmbeddings({len(self)} passages of {self.tokens / len(self):.1f} vectors of {self.dimension} "
            f"dimensions on average, {self.similarity}, fingerprint={self.fingerprint!r})"
        )

    @property
    def similarity(self) -> str:
        """The similarity of a query and a passage: `"maxsim"`, or `"meanmaxsim"` (its mean over the query tokens)."""
        return super().similarity

    @property
    def dimension(self) -> int:
        """The number of dimensions of a vector, D."""
        return int(self._about["dimension"])

    @property
    def tokens(self) -> int:
        """The total number of token vectors."""
        return int(self._about["values"])

    @property
    def offsets(self) -> NDArray[np.int64]:
        """The start and end of each passage's vectors among all vectors. Shape (N + 1,)."""
        folder, shard, name = embeddings_folder(self.fingerprint), int(self._about["shard"]), self.fingerprint

        def opened() -> NDArray[np.int64]:
            lengths = [read_shard(TokenVectors, folder, number).lengths for number in range(-(-len(self) // shard))]
            return np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, dtype=np.int64), *lengths]))])

        return _OFFSETS.get(name, opened)

    def close(self) -> None:
        """Close the files, for example before another process deletes them; the next use opens them again."""
        _OFFSETS.forget(self.fingerprint)
        super().close()


_OFFSETS: Opened[NDArray[np.int64]] = Opened()
