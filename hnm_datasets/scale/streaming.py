"""Writing a stream of rows to disk in shards, so that an interrupted run can resume."""

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
from filelock import FileLock

from hnm_datasets import checks
from hnm_datasets.runtime.bars import ProgressBar
from hnm_datasets.runtime.datasets_internals import convert_file_size_to_int
from hnm_datasets.runtime.interrupts import interruptible
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.json_files import read_object
from hnm_datasets.storage.writing import written_aside
from hnm_datasets.terminal import printable

logger = logging.getLogger(__name__)

#: A hidden file, so that `load_dataset` does not read it as data.
_STATE = ".stream.json"
#: Increase it when the content of the state changes.
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
    """Write a stream of rows to Parquet shards, with constant memory.

    Repeat the same call to resume an interrupted run. It continues after the last complete shard, and does not lose or
    repeat rows. (If a stream cannot seek, `datasets` reads the earlier rows again.) Existing shards are verified first.
    A complete folder is not changed. Load it with `load_dataset(folder, split=split)`, and publish the result with
    `push_mined`.

    Call `with_format("arrow")` before `map`, so that `datasets` does not convert rows to Python objects and back.

    Args:
        stream: The rows, usually from `load_dataset(..., streaming=True)` and `.map(step, batched=True)`.
        folder: The folder for the shards, `data/SPLIT-00000-of-0000N.parquet` and so on (without `-of-0000N` until all
            shards are written). It should contain no other files.
        split: The name of the split: letters, digits and `_`, with single dots between them.
        max_shard_size: The size of a shard in memory, such as `"100MB"`. Memory holds one shard at a time.
        batch_size: Rows to read from the stream at a time.

    Returns:
        The number of rows in the folder.

    Raises:
        TypeError: `stream` is not an `IterableDataset`.
        ValueError: The stream has no rows, the folder belongs to another stream, a shard or the state of an earlier run
            is damaged, a column changes its type, or `split` is not a valid name.

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
            f"{_NAME} requires an IterableDataset, got {type(stream).__name__}. For a Dataset, use "
            f"dataset.to_parquet(...) or save_mined."
        )
    try:
        limit = convert_file_size_to_int(max_shard_size)
    except (ValueError, AttributeError, TypeError):
        raise ValueError(
            f"{_NAME}: max_shard_size must be a number of bytes or a size such as '100MB', got {max_shard_size!r}."
        ) from None
    limit = checks.whole_number(_NAME, "max_shard_size", limit, low=1)
    batch_size = checks.whole_number(_NAME, "batch_size", batch_size, low=1)
    split = checks.split_name(_NAME, split)
    target = Path(folder).expanduser()
    (target / "data").mkdir(parents=True, exist_ok=True)
    with FileLock(target / f"{_STATE}.lock"):
        return _Writer(stream, target, split).run(limit, batch_size)


class _Writer:
    """Writes a stream to a folder."""

    def __init__(self, stream: IterableDataset, folder: Path, split: str) -> None:
        # Only the formatted stream tracks its position.
        self.stream, self.folder, self.split = stream.with_format("arrow"), folder, split
        # Identifies the stream, because the saved position is meaningless for another stream.
        self.kind = _plain(
            {"format": _FORMAT, "split": split, "columns": stream.column_names, "start": stream.state_dict()}
        )
        #: The schema of the first shard, after it is written.
        self.schema: pa.Schema | None = None

    def run(self, limit: int, batch_size: int) -> int:
        """Write the missing shards."""
        state = self._read_state()
        for number, digest in enumerate(state["shards"]):
            self._check_shard(number, digest, len(state["shards"]) if state["done"] else None)
        if state["done"]:
            self._finish(state)
            logger.warning(
                "%s: %s is already complete, with %d rows. Nothing was written. To write it again, delete the folder.",
                *(_NAME, self.folder, state["rows"]),
            )
            return int(state["rows"])
        if state["shards"]:
            self.stream.load_state_dict(state["state"])
        with (
            interruptible(lambda: self._explain_interrupt(state["rows"]), replace=True),
            ProgressBar(None, "Writing rows", "rows", initial=state["rows"]) as bar,
        ):
            for shard in self._shards(limit, batch_size, bar):
                state["shards"].append(self._write_shard(len(state["shards"]), shard))
                state["rows"] += len(shard)
                state["state"] = _plain(self.stream.state_dict())
                self._write_state(state)
        if not state["shards"]:
            (self.folder / _STATE).unlink()
            raise ValueError(f"{_NAME}: the stream has no rows.")
        state["done"] = True
        self._write_state(state)
        self._finish(state)
        return int(state["rows"])

    def _explain_interrupt(self, rows: int) -> str:
        return f"{_NAME} was interrupted. {rows:,} rows are in {self.folder}. Repeat the call to resume."

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
        """Concatenate batches with the schema of the first shard. A batch of empty lists has no item type."""
        try:
            table = pa.concat_tables(tables, promote_options="permissive")
            return table if self.schema is None else table.cast(self.schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError) as error:
            raise ValueError(
                f"{_NAME}: the types of the columns change within the stream: {printable(str(error))}"
            ) from error

    def _shard(self, number: int, of: int | None = None) -> Path:
        """Return the path of a shard; `of` is the number of shards in a complete folder."""
        total = "" if of is None else f"-of-{of:05d}"
        return self.folder / "data" / f"{self.split}-{number:05d}{total}.parquet"

    def _write_shard(self, number: int, table: pa.Table) -> str:
        # The temporary file has a leading dot, so `load_dataset` ignores it.
        with written_aside(self._shard(number)) as aside:
            pq.write_table(table, aside)
            if self.schema is None:
                self.schema = pq.read_schema(aside)
            return _digest(aside)

    def _finish(self, state: dict[str, Any]) -> None:
        """Rename the shards to the names that `load_dataset` expects, and remove shards that are not in the state.

        A run that is interrupted between writing a shard and its state leaves one such shard.
        """
        count = len(state["shards"])
        final = [self._shard(number, count) for number in range(count)]
        for number, path in enumerate(final):
            if not path.exists():
                self._shard(number).rename(path)
        for path in (self.folder / "data").iterdir():
            if path not in final and path.name.startswith(f"{self.split}-") and path.suffix == ".parquet":
                path.unlink()

    # ---- resuming ------------------------------------------------------------------------------------------------

    def _read_state(self) -> dict[str, Any]:
        path = self.folder / _STATE
        if not path.exists():
            others = sorted(other.name for other in (self.folder / "data").glob("[!.]*"))
            if others:
                raise ValueError(
                    f"{_NAME}: {self.folder / 'data'} contains files that {_NAME} did not write, such as "
                    f"{others[0]!r}. Choose another folder, or delete these files."
                )
            first = {"kind": self.kind, "shards": [], "rows": 0, "state": None, "done": False}
            # Write the state now, so that later calls recognize the shards in this folder.
            self._write_state(first)
            return first
        try:
            stored = read_object(path)
            state: Any = stored.get("state")
            if not isinstance(state, dict) or stored.get("digest") != fingerprint(state):
                raise ValueError("its digest does not match its content, or it is from another version")
        except ValueError as error:
            raise ValueError(
                f"{_NAME}: the state of an earlier run in {path} cannot be used: {error}. {self._way_out}"
            ) from None
        if state["kind"] != self.kind:
            raise ValueError(
                f"{_NAME}: {self.folder} contains shards of another stream or split. Choose another folder, or delete "
                f"this folder to write it again."
            )
        return state

    def _check_shard(self, number: int, digest: str, count: int | None) -> None:
        """Raise an error unless a shard in the state exists and has not changed."""
        path = self._shard(number, count)
        if not path.exists() and self._shard(number).exists():
            # The run was interrupted while shards were renamed.
            path = self._shard(number)
        if not path.exists():
            raise ValueError(f"{_NAME}: the shard {path} of an earlier run is missing. {self._way_out}")
        if _digest(path) != digest:
            raise ValueError(f"{_NAME}: the shard {path} has changed since it was written. {self._way_out}")
        if self.schema is None:
            self.schema = pq.read_schema(path)

    def _write_state(self, state: dict[str, Any]) -> None:
        with written_aside(self.folder / _STATE) as aside:
            aside.write_text(json.dumps({"digest": fingerprint(state), "state": state}))

    @property
    def _way_out(self) -> str:
        return f"Delete the folder {self.folder} and repeat the call, or choose another folder."


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _plain(state: Any) -> Any:
    """Return a state after a round trip through JSON."""
    return json.loads(json.dumps(state))
