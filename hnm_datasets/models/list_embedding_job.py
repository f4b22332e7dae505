"""Embedding a corpus as lists of unequal length (sparse or token vectors), with one file per shard."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from hnm_datasets.models import shard_job
from hnm_datasets.models.encoders import shortened
from hnm_datasets.models.list_embeddings import ListEmbeddings, taken
from hnm_datasets.models.list_vectors import Lists, read_shard, shard_file
from hnm_datasets.models.shard_job import ShardJob
from hnm_datasets.storage.about import ABOUT
from hnm_datasets.storage.manifest import finish
from hnm_datasets.storage.mapped import write_array
from hnm_datasets.storage.writing import written_aside

_Made = TypeVar("_Made", covariant=True)


class ListEncoder(Protocol[_Made]):
    """An encoder that returns lists of unequal length."""

    def parts(
        self, texts: Sequence[str], pool: Any, done: Callable[[int], object]
    ) -> Iterator[tuple[NDArray[np.int64], _Made]]:
        """Yield the positions of texts and their vectors, for one part of the texts at a time."""


class ListEmbeddingJob(ShardJob[Lists]):
    """Embeds one corpus, or part of it, as lists; see `ShardJob`."""

    @property
    @abstractmethod
    def embeddings(self) -> ListEmbeddings[Lists]:
        """The embeddings; their vectors may not be computed yet."""

    @property
    @abstractmethod
    def _list_encoder(self) -> ListEncoder[Lists]:
        """The model."""

    @abstractmethod
    def _fault(self, vectors: Lists, bad: int) -> tuple[str, str]:
        """Return the fault of a list and the remedy, for the error that names the passage."""

    @abstractmethod
    def _more_about(self) -> dict[str, Any]:
        """Return further entries for the description stored with the vectors."""

    def _encoded(self, shard: int, pool: Any, bar: Any) -> Lists:
        rows, kind = np.asarray(self.rows(shard)), self.embeddings.kind
        start, first = rows[0], self.first_rows[rows]
        distinct = np.flatnonzero(first == rows)
        texts = self.corpus.texts(rows[distinct]).to_pylist()
        # The position of each row's vector. Position 0 is an empty one, for rows that repeat one of an earlier shard.
        parts, positions = [kind.empty(1)], np.zeros(len(rows), dtype=np.int64)
        count = 1
        for own, vectors in self._list_encoder.parts(texts, pool, bar.update):
            self._check(vectors, rows[distinct[own]])
            positions[distinct[own]] = count + np.arange(len(own))
            parts.append(vectors)
            count += len(own)
        bar.update(len(rows) - len(distinct))
        repeated = np.flatnonzero((first != rows) & (first >= start))
        positions[repeated] = positions[first[repeated] - start]
        found: Lists = kind.joined(parts).take(positions)
        return found

    def _check(self, vectors: Lists, rows: NDArray[np.int64]) -> None:
        if (bad := vectors.bad()) is None:
            return
        passage, text = self.corpus.ids(rows[[bad]])[0].as_py(), self.corpus.texts(rows[[bad]])[0].as_py()
        what, way_out = self._fault(vectors, bad)
        raise ValueError(
            f"The model returns {what} for the passage {passage!r} with the text {shortened(text)}. {way_out}"
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
            raise ValueError(f"{shard_file(self.folder, shard)} contains other passages.")
        return vectors

    def _digest(self, vectors: Lists, own: NDArray[np.bool_]) -> str:
        kept = vectors if own.all() else vectors.take(np.flatnonzero(own))
        hasher = xxhash.xxh3_128()
        for array in (kept.offsets, *kept.values):
            hasher.update(array.tobytes())
        return hasher.hexdigest()

    def _mend(self) -> None:
        """Do nothing: each file is complete or missing, and its hash detects damage."""

    def _finish(self) -> None:
        kind, values = self.embeddings.kind, 0
        for shard in range(self.shards):
            own = self._own(shard)
            vectors = self._stored(shard)
            if not own.all():
                repeated = np.flatnonzero(~own)
                first = self.first_rows[self.rows(shard).start + repeated]
                earlier = taken(kind, self.folder, shard_job.SHARD, first)
                positions = np.arange(len(own))
                positions[repeated] = len(own) + np.arange(len(repeated))
                vectors = kind.joined([vectors, earlier]).take(positions)
                self._put(shard, vectors)
            values += int(vectors.offsets[-1])
        about = self.about(shard=shard_job.SHARD, values=values, **self._more_about())
        finish(self.folder, [*(shard_file(self.folder, shard).name for shard in range(self.shards)), ABOUT], about)
