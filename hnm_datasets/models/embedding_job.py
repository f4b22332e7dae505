"""The embedding of a corpus: encoded once, a shard at a time, by any number of processes.

All vectors are in one file, so that a search reads them as one matrix. A shard is a range of its rows. It is final once
its marker is there, which is written after its bytes have reached the disk and holds their hash: an interrupted run
resumes, and a shard whose bytes were lost or cut short is encoded again. Processes that embed the same corpus at once,
such as the ranks of `accelerate launch`, share the shards.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import xxhash
from datasets.utils import tqdm
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.models.embeddings import BLOCK, OPENED, VECTORS, Embeddings, embeddings_folder
from hnm_datasets.models.encoders import Encoder, bad_vectors, shortened
from hnm_datasets.models.handles import EmbeddingModel
from hnm_datasets.runtime.interrupts import check_wanted, interruptible
from hnm_datasets.runtime.timing import clocked
from hnm_datasets.storage.digests import digest_strings, distinct_digests, fingerprint
from hnm_datasets.storage.manifest import fault, finish, is_complete, is_finished, unfinish
from hnm_datasets.storage.mapped import allocate, create_array, map_next, read_header
from hnm_datasets.storage.writing import writing, written_aside

logger = logging.getLogger(__name__)

#: Goes into the fingerprint; raise it when the files change.
_FORMAT = 1
#: The most that an interrupted run loses: two minutes for a slow model on a CPU.
_SHARD = 4096
DTYPES = ("float32", "float16")


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


def embed_passages(
    passages: Passages,
    model: EmbeddingModel,
    *,
    prompt: str | None = None,
    batch_size: int = 32,
    dtype: str = "float32",
    devices: Sequence[str] | None = None,
    normalize: bool | None = None,
    similarity: str | None = None,
    fingerprint: str | None = None,
) -> Embeddings:
    """Encode what is not yet encoded; see `Corpus.embed`."""
    encoder = Encoder(
        model,
        "document",
        prompt=prompt,
        normalize=normalize,
        similarity=similarity,
        batch_size=batch_size,
        fingerprint=fingerprint,
    )
    job = EmbeddingJob(passages, encoder, checks.one_of("embed", "dtype", dtype, DTYPES))
    job.ensure(devices)
    return job.embeddings


class EmbeddingJob:
    """The embedding of one corpus, whole or in part.

    Attributes:
        name: The fingerprint of the embeddings.
        folder: Where they are made.
        shards: How many shards there are.
    """

    def __init__(self, corpus: Passages, encoder: Encoder, dtype: str = "float32") -> None:
        self.corpus, self.encoder, self.dtype = corpus, encoder, np.dtype(dtype)
        self.name = fingerprint(
            {
                "kind": "embeddings",
                "format": _FORMAT,
                "corpus": corpus.fingerprint,
                "encoder": encoder.fingerprint,
                "similarity": encoder.similarity,
                "dtype": dtype,
                "shard": _SHARD,
            }
        )
        self.folder = embeddings_folder(self.name)
        self.shards = -(-len(corpus) // _SHARD)

    @functools.cached_property
    def first_rows(self) -> NDArray[np.int64]:
        """For each passage the first one with the same text, which alone is encoded. Shape (N,)."""
        return _first_rows(self.corpus)

    @property
    def embeddings(self) -> Embeddings:
        """The vectors, which need not be made yet."""
        return Embeddings(self.name)

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
        OPENED.forget(self.name)
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
        return range(shard * _SHARD, min((shard + 1) * _SHARD, len(self.corpus)))

    def _marker(self, shard: int) -> Path:
        return self.folder / "shards" / f"{shard:06d}.done"

    def _own(self, shard: int) -> NDArray[np.bool_]:
        """Tell which rows of a shard it can fill itself; the others repeat a passage of an earlier shard."""
        rows = self.rows(shard)
        return np.asarray(self.first_rows[rows.start : rows.stop] >= rows.start)

    def is_done(self, shard: int) -> bool:
        """Tell whether a shard was finished and its bytes are still what they were."""
        own, rows = self._own(shard), self.rows(shard)
        try:
            expected = self._marker(shard).read_text()
            vectors = self._map()
            return expected == _digest(vectors[rows.start : rows.stop][own])
        except (OSError, ValueError):
            # No marker or no file, or one that was cut short or damaged.
            return False

    def _encoded(self, shard: int, pool: Any, bar: Any) -> NDArray[Any]:
        """Encode the distinct passages of a shard."""
        rows = np.asarray(self.rows(shard))
        start, first = rows[0], self.first_rows[rows]
        distinct = np.flatnonzero(first == rows)
        texts = self.corpus.texts(rows[distinct]).to_pylist()
        whole = np.empty((0, 0), dtype=self.dtype)
        for places, vectors in self.encoder.parts(texts, pool):
            check_wanted()
            with np.errstate(over="ignore"):
                kept = vectors.astype(self.dtype)
            self._check(vectors, kept, rows[distinct[places]])
            if not len(whole):
                whole = np.zeros((len(rows), vectors.shape[1]), dtype=self.dtype)
            whole[distinct[places]] = kept
            bar.update(len(places))
        bar.update(len(rows) - len(distinct))
        repeated = np.flatnonzero((first != rows) & (first >= start))
        whole[repeated] = whole[first[repeated] - start]
        return whole

    def _check(self, vectors: NDArray[np.float32], kept: NDArray[Any], rows: NDArray[np.int64]) -> None:
        bad = bad_vectors(vectors)
        overflown = bad | bad_vectors(kept.astype(np.float32))
        if not overflown.any():
            return
        place = int(np.flatnonzero(overflown)[0])
        passage, text = self.corpus.ids(rows[[place]])[0].as_py(), self.corpus.texts(rows[[place]])[0].as_py()
        if not bad[place]:
            raise ValueError(
                f"The vector of the passage {passage!r} does not fit into {self.dtype}: its largest value is "
                f"{np.abs(vectors[place]).max():g}. Keep the vectors with dtype='float32', or normalize them."
            )
        raise ValueError(
            f"The model gives a zero, NaN or infinite vector for the passage {passage!r}, whose text is "
            f"{shortened(text)}. Filter such passages out of the corpus, or check the model: NaN often comes from "
            f"float16 weights that overflow."
        )

    def _write(self, shard: int, vectors: NDArray[Any]) -> None:
        """Bring a shard's bytes to disk, and only then its marker."""
        marker = self._marker(shard)
        marker.unlink(missing_ok=True)
        own = self._own(shard)
        if own.any():
            path = self._file(vectors.shape[1])
            size = vectors.shape[1] * self.dtype.itemsize
            with path.open("r+b") as file:
                read_header(file)
                file.seek(self.rows(shard).start * size, os.SEEK_CUR)
                file.write(vectors.tobytes())
                file.flush()
                os.fsync(file.fileno())
        with written_aside(marker) as aside:
            aside.write_text(_digest(vectors[own]) if own.any() else _digest(np.empty((0, 0), dtype=self.dtype)))

    def _file(self, dimension: int) -> Path:
        """Return the file of all vectors, making it if need be."""
        path, shape = self.folder / VECTORS, (len(self.corpus), dimension)
        with FileLock(self.folder / "file.lock"):
            # A header that was damaged makes all shards look damaged.
            if not path.exists() or (self._map().shape != shape and not self._holds_any()):
                with written_aside(path, math.prod(shape) * self.dtype.itemsize) as aside:
                    create_array(aside, self.dtype, shape)
            found = self._map().shape
        if found != shape:
            raise ValueError(
                f"The model gives vectors of {dimension} dimensions, and earlier ones of {found[1]} under the same "
                f"fingerprint. Give the new vectors another name: fingerprint='...'."
            )
        return path

    def _holds_any(self) -> bool:
        return any(self.is_done(shard) for shard in range(self.shards) if self._own(shard).any())

    def _map(self) -> NDArray[Any]:
        """Map the file of all vectors; a ValueError if it cannot be that of this job."""
        with (self.folder / VECTORS).open("rb") as file:
            vectors = map_next(file)
        if vectors.ndim != 2 or len(vectors) != len(self.corpus) or vectors.dtype != self.dtype:
            raise ValueError(f"{self.folder / VECTORS} holds other vectors.")
        return vectors

    def _mend(self) -> None:
        """Bring a file that was cut short back to its length; the hashes tell which shards are lost."""
        path = self.folder / VECTORS
        with FileLock(self.folder / "file.lock"):
            if not path.exists():
                return
            try:
                with path.open("r+b") as file:
                    dtype, shape = read_header(file)
                    file.truncate(file.tell() + math.prod(shape) * dtype.itemsize)
                self._map()
            except (OSError, OverflowError, ValueError):
                path.unlink()

    def _finish(self) -> None:
        """Fill in the passages that repeat one of an earlier shard, and declare the whole finished."""
        with (self.folder / VECTORS).open("r+b") as file:
            # To fill a mapped file on a full disk would end the process without a word.
            allocate(file, file.seek(0, os.SEEK_END))
            file.seek(0)
            vectors = map_next(file, "r+")
        shard_starts = np.arange(len(vectors)) // _SHARD * _SHARD
        repeated = np.flatnonzero(self.first_rows < shard_starts)
        for begin in range(0, len(repeated), BLOCK):
            part = repeated[begin : begin + BLOCK]
            vectors[part] = vectors[self.first_rows[part]]
        about = {
            "corpus": self.corpus.fingerprint,
            "model": self.encoder.model_fingerprint,
            "encoder": self.encoder.fingerprint,
            "prompt": self.encoder.prompt,
            "similarity": self.encoder.similarity,
            "normalize": self.encoder.normalize,
        }
        (self.folder / "about.json").write_text(json.dumps(about, indent=1))
        finish(self.folder, [VECTORS, "about.json"])


def _digest(vectors: NDArray[Any]) -> str:
    return xxhash.xxh3_128_hexdigest(vectors.tobytes())


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
