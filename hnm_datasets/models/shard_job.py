"""Embedding a corpus once, shard by shard, in any number of processes.

A shard is a range of rows. It is finished when its marker file exists. The marker is written after the vectors have
reached the disk, and contains their hash. An interrupted run therefore resumes, and lost or truncated shards are
encoded again. Processes that embed the same corpus at the same time, as under `accelerate launch`, share the shards.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from hnm_datasets.models.embeddings import StoredVectors, embeddings_folder
from hnm_datasets.models.encoders import TextEncoder
from hnm_datasets.runtime.bars import ProgressBar
from hnm_datasets.runtime.interrupts import interruptible
from hnm_datasets.runtime.timing import clocked
from hnm_datasets.storage.about import About
from hnm_datasets.storage.digests import digest_strings, distinct_digests
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.storage.manifest import fault, is_complete, is_finished, unfinish
from hnm_datasets.storage.writing import writing, written_aside

logger = logging.getLogger(__name__)

#: Passages per shard; an interrupted run loses at most one, or two minutes with a slow model on a CPU.
SHARD = 4096

#: The vectors of a shard.
Vectors = TypeVar("Vectors")


class Passages(Protocol):
    """The passages to embed; `Corpus` implements this protocol."""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of all texts."""

    @property
    def text_codes(self) -> NDArray[np.int64]:
        """The first row with the same text, ignoring Unicode form, case and white space. Shape (N,)."""

    def __len__(self) -> int: ...

    def ids(self, rows: NDArray[np.integer]) -> pa.Array:
        """Return the ids of the passages in some rows."""

    def texts(self, rows: NDArray[np.integer]) -> pa.Array:
        """Return the texts of the passages in some rows."""


class ShardJob(ABC, Generic[Vectors]):
    """Embeds one corpus, or part of it; subclasses define how a shard is encoded and stored.

    Attributes:
        corpus: The passages.
        encoder: The model.
        name: The fingerprint of the embeddings.
        folder: The folder of the embeddings.
        shards: The number of shards.
    """

    #: The public name that makes the embeddings, and what kind of vectors they are.
    _made_by: ClassVar[str]
    _vectors: ClassVar[str]

    def __init__(self, corpus: Passages, encoder: TextEncoder, name: str) -> None:
        self.corpus, self.encoder, self.name = corpus, encoder, name
        self.folder = embeddings_folder(name)
        self.shards = -(-len(corpus) // SHARD)

    @property
    @abstractmethod
    def embeddings(self) -> StoredVectors:
        """The embeddings; their vectors may not be computed yet."""

    @abstractmethod
    def _encoded(self, shard: int, pool: Any, bar: Any) -> Vectors:
        """Encode the distinct passages of a shard."""

    @abstractmethod
    def _put(self, shard: int, vectors: Vectors) -> None:
        """Write the vectors of a shard to disk."""

    @abstractmethod
    def _stored(self, shard: int) -> Vectors:
        """Read the vectors of a shard; raise an OSError or ValueError if they are missing or not from this job."""

    @abstractmethod
    def _digest(self, vectors: Vectors, own: NDArray[np.bool_]) -> str:
        """Hash some of the vectors of a shard."""

    @abstractmethod
    def _mend(self) -> None:
        """Repair the files of an interrupted run or a damaged folder, so that shards can be written."""

    @abstractmethod
    def _finish(self) -> None:
        """Fill in passages that repeat one of an earlier shard, and mark the embeddings as finished."""

    @functools.cached_property
    def first_rows(self) -> NDArray[np.int64]:
        """The first row with exactly the same text, for each passage; only this row is encoded. Shape (N,)."""
        return _first_rows(self.corpus)

    def ensure(self, devices: Sequence[str] | None = None) -> None:
        """Encode all missing passages."""
        if not is_complete(self.folder):
            with clocked("encode"):
                self.run(devices)

    def run(self, devices: Sequence[str] | None) -> None:
        """Encode the missing shards, together with other processes that do the same."""
        if not self.begin():
            return
        pending = self.missing()
        with (
            self.at_work(),
            interruptible(self._explain_interrupt),
            self.progress(pending) as bar,
            self.encoder.pool(devices) as pool,
        ):
            while pending:
                left = [shard for shard in pending if not self.take(shard, pool, bar)]
                if len(left) == len(pending):
                    # Other processes are encoding all remaining shards.
                    time.sleep(0.1)
                pending = left
        self.end()

    def _explain_interrupt(self) -> str:
        kept = sum(len(self.rows(shard)) for shard in range(self.shards) if self._marker(shard).exists())
        return (
            f"Embedding was interrupted. The vectors of {kept:,} of {len(self.corpus):,} passages are stored in the "
            f"cache directory. Repeat the call to resume."
        )

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Hold a lock in the folder, so that it cannot be deleted between two shards."""
        path = self.folder / "shards" / f"process-{uuid.uuid4().hex}.lock"
        lock = FileLock(path)
        with writing(self.folder):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
            path.unlink(missing_ok=True)

    def begin(self) -> bool:
        """Prepare the folder; return whether there is anything to encode."""
        self.embeddings.close()
        with writing(self.folder):
            (self.folder / "shards").mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "finish.lock"):
                found = fault(self.folder)
                if found is None:
                    return False
                if is_finished(self.folder):
                    logger.warning("%s is damaged (%s). Encoding its damaged shards again.", self.folder, found)
                # It counts as unfinished until all shards are checked.
                unfinish(self.folder)
                self.about().write(self.folder)
                self._mend()
        return True

    def missing(self) -> list[int]:
        """Return the shards that are not finished."""
        return [shard for shard in range(self.shards) if not self.is_done(shard)]

    def progress(self, pending: Sequence[int]) -> Any:
        """Return a progress bar of passages, for encoding the pending shards."""
        done = len(self.corpus) - sum(len(self.rows(shard)) for shard in pending)
        return ProgressBar(len(self.corpus), "Embedding passages", "passages", initial=done)

    def take(self, shard: int, pool: Any = None, bar: Any = None) -> bool:
        """Encode a shard unless another process is doing so; return whether it is finished."""
        bar = self.progress([shard]) if bar is None else bar
        try:
            with writing(self.folder), FileLock(self._marker(shard).with_suffix(".lock")).acquire(timeout=0):
                if self._marker(shard).exists() and self.is_done(shard):
                    bar.update(len(self.rows(shard)))
                else:
                    self._write(shard, self._encoded(shard, pool, bar))
                return True
        except Timeout:
            # Another process is encoding it. The system releases the locks of a killed process.
            return False

    def end(self) -> None:
        """Mark the embeddings as finished, unless another process has already done so.

        Raises:
            FileNotFoundError: Encoded shards are missing.
        """
        with writing(self.folder), FileLock(self.folder / "finish.lock"):
            if is_complete(self.folder):
                return
            gone = sum(not self._marker(shard).exists() for shard in range(self.shards))
            if gone:
                raise FileNotFoundError(
                    f"{gone} of {self.shards} shards in {self.folder} were deleted while the corpus was embedded. "
                    f"Repeat the call to encode them again."
                )
            self._finish()

    # ---- one shard -----------------------------------------------------------------------------------------------

    def rows(self, shard: int) -> range:
        """Return the rows of the corpus in a shard."""
        return range(shard * SHARD, min((shard + 1) * SHARD, len(self.corpus)))

    def _marker(self, shard: int) -> Path:
        return self.folder / "shards" / f"{shard:06d}.done"

    def _own(self, shard: int) -> NDArray[np.bool_]:
        """Mark the rows of a shard that do not repeat a passage of an earlier shard."""
        rows = self.rows(shard)
        return np.asarray(self.first_rows[rows.start : rows.stop] >= rows.start)

    def is_done(self, shard: int) -> bool:
        """Return whether a shard is finished and its vectors are unchanged."""
        try:
            return self._marker(shard).read_text() == self._digest(self._stored(shard), self._own(shard))
        except (OSError, ValueError):
            # The marker or the file is missing, truncated or damaged.
            return False

    def _write(self, shard: int, vectors: Vectors) -> None:
        """Write the vectors of a shard to disk, then its marker."""
        marker = self._marker(shard)
        marker.unlink(missing_ok=True)
        self._put(shard, vectors)
        with written_aside(marker) as aside:
            aside.write_text(self._digest(vectors, self._own(shard)))

    def about(self, **more: Any) -> About:
        """Return the description of the vectors."""
        facts = self.encoder.facts | {
            "corpus": self.corpus.fingerprint,
            "passages": len(self.corpus),
            "encoder": self.encoder.fingerprint,
            "prompt": self.encoder.prompt,
            "similarity": self.encoder.similarity,
            "normalize": self.encoder.normalize,
        }
        of = cache_root() / "corpora" / self.corpus.fingerprint
        return About("embeddings", self._made_by, self._vectors, of, facts | more)


def _first_rows(corpus: Passages) -> NDArray[np.int64]:
    """Return the first row with exactly the same text. Shape (N,)."""
    codes = corpus.text_codes
    first = np.arange(len(codes))
    # Only texts with the same normalized form can be exactly the same.
    members = np.flatnonzero(np.isin(codes, codes[codes != first]))
    if len(members):
        digests = digest_strings(corpus.texts(members).to_pylist())
        where, back = distinct_digests(digests)
        first[members] = members[where[back]]
    return first
