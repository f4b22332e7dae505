"""The vectors of a corpus as lists of unequal length, in files of some thousand passages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.models.embeddings import StoredVectors, embeddings_folder
from hnm_datasets.models.list_vectors import Lists, read_shard
from hnm_datasets.storage.about import ABOUT
from hnm_datasets.storage.manifest import check_complete
from hnm_datasets.storage.opened import Opened


class ListEmbeddings(StoredVectors, Generic[Lists]):
    """Base class of `SparseEmbeddings` and `TokenEmbeddings`."""

    kind: ClassVar[type[Any]]
    #: The method of `Corpus` that creates them.
    _made_by: ClassVar[str]

    def __len__(self) -> int:
        return int(self._about["passages"])

    def take(self, rows: NDArray[np.integer]) -> Lists:
        """Return the vectors of passages by row number. Shape (B,)."""
        found: Lists = taken(self.kind, embeddings_folder(self.fingerprint), int(self._about["shard"]), rows)
        return found

    def mapped(self, rows: NDArray[np.integer]) -> Iterator[tuple[NDArray[np.int64], Lists, NDArray[np.int64]]]:
        """Yield the memory-mapped shards that contain the passages with some row numbers. Shape (B,).

        Yields:
            The positions in `rows` of the passages of a shard, shape (P,); the vectors of the shard; and the positions
            of these passages in the shard, shape (P,).
        """
        return shards_of(self.kind, embeddings_folder(self.fingerprint), int(self._about["shard"]), rows)

    def blocks(self, rows: range | None = None) -> Iterator[Lists]:
        """Yield the vectors of all rows, or of a range of rows, in order, in blocks of some thousand rows."""
        rows, shard = range(len(self)) if rows is None else rows, int(self._about["shard"])
        for first in range(rows.start // shard * shard, rows.stop, shard):
            found = read_shard(self.kind, embeddings_folder(self.fingerprint), first // shard)
            yield found.part(max(rows.start - first, 0), min(rows.stop - first, shard))

    def close(self) -> None:
        """Close the files, for example before another process deletes them; the next use opens them again."""
        _OPENED.forget(self.fingerprint)

    @property
    def _about(self) -> dict[str, Any]:
        name, method = self.fingerprint, self._made_by

        def opened() -> dict[str, Any]:
            folder = embeddings_folder(name)
            check_complete(
                folder,
                f"The {type(self).__name__} {name}",
                f"Call corpus.{method} again to encode missing or damaged vectors. Embeddings are in the cache "
                f"directory of datasets, so HF_DATASETS_CACHE must be the same folder in all processes.",
            )
            about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            return about

        return _OPENED.get(name, opened)


#: The descriptions of vectors whose files were checked.
_OPENED: Opened[dict[str, Any]] = Opened()


def taken(kind: type[Lists], folder: Path, size: int, rows: NDArray[np.integer]) -> Lists:
    """Gather the vectors of some rows from their shards; see `shards_of` for the arguments."""
    found, positions = [], [np.empty(0, dtype=np.int64)]
    for own, vectors, numbers in shards_of(kind, folder, size, rows):
        found.append(vectors.take(numbers))
        positions.append(own)
    return kind.joined(found).take(np.argsort(np.concatenate(positions)))


def shards_of(
    kind: type[Lists], folder: Path, size: int, rows: NDArray[np.integer]
) -> Iterator[tuple[NDArray[np.int64], Lists, NDArray[np.int64]]]:
    """Memory-map the shards that contain some rows, one after another; yields as `ListEmbeddings.mapped`.

    Args:
        kind: The class of the vectors.
        folder: The folder of the shards.
        size: The number of rows per shard.
        rows: Row numbers. Shape (B,).
    """
    shards = rows // size
    order: NDArray[np.int64] = np.argsort(shards, kind="stable")
    used, starts = np.unique(shards[order], return_index=True)
    ends = np.append(starts[1:], len(rows))
    for shard, start, end in zip(used, starts, ends, strict=False):
        own = order[start:end]
        yield own, read_shard(kind, folder, int(shard)), np.asarray(rows[own] % size, dtype=np.int64)
