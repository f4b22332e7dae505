"""The embedding of a corpus: encoded once, a shard at a time, by any number of processes.

A shard is a range of rows. It is final once its marker is there, which is written after its bytes have reached the disk
and holds their hash: an interrupted run resumes, and a shard whose bytes were lost or cut short is encoded again.
Processes that embed the same corpus at once, such as the ranks of `accelerate launch`, share the shards.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from datasets.utils import tqdm
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from hnm_datasets.models.embeddings import StoredVectors, embeddings_folder
from hnm_datasets.models.encoders import TextEncoder
from hnm_datasets.runtime.interrupts import interruptible
from hnm_datasets.runtime.timing import clocked
from hnm_datasets.storage.digests import digest_strings, distinct_digests
from hnm_datasets.storage.manifest import fault, is_complete, is_finished, unfinish
from hnm_datasets.storage.writing import writing, written_aside

logger = logging.getLogger(__name__)

#: The most that an interrupted run loses: two minutes for a slow model on a CPU.
SHARD = 4096

#: What is encoded of a shard.
Vectors = TypeVar("Vectors")


class Passages(Protocol):
    """What is embedded: `Corpus` is one."""

    @property
    def fingerprint(self) -> str:
        """A name that depends on all texts."""

    @property
    def text_codes(self) -> NDArray[np.int64]:
        """The first row whose text is the same but for Unicode form, case and white space. Shape (N,)."""

    def __len__(self) -> int: ...

    def ids(self, rows: NDArray[np.integer]) -> pa.Array:
        """Return the ids of passages by row number."""

    def texts(self, rows: NDArray[np.integer]) -> pa.Array:
        """Return the texts of passages by row number."""


class ShardJob(ABC, Generic[Vectors]):
    """The embedding of one corpus, whole or in part; subclasses say how a shard is encoded and kept.

    Attributes:
        corpus: The passages.
        encoder: The model.
        name: The fingerprint of the embeddings.
        folder: Where they are made.
        shards: How many shards there are.
    """

    def __init__(self, corpus: Passages, encoder: TextEncoder, name: str) -> None:
        self.corpus, self.encoder, self.name = corpus, encoder, name
        self.folder = embeddings_folder(name)
        self.shards = -(-len(corpus) // SHARD)

    @property
    @abstractmethod
    def embeddings(self) -> StoredVectors:
        """The vectors, which need not be made yet."""

    @abstractmethod
    def _encoded(self, shard: int, pool: Any, bar: Any) -> Vectors:
        """Encode the distinct passages of a shard."""

    @abstractmethod
    def _put(self, shard: int, vectors: Vectors) -> None:
        """Bring a shard's bytes to the disk."""

    @abstractmethod
    def _stored(self, shard: int) -> Vectors:
        """Read a shard's bytes; an OSError or ValueError if they are not there or not those of this job."""

    @abstractmethod
    def _digest(self, vectors: Vectors, own: NDArray[np.bool_]) -> str:
        """Hash some of the vectors of a shard."""

    @abstractmethod
    def _mend(self) -> None:
        """Make the files of a run that was interrupted, or of a damaged folder, fit to be written to."""

    @abstractmethod
    def _finish(self) -> None:
        """Fill in the passages that repeat one of an earlier shard, and declare the whole finished."""

    @functools.cached_property
    def first_rows(self) -> NDArray[np.int64]:
        """For each passage the first one with the same text, which alone is encoded. Shape (N,)."""
        return _first_rows(self.corpus)

    def ensure(self, devices: Sequence[str] | None = None) -> None:
        """Encode everything that is missing, unless all is there."""
        if not is_complete(self.folder):
            with clocked("encode"):
                self.run(devices)

    def run(self, devices: Sequence[str] | None) -> None:
        """Encode the shards that are missing, together with whoever else does."""
        if not self.begin():
            return
        pending = self.missing()
        with (
            interruptible(self._explain_interrupt),
            self.progress(pending) as bar,
            self.encoder.pool(devices) as pool,
        ):
            while pending:
                left = [shard for shard in pending if not self.take(shard, pool, bar)]
                if len(left) == len(pending):
                    # All that is left is in other hands.
                    time.sleep(0.1)
                pending = left
        self.end()

    def _explain_interrupt(self) -> str:
        kept = sum(len(self.rows(shard)) for shard in range(self.shards) if self._marker(shard).exists())
        return (
            f"Embedding was interrupted. The vectors of {kept:,} of {len(self.corpus):,} passages are kept in the "
            f"cache directory. Repeat the call to resume."
        )

    def begin(self) -> bool:
        """Make the folder ready; tell whether anything is to be done."""
        self.embeddings.close()
        with writing(self.folder):
            (self.folder / "shards").mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "finish.lock"):
                found = fault(self.folder)
                if found is None:
                    return False
                if is_finished(self.folder):
                    logger.warning("%s is damaged (%s). Its damaged shards are encoded again.", self.folder, found)
                # Until all shards have been looked at, it counts as unfinished.
                unfinish(self.folder)
                self._mend()
        return True

    def missing(self) -> list[int]:
        """Return the shards that are not finished."""
        return [shard for shard in range(self.shards) if not self.is_done(shard)]

    def progress(self, pending: Sequence[int]) -> Any:
        """Return the bar that counts passages when only some shards are to be encoded."""
        done = len(self.corpus) - sum(len(self.rows(shard)) for shard in pending)
        return tqdm(total=len(self.corpus), initial=done, desc="Embedding passages", unit=" passages")

    def take(self, shard: int, pool: Any = None, bar: Any = None) -> bool:
        """Encode a shard unless another process is at it; tell whether it is done."""
        bar = tqdm(disable=True) if bar is None else bar
        try:
            with writing(self.folder), FileLock(self._marker(shard).with_suffix(".lock")).acquire(timeout=0):
                if self._marker(shard).exists() and self.is_done(shard):
                    bar.update(len(self.rows(shard)))
                else:
                    self._write(shard, self._encoded(shard, pool, bar))
                return True
        except Timeout:
            # A process that was killed holds nothing: the system lets go of its locks.
            return False

    def end(self) -> None:
        """Declare the whole finished, unless somebody else has."""
        with writing(self.folder), FileLock(self.folder / "finish.lock"):
            if not is_complete(self.folder):
                self._finish()

    # ---- one shard -----------------------------------------------------------------------------------------------

    def rows(self, shard: int) -> range:
        """Return the rows of the corpus that a shard holds."""
        return range(shard * SHARD, min((shard + 1) * SHARD, len(self.corpus)))

    def _marker(self, shard: int) -> Path:
        return self.folder / "shards" / f"{shard:06d}.done"

    def _own(self, shard: int) -> NDArray[np.bool_]:
        """Tell which rows of a shard it can fill itself; the others repeat a passage of an earlier shard."""
        rows = self.rows(shard)
        return np.asarray(self.first_rows[rows.start : rows.stop] >= rows.start)

    def is_done(self, shard: int) -> bool:
        """Tell whether a shard was finished and its bytes are still what they were."""
        try:
            return self._marker(shard).read_text() == self._digest(self._stored(shard), self._own(shard))
        except (OSError, ValueError):
            # No marker or no file, or one that was cut short or damaged.
            return False

    def _write(self, shard: int, vectors: Vectors) -> None:
        """Bring a shard's bytes to disk, and only then its marker."""
        marker = self._marker(shard)
        marker.unlink(missing_ok=True)
        self._put(shard, vectors)
        with written_aside(marker) as aside:
            aside.write_text(self._digest(vectors, self._own(shard)))

    def _write_about(self, **more: Any) -> None:
        """Note beside the vectors what they are of."""
        about = {
            "corpus": self.corpus.fingerprint,
            "model": self.encoder.model_fingerprint,
            "encoder": self.encoder.fingerprint,
            "prompt": self.encoder.prompt,
            "similarity": self.encoder.similarity,
            "normalize": self.encoder.normalize,
        }
        (self.folder / "about.json").write_text(json.dumps(about | more, indent=1))


def _first_rows(corpus: Passages) -> NDArray[np.int64]:
    """Return the first row with exactly the same text. Shape (N,)."""
    codes = corpus.text_codes
    first = np.arange(len(codes))
    # Texts that are the same to the letter are among those that are the same but for case and white space.
    members = np.flatnonzero(np.isin(codes, codes[codes != first]))
    if len(members):
        digests = digest_strings(corpus.texts(members).to_pylist())
        where, back = distinct_digests(digests)
        first[members] = members[where[back]]
    return first
