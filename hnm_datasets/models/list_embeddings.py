"""The vectors of a corpus that are lists of unequal length, in files of some thousand passages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.models.embeddings import StoredVectors, embeddings_folder
from hnm_datasets.models.list_vectors import Lists, read_shard
from hnm_datasets.storage.manifest import check_complete
from hnm_datasets.storage.opened import Opened


class ListEmbeddings(StoredVectors, Generic[Lists]):
    """What `SparseEmbeddings` and `TokenEmbeddings` have in common."""

    kind: ClassVar[type[Any]]
    #: The method of a corpus that makes them.
    _made_by: ClassVar[str]

    def __len__(self) -> int:
        return int(self._about["passages"])

    def take(self, rows: NDArray[np.integer]) -> Lists:
        """Return the vectors of passages by row number. Shape (B,)."""
        found: Lists = taken(self.kind, embeddings_folder(self.fingerprint), int(self._about["shard"]), rows)
        return found

    def mapped(self, rows: NDArray[np.integer]) -> Iterator[tuple[NDArray[np.int64], Lists, NDArray[np.int64]]]:
        """Yield the mapped shards that hold passages, by row number, of shape (B,).

        Yields:
            The places of some of the rows, shape (P,), the vectors of their shard, and their numbers there, shape (P,).
        """
        return shards_of(self.kind, embeddings_folder(self.fingerprint), int(self._about["shard"]), rows)

    def blocks(self, rows: range | None = None) -> Iterator[Lists]:
        """Yield all vectors, or those of some rows, in order, some thousand at a time."""
        rows, shard = range(len(self)) if rows is None else rows, int(self._about["shard"])
        for first in range(rows.start // shard * shard, rows.stop, shard):
            found = read_shard(self.kind, embeddings_folder(self.fingerprint), first // shard)
            yield found.part(max(rows.start - first, 0), min(rows.stop - first, shard))

    def close(self) -> None:
        """Forget what was read, for example before another process deletes it; the next use reads it again."""
        _OPENED.forget(self.fingerprint)

    @property
    def _about(self) -> dict[str, Any]:
        name, method = self.fingerprint, self._made_by

        def opened() -> dict[str, Any]:
            folder = embeddings_folder(name)
            check_complete(
                folder,
                f"The {type(self).__name__} {name}",
                f"Run corpus.{method} again, which encodes what is missing or damaged. Embeddings are opened from "
                f"the datasets cache directory: HF_DATASETS_CACHE must be the same folder in every process.",
            )
            about: dict[str, Any] = json.loads((folder / "about.json").read_text())
            return about

        return _OPENED.get(name, opened)


#: The descriptions of vectors whose files were found right.
_OPENED: Opened[dict[str, Any]] = Opened()


def taken(kind: type[Lists], folder: Path, size: int, rows: NDArray[np.integer]) -> Lists:
    """Gather the vectors of some rows from the shards that hold them; see `shards_of` for the arguments."""
    found, places = [], [np.empty(0, dtype=np.int64)]
    for own, vectors, numbers in shards_of(kind, folder, size, rows):
        found.append(vectors.take(numbers))
        places.append(own)
    return kind.joined(found).take(np.argsort(np.concatenate(places)))


def shards_of(
    kind: type[Lists], folder: Path, size: int, rows: NDArray[np.integer]
) -> Iterator[tuple[NDArray[np.int64], Lists, NDArray[np.int64]]]:
    """Map the shards that hold some rows, one after another; see `ListEmbeddings.mapped` for what is yielded.

    Args:
        kind: The class of the vectors.
        folder: Where the shards are.
        size: The rows of a shard.
        rows: Shape (B,).
    """
    shards = rows // size
    order: NDArray[np.int64] = np.argsort(shards, kind="stable")
    used, starts = np.unique(shards[order], return_index=True)
    ends = np.append(starts[1:], len(rows))
    for shard, start, end in zip(used, starts, ends, strict=False):
        places = order[start:end]
        yield places, read_shard(kind, folder, int(shard)), np.asarray(rows[places] % size, dtype=np.int64)
