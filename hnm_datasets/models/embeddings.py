"""The embeddings of a corpus, memory-mapped."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.storage.about import ABOUT
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.storage.manifest import check_complete, is_complete
from hnm_datasets.storage.mapped import map_next
from hnm_datasets.storage.opened import Opened

#: The name of the file with the vectors.
VECTORS = "vectors.npy"
#: Rows to read at once when a copy of the whole matrix would be too large.
BLOCK = 65_536


class StoredVectors(ABC):
    """Base class of `Embeddings`, `SparseEmbeddings` and `TokenEmbeddings`: vectors in a folder named by fingerprint.

    Attributes:
        fingerprint: 32 hexadecimal digits that depend on the corpus, the model, the prompt and the options.
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> tuple[type[StoredVectors], tuple[str]]:
        return type(self), (self.fingerprint,)

    @property
    @abstractmethod
    def _about(self) -> dict[str, Any]:
        """The description stored with the vectors."""

    @abstractmethod
    def close(self) -> None:
        """Close the memory-mapped file, for example before another process deletes it; the next use opens it again."""

    @property
    def similarity(self) -> str:
        """The similarity of two vectors: `"cosine"` (the vectors have length 1), `"dot"` or `"euclidean"`."""
        return str(self._about["similarity"])

    @property
    def normalize(self) -> bool:
        """Whether the vectors are normalized to length 1."""
        return bool(self._about["normalize"])

    @property
    def model_fingerprint(self) -> str:
        """The fingerprint of the model."""
        return str(self._about["model"])

    @property
    def prompt(self) -> str:
        """The prompt before each passage."""
        return str(self._about["prompt"])

    @property
    def corpus_fingerprint(self) -> str:
        """The fingerprint of the corpus."""
        return str(self._about["corpus"])

    @property
    def are_made(self) -> bool:
        """Whether all vectors are computed and in the cache directory."""
        return is_complete(embeddings_folder(self.fingerprint))

    def discard(self) -> None:
        """Delete the vectors, for example those of a model in training."""
        self.close()
        shutil.rmtree(embeddings_folder(self.fingerprint), ignore_errors=True)


class Embeddings(StoredVectors):
    """The vectors of a corpus, memory-mapped. Create them with `Corpus.embed`.

    Embeddings pickle to their fingerprint; other processes open them from the cache directory.

    Attributes:
        fingerprint: 32 hexadecimal digits that depend on the corpus, the model, the prompt and the options.

    Example:
        >>> import numpy as np
        >>> from hnm_datasets import load_sample
        >>> corpus, _ = load_sample("earthquakes")
        >>> def count_letters(texts):
        ...     return np.array([[text.count("a"), text.count("e"), 1] for text in texts])
        >>> embeddings = corpus.embed(count_letters, fingerprint="letters-1", similarity="dot")
        >>> embeddings.vectors.shape == (len(corpus), 3), embeddings.similarity
        (True, 'dot')
    """

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        if not self.are_made:
            return f"Embeddings(fingerprint={self.fingerprint!r}, not computed yet)"
        rows, dimension = self.vectors.shape
        return (
            f"Embeddings({rows} vectors of {dimension} dimensions, {self.vectors.dtype}, {self.similarity}, "
            f"fingerprint={self.fingerprint!r})"
        )

    @property
    def vectors(self) -> NDArray[Any]:
        """The vectors in the order of the corpus. Shape (N, D), float32 or float16."""
        return _open(self.fingerprint)[0]

    @property
    def dimension(self) -> int:
        """The number of dimensions of a vector, D."""
        return int(self.vectors.shape[1])

    @property
    def _about(self) -> dict[str, Any]:
        return _open(self.fingerprint)[1]

    def close(self) -> None:
        """Close the memory-mapped file, for example before another process deletes it; the next use opens it again."""
        OPENED.forget(self.fingerprint)

    def blocks(self, rows: range | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors of all rows, or of a range of rows, in order, as float32 in blocks of about 65,000 rows."""
        rows = range(len(self)) if rows is None else rows
        for start in rows[::BLOCK]:
            yield np.asarray(self.vectors[start : min(start + BLOCK, rows.stop)], dtype=np.float32)


def embeddings_folder(name: str) -> Path:
    """Return the folder of the embeddings with a fingerprint."""
    return cache_root() / "embeddings" / name


#: The vectors and their description.
OPENED: Opened[tuple[NDArray[Any], dict[str, Any]]] = Opened()


def _open(name: str) -> tuple[NDArray[Any], dict[str, Any]]:
    def opened() -> tuple[NDArray[Any], dict[str, Any]]:
        folder = embeddings_folder(name)
        check_complete(
            folder,
            f"The embeddings {name}",
            "Call corpus.embed again to encode missing or damaged vectors. Embeddings are in the cache directory of "
            "datasets, so HF_DATASETS_CACHE must be the same folder in all processes.",
        )
        # Map copy-on-write: nothing is ever written, but torch warns about read-only memory.
        with (folder / VECTORS).open("rb") as file:
            vectors = map_next(file, "c")
        return vectors, json.loads((folder / ABOUT).read_text(encoding="utf-8"))

    return OPENED.get(name, opened)
