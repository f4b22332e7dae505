"""Writing a stream of rows to disk, a shard at a time, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import IterableDataset
from datasets.utils import tqdm
from datasets.utils.py_utils import convert_file_size_to_int
from filelock import FileLock

from hnm_datasets import checks
from hnm_datasets.runtime.interrupts import interruptible
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.json_files import read_object
from hnm_datasets.storage.writing import written_aside
from hnm_datasets.terminal import printable

logger = logging.getLogger(__name__)

#: Hidden, so that `load_dataset` does not take it for data.
_STATE = ".stream.json"
#: Raised when the content of the state changes.
_FORMAT = 2
_NAME = "write_stream"


def write_stream(
    stream: IterableDataset,
    folder: str | Path,
    *,
    split: str = "train",
    max_shard_size: int | str = "100MB",
    batch_size: int = 1000,
) -> int:
    """Write a stream of rows to Parquet shards, in memory that does not grow with the stream.

    Repeat the same call to resume an interrupted run: it continues after the last whole shard, and neither loses nor
    repeats a row. (With a stream that cannot seek, `datasets` reads the rows before that again.) The shards that are
    there are checked first. A complete folder is left as it is. Read it with `load_dataset(folder, split=split)`, and
    publish it with `push_mined` of the result.

    In front of `map`, `with_format("arrow")` spares `datasets` to make Python objects of every row, there and back.

    Args:
        stream: Rows as they come, usually from `load_dataset(..., streaming=True)` and `.map(step, batched=True)`.
        folder: Where the shards go, `data/SPLIT-00000-of-0000N.parquet` and so on; without `-of-0000N` until the last
            is written. Nothing else should be in it.
        split: The name of the split: letters, digits and `_`, with single dots between them.
        max_shard_size: How large a shard is in memory, such as `"100MB"`; this much is held at once.
        batch_size: Rows that are taken from the stream at a time.

    Returns:
        How many rows the folder holds.

    Raises:
        TypeError: `stream` is no `IterableDataset`.
        ValueError: The stream has no rows, the folder is of another stream, a shard or the state of an earlier run is
            damaged, a column changes its type, or `split` is no name of a split.

    Example:
        >>> import tempfile
        >>> from datasets import load_dataset
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample()
        >>> stream = queries.to_iterable_dataset().with_format("arrow")
        >>> mined = stream.map(BM25Negatives(corpus, k=5), batched=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_stream(mined, folder), load_dataset(folder, split="train").num_rows
        (600, 600)
    """
    if not isinstance(stream, IterableDataset):
        raise TypeError(
            f"{_NAME} takes an IterableDataset, got {type(stream).__name__}. A Dataset is on disk already: "
            f"dataset.to_parquet(...), or save_mined."
        )
    try:
        limit = convert_file_size_to_int(max_shard_size)
    except (ValueError, AttributeError, TypeError):
        raise ValueError(
            f"{_NAME}: max_shard_size must be bytes, or a size such as '100MB', got {max_shard_size!r}."
        ) from None
    limit = checks.whole_number(_NAME, "max_shard_size", limit, low=1)
    batch_size = checks.whole_number(_NAME, "batch_size", batch_size, low=1)
    split = checks.split_name(_NAME, split)
    place = Path(folder).expanduser()
    (place / "data").mkdir(parents=True, exist_ok=True)
    with FileLock(place / f"{_STATE}.lock"):
        return _Writer(stream, place, split).run(limit, batch_size)


class _Writer:
    """Writes one stream to one folder."""

    def __init__(self, stream: IterableDataset, place: Path, split: str) -> None:
        # The formatted stream is the one that knows how far it was read.
        self.stream, self.place, self.split = stream.with_format("arrow"), place, split
        # Another stream would be asked to go on at a place that means nothing to it.
        self.kind = _plain(
            {"format": _FORMAT, "split": split, "columns": stream.column_names, "start": stream.state_dict()}
        )
        #: The types of the first shard, once it is written.
        self.schema: pa.Schema | None = None

    def run(self, limit: int, batch_size: int) -> int:
        """Write what is missing."""
        state = self._read_state()
        for number, digest in enumerate(state["shards"]):
            self._check_shard(number, digest, len(state["shards"]) if state["done"] else None)
        if state["done"]:
            self._finish(state)
            logger.warning(
                "%s: %s is complete, with %d rows; nothing was written. To write it again, delete the folder.",
                *(_NAME, self.place, state["rows"]),
            )
            return int(state["rows"])
        if state["shards"]:
            self.stream.load_state_dict(state["state"])
        with (
            interruptible(lambda: self._explain_interrupt(state["rows"]), replace=True),
            tqdm(initial=state["rows"], desc="Writing rows", unit=" rows") as bar,
        ):
            for shard in self._shards(limit, batch_size, bar):
                state["shards"].append(self._write_shard(len(state["shards"]), shard))
                state["rows"] += len(shard)
                state["state"] = _plain(self.stream.state_dict())
                self._write_state(state)
        if not state["shards"]:
            (self.place / _STATE).unlink()
            raise ValueError(f"{_NAME}: the stream has no rows.")
        state["done"] = True
        self._write_state(state)
        self._finish(state)
        return int(state["rows"])

    def _explain_interrupt(self, rows: int) -> str:
        return f"{_NAME} was interrupted. {rows:,} rows are in {self.place}. Repeat the call to resume."

    def _shards(self, limit: int, batch_size: int, bar: Any) -> Iterator[pa.Table]:
        waiting: list[pa.Table] = []
        size = 0
        for batch in self.stream.iter(batch_size):
            waiting.append(batch)
            size += batch.nbytes
            bar.update(len(batch))
            if size >= limit:
                yield self._joined(waiting)
                waiting, size = [], 0
        if waiting:
            yield self._joined(waiting)

    def _joined(self, tables: list[pa.Table]) -> pa.Table:
        """Put batches together in the types of the first shard; in a batch of empty lists the type is not known."""
        try:
            table = pa.concat_tables(tables, promote_options="permissive")
            return table if self.schema is None else table.cast(self.schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError) as error:
            raise ValueError(
                f"{_NAME}: the columns change their types along the stream: {printable(str(error))}"
            ) from error

    def _shard(self, number: int, of: int | None = None) -> Path:
        """Return the path of a shard; `of` is the number of shards of a complete folder."""
        total = "" if of is None else f"-of-{of:05d}"
        return self.place / "data" / f"{self.split}-{number:05d}{total}.parquet"

    def _write_shard(self, number: int, table: pa.Table) -> str:
        # Its dot in front hides the temporary file from `load_dataset`.
        with written_aside(self._shard(number)) as aside:
            pq.write_table(table, aside)
            if self.schema is None:
                self.schema = pq.read_schema(aside)
            return _digest(aside)

    def _finish(self, state: dict[str, Any]) -> None:
        """Give the shards the names by which `load_dataset` finds any split, and remove shards that do not count.

        A run that was interrupted between a shard and its state has written one more than the state says.
        """
        count = len(state["shards"])
        whole = [self._shard(number, count) for number in range(count)]
        for number, path in enumerate(whole):
            if not path.exists():
                self._shard(number).rename(path)
        for path in (self.place / "data").iterdir():
            if path not in whole and path.name.startswith(f"{self.split}-") and path.suffix == ".parquet":
                path.unlink()

    # ---- what an earlier run left --------------------------------------------------------------------------------

    def _read_state(self) -> dict[str, Any]:
        path = self.place / _STATE
        if not path.exists():
            others = sorted(other.name for other in (self.place / "data").glob("[!.]*"))
            if others:
                raise ValueError(
                    f"{_NAME}: {self.place / 'data'} holds files that no earlier run of {_NAME} wrote, such as "
                    f"{others[0]!r}. Choose another folder, or delete them."
                )
            first = {"kind": self.kind, "shards": [], "rows": 0, "state": None, "done": False}
            # From here on, shards in this folder are known to be ours.
            self._write_state(first)
            return first
        try:
            stored = read_object(path)
            state: Any = stored.get("state")
            if not isinstance(state, dict) or stored.get("digest") != fingerprint(state):
                raise ValueError("its content does not have the digest that it states, or is of another version")
        except ValueError as error:
            raise ValueError(
                f"{_NAME}: the state of an earlier run, {path}, cannot be used: {error}. {self._way_out}"
            ) from None
        if state["kind"] != self.kind:
            raise ValueError(
                f"{_NAME}: {self.place} holds shards of another stream, or of another split. Choose another folder, or "
                f"delete this one to write it again."
            )
        return state

    def _check_shard(self, number: int, digest: str, count: int | None) -> None:
        """Raise unless a shard that the state counts is there, with the bytes that were written."""
        path = self._shard(number, count)
        if not path.exists() and self._shard(number).exists():
            # Complete, but killed before all shards were renamed.
            path = self._shard(number)
        if not path.exists():
            raise ValueError(f"{_NAME}: an earlier run wrote the shard {path}, and it is gone. {self._way_out}")
        if _digest(path) != digest:
            raise ValueError(f"{_NAME}: the shard {path} was changed since it was written. {self._way_out}")
        if self.schema is None:
            self.schema = pq.read_schema(path)

    def _write_state(self, state: dict[str, Any]) -> None:
        with written_aside(self.place / _STATE) as aside:
            aside.write_text(json.dumps({"digest": fingerprint(state), "state": state}))

    @property
    def _way_out(self) -> str:
        return f"Delete the folder {self.place} and repeat the call, or choose another folder."


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _plain(state: Any) -> Any:
    """Return a state as JSON reads it back."""
    return json.loads(json.dumps(state))
