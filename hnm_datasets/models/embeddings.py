"""The vectors of a corpus, memory-mapped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.storage.folders import cache_root, is_complete

if TYPE_CHECKING:
    from hnm_datasets.corpus.passages import Corpus

_VECTORS = "vectors.npy"


#: Rows that are read at a time where a whole copy would not do.
_BLOCK = 65_536


class Embeddings:
    """The vectors of a corpus under a model, memory-mapped. Make them with `Corpus.embed`.

    Embeddings pickle to their fingerprint alone and are opened from the cache directory where they are used.

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

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        rows, dimension = self.vectors.shape
        return (
            f"Embeddings({rows} vectors of {dimension} dimensions, {self.vectors.dtype}, {self.similarity}, "
            f"fingerprint={self.fingerprint!r})"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Embeddings) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> tuple[type[Embeddings], tuple[str]]:
        return Embeddings, (self.fingerprint,)

    @property
    def vectors(self) -> NDArray[Any]:
        """The vectors in the order of the corpus. Shape (N, D), float32 or float16."""
        return _open(self.fingerprint)[0]

    @property
    def dimension(self) -> int:
        """The length D of a vector."""
        return int(self.vectors.shape[1])

    @property
    def similarity(self) -> str:
        """How two vectors are compared: `"cosine"` (they have length 1), `"dot"` or `"euclidean"`."""
        return str(_open(self.fingerprint)[1]["similarity"])

    @property
    def normalize(self) -> bool:
        """Whether the vectors were scaled to length 1."""
        return bool(_open(self.fingerprint)[1]["normalize"])

    @property
    def model_fingerprint(self) -> str:
        """The fingerprint of the model that made them."""
        return str(_open(self.fingerprint)[1]["model"])

    @property
    def corpus(self) -> Corpus:
        """The passages."""
        from hnm_datasets.corpus.passages import Corpus

        return Corpus(str(_open(self.fingerprint)[1]["corpus"]))

    def discard(self) -> None:
        """Delete the vectors: nobody will ask again for those of a model in the middle of its training."""
        _OPENED.pop(self.fingerprint, None)
        shutil.rmtree(cache_root() / "embeddings" / self.fingerprint, ignore_errors=True)

    def blocks(self, rows: range | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield all vectors, or those of some rows, in order as float32, some 65,000 at a time."""
        rows = range(len(self)) if rows is None else rows
        for start in rows[::_BLOCK]:
            yield np.asarray(self.vectors[start : min(start + _BLOCK, rows.stop)], dtype=np.float32)


#: What this process has opened; a forked worker inherits it.
_OPENED: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {}


def _open(name: str) -> tuple[NDArray[Any], dict[str, Any]]:
    if name not in _OPENED:
        folder = cache_root() / "embeddings" / name
        if not is_complete(folder):
            raise FileNotFoundError(
                f"The embeddings {name} are not whole in {folder.parent}. They are opened from the datasets cache "
                f"directory: set HF_DATASETS_CACHE to the same folder in every process, or run corpus.embed again, "
                f"which encodes what is missing."
            )
        # Copy on write: nothing is ever written, and torch warns of memory that is read-only.
        vectors = np.asarray(np.load(folder / _VECTORS, mmap_mode="c", allow_pickle=False))
        _OPENED[name] = (vectors, json.loads((folder / "about.json").read_text()))
    return _OPENED[name]


def close(part: object) -> None:
    """Unmap the vectors of embeddings or of an index over some, which another process is about to delete."""
    embeddings = getattr(part, "embeddings", part)
    if isinstance(embeddings, Embeddings):
        _OPENED.pop(embeddings.fingerprint, None)
