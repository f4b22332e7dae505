"""The two ways in which steps compare passages: by embedding vectors, or by the shingles (word n-grams) they share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.corpus.shingles import open_shingles
from hnm_datasets.models.embeddings import Embeddings
from hnm_datasets.models.sparse_embeddings import SparseEmbeddings
from hnm_datasets.runtime.workers import threads

#: Rows per task of a thread.
_ROWS = 64
_NO_VECTORS = np.empty((0, 0), dtype=np.float32)
_NO_OFFSETS, _NO_SHINGLES = np.zeros(1, dtype=np.int64), np.empty(0, dtype=np.uint32)
for _array in (_NO_VECTORS, _NO_OFFSETS, _NO_SHINGLES):
    # Read-only, as mapped files are, so that numba compiles the loops once for both.
    _array.setflags(write=False)


def check_embeddings(
    step: str, corpus: Corpus, embeddings: object, kind: type[Embeddings] | type[SparseEmbeddings] = Embeddings
) -> None:
    """Raise an error that names the step unless these are embeddings of this corpus and of the right kind."""
    made = "corpus.embed(model)" if kind is Embeddings else "corpus.embed_sparse(model)"
    if not isinstance(embeddings, kind):
        raise TypeError(
            f"{step}: embeddings must be {kind.__name__}, got {type(embeddings).__name__}. Make them with {made}."
        )
    if embeddings.corpus_fingerprint != corpus.fingerprint:
        raise ValueError(f"{step}: the embeddings belong to another corpus. Pass {made} of this corpus.")


class Compared(NamedTuple):
    """The data by which `compare` compares passages.

    Attributes:
        vectors: Shape (N, D); (0, 0) to compare texts.
        shingle_offsets: See `Shingles`.
        shingles: See `Shingles`.
        passages: N.
    """

    vectors: NDArray[np.float32]
    shingle_offsets: NDArray[np.int64]
    shingles: NDArray[np.uint32]
    passages: int


def compared_by(
    corpus: Corpus, embeddings: Embeddings | None, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Compared]:
    """Return the data by which passages are compared, and the number of each passage in it.

    Args:
        corpus: The passages.
        embeddings: Their vectors; None compares texts.
        rows: The row numbers of P passages in the corpus. Shape (P,).
    """
    if embeddings is None:
        shingles = open_shingles(corpus)
        return rows, Compared(_NO_VECTORS, shingles.offsets, shingles.values, len(corpus))
    vectors = embeddings.vectors
    if vectors.dtype != np.float32:
        used, rows = np.unique(rows, return_inverse=True)
        vectors = np.asarray(vectors[used], dtype=np.float32)
    vectors = vectors.view()
    vectors.setflags(write=False)
    return rows, Compared(vectors, _NO_OFFSETS, _NO_SHINGLES, len(corpus))


def in_parts(work: Callable[[slice], None], rows: int) -> None:
    """Process the rows of a batch in slices, with all threads.

    Args:
        work: Called with each slice of rows.
        rows: The number of rows.
    """
    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(work, (slice(start, min(start + _ROWS, rows)) for start in range(0, rows, _ROWS))))
