"""The sparse vectors of a corpus, memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.models.embeddings import StoredVectors, embeddings_folder
from hnm_datasets.models.sparse_vectors import SparseVectors, joined
from hnm_datasets.storage.manifest import check_complete
from hnm_datasets.storage.mapped import map_next
from hnm_datasets.storage.opened import Opened


class SparseEmbeddings(StoredVectors):
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

    def __len__(self) -> int:
        return int(self._about["passages"])

    def __repr__(self) -> str:
        if not self.are_made:
            return f"SparseEmbeddings(fingerprint={self.fingerprint!r}, not made yet)"
        return (
            f"SparseEmbeddings({len(self)} vectors of {self._about['weights'] / len(self):.1f} weights on average, "
            f"{self.similarity}, fingerprint={self.fingerprint!r})"
        )

    @property
    def max_active_dims(self) -> int | None:
        """The number of weights that each passage has at most; None: as many as the model gave."""
        found: int | None = self._about["max_active_dims"]
        return found

    def take(self, rows: NDArray[np.integer]) -> SparseVectors:
        """Return the vectors of passages by row number. Shape (B,)."""
        return taken(embeddings_folder(self.fingerprint), int(self._about["shard"]), rows)

    def blocks(self, rows: range | None = None) -> Iterator[SparseVectors]:
        """Yield all vectors, or those of some rows, in order, some thousand at a time."""
        rows, shard = range(len(self)) if rows is None else rows, int(self._about["shard"])
        for first in range(rows.start // shard * shard, rows.stop, shard):
            found = read_shard(embeddings_folder(self.fingerprint), first // shard)
            yield found.part(max(rows.start - first, 0), min(rows.stop - first, shard))

    def close(self) -> None:
        """Forget what was read, for example before another process deletes it; the next use reads it again."""
        _OPENED.forget(self.fingerprint)

    @property
    def _about(self) -> dict[str, Any]:
        name = self.fingerprint

        def opened() -> dict[str, Any]:
            folder = embeddings_folder(name)
            check_complete(
                folder,
                f"The sparse embeddings {name}",
                "Run corpus.embed_sparse again, which encodes what is missing or damaged. Embeddings are opened from "
                "the datasets cache directory: HF_DATASETS_CACHE must be the same folder in every process.",
            )
            about: dict[str, Any] = json.loads((folder / "about.json").read_text())
            return about

        return _OPENED.get(name, opened)


#: The descriptions of vectors whose files were found right.
_OPENED: Opened[dict[str, Any]] = Opened()


def shard_file(folder: Path, shard: int) -> Path:
    """Return the file of a shard: offsets, terms and weights, one after another."""
    return folder / f"{shard:06d}.csr"


def read_shard(folder: Path, shard: int) -> SparseVectors:
    """Map the vectors of a shard.

    Raises:
        ValueError: The file holds something else.
    """
    path = shard_file(folder, shard)
    with path.open("rb") as file:
        offsets, terms, weights = map_next(file), map_next(file), map_next(file)
    if (
        [array.dtype for array in (offsets, terms, weights)] != [np.int64, np.int32, np.float32]
        or any(array.ndim != 1 for array in (offsets, terms, weights))
        or not len(terms) == len(weights) == (offsets[-1] if len(offsets) else -1)
    ):
        raise ValueError(f"{path} holds no sparse vectors.")
    return SparseVectors(offsets, terms, weights)


def taken(folder: Path, size: int, rows: NDArray[np.integer]) -> SparseVectors:
    """Gather the vectors of some rows from the shards that hold them.

    Args:
        folder: Where the shards are.
        size: The rows of a shard.
        rows: Shape (B,).
    """
    shards = rows // size
    order = np.argsort(shards, kind="stable")
    used, starts = np.unique(shards[order], return_index=True)
    ends = np.append(starts[1:], len(rows))
    found = [
        read_shard(folder, int(shard)).take(rows[order[start:end]] % size)
        for shard, start, end in zip(used, starts, ends, strict=False)
    ]
    return joined(found).take(np.argsort(order))
