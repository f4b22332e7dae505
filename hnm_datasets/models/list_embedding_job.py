"""The embedding of a corpus by vectors that are lists of unequal length: a file for each shard."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from hnm_datasets.models import shard_job
from hnm_datasets.models.encoders import shortened
from hnm_datasets.models.list_embeddings import ListEmbeddings, taken
from hnm_datasets.models.list_vectors import Lists, read_shard, shard_file
from hnm_datasets.models.shard_job import ShardJob
from hnm_datasets.runtime.interrupts import check_wanted
from hnm_datasets.storage.manifest import finish
from hnm_datasets.storage.mapped import write_array
from hnm_datasets.storage.writing import written_aside

_Made = TypeVar("_Made", covariant=True)


class ListEncoder(Protocol[_Made]):
    """What encodes texts as lists."""

    def parts(self, texts: Sequence[str], pool: Any = None) -> Iterator[tuple[NDArray[np.int64], _Made]]:
        """Yield places of texts and their vectors, a part of the texts at a time."""


class ListEmbeddingJob(ShardJob[Lists]):
    """The embedding of one corpus by lists, whole or in part; see `ShardJob`."""

    @property
    @abstractmethod
    def embeddings(self) -> ListEmbeddings[Lists]:
        """The vectors, which need not be made yet."""

    @property
    @abstractmethod
    def _list_encoder(self) -> ListEncoder[Lists]:
        """The model."""

    @abstractmethod
    def _fault(self, vectors: Lists, bad: int) -> tuple[str, str]:
        """Say what is wrong with a list, and the way out, for the error that names the passage."""

    @abstractmethod
    def _more_about(self) -> dict[str, Any]:
        """Return what else is noted beside the vectors."""

    def _encoded(self, shard: int, pool: Any, bar: Any) -> Lists:
        rows, kind = np.asarray(self.rows(shard)), self.embeddings.kind
        start, first = rows[0], self.first_rows[rows]
        distinct = np.flatnonzero(first == rows)
        texts = self.corpus.texts(rows[distinct]).to_pylist()
        # Where the vector of each row is; the first one is that of the rows of earlier shards, and empty.
        parts, places = [kind.empty(1)], np.zeros(len(rows), dtype=np.int64)
        count = 1
        for own, vectors in self._list_encoder.parts(texts, pool):
            check_wanted()
            self._check(vectors, rows[distinct[own]])
            places[distinct[own]] = count + np.arange(len(own))
            parts.append(vectors)
            count += len(own)
            bar.update(len(own))
        bar.update(len(rows) - len(distinct))
        repeated = np.flatnonzero((first != rows) & (first >= start))
        places[repeated] = places[first[repeated] - start]
        found: Lists = kind.joined(parts).take(places)
        return found

    def _check(self, vectors: Lists, rows: NDArray[np.int64]) -> None:
        if (bad := vectors.bad()) is None:
            return
        passage, text = self.corpus.ids(rows[[bad]])[0].as_py(), self.corpus.texts(rows[[bad]])[0].as_py()
        what, way_out = self._fault(vectors, bad)
        raise ValueError(
            f"The model gives {what} for the passage {passage!r}, whose text is {shortened(text)}. {way_out}"
        )

    def _put(self, shard: int, vectors: Lists) -> None:
        arrays = vectors.offsets, *vectors.values
        size = sum(array.nbytes for array in arrays)
        with written_aside(shard_file(self.folder, shard), size) as aside, aside.open("wb") as file:
            for array in arrays:
                write_array(file, array)

    def _stored(self, shard: int) -> Lists:
        vectors: Lists = read_shard(self.embeddings.kind, self.folder, shard)
        if len(vectors) != len(self.rows(shard)):
            raise ValueError(f"{shard_file(self.folder, shard)} holds other passages.")
        return vectors

    def _digest(self, vectors: Lists, own: NDArray[np.bool_]) -> str:
        kept = vectors if own.all() else vectors.take(np.flatnonzero(own))
        hasher = xxhash.xxh3_128()
        for array in (kept.offsets, *kept.values):
            hasher.update(array.tobytes())
        return hasher.hexdigest()

    def _mend(self) -> None:
        """Do nothing: a file is whole or not there, and its hash tells if it was damaged."""

    def _finish(self) -> None:
        kind, values = self.embeddings.kind, 0
        for shard in range(self.shards):
            own = self._own(shard)
            vectors = self._stored(shard)
            if not own.all():
                repeated = np.flatnonzero(~own)
                first = self.first_rows[self.rows(shard).start + repeated]
                earlier = taken(kind, self.folder, shard_job.SHARD, first)
                places = np.arange(len(own))
                places[repeated] = len(own) + np.arange(len(repeated))
                vectors = kind.joined([vectors, earlier]).take(places)
                self._put(shard, vectors)
            values += int(vectors.offsets[-1])
        self._write_about(passages=len(self.corpus), shard=shard_job.SHARD, values=values, **self._more_about())
        finish(self.folder, [*(shard_file(self.folder, shard).name for shard in range(self.shards)), "about.json"])
