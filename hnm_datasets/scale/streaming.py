"""Writing a stream of rows to disk, a shard at a time, so that a killed run goes on where it was."""

from __future__ import annotations

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
from hnm_datasets.storage.folders import written_aside

logger = logging.getLogger(__name__)

#: Hidden, so that `load_dataset` does not take it for data.
_STATE = ".stream.json"
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

    A run that was killed is made again with the same call: it goes on after the last whole shard, asks the stream to go
    on from there, and neither loses nor repeats a row. (With a stream that cannot seek, `datasets` reads over what was
    there.) A folder that is complete is left as it is. It is read back by `load_dataset(folder)`, and published by
    `push_mined` of what that gives.

    In front of `map`, `with_format("arrow")` spares `datasets` to make Python objects of every row, there and back.

    Args:
        stream: Rows as they come, usually from `load_dataset(..., streaming=True)` and `.map(step, batched=True)`.
        folder: Where the shards go, `data/SPLIT-00000.parquet` and so on. Nothing else should be in it.
        split: The name of the split.
        max_shard_size: How large a shard is in memory, such as `"100MB"`; this much is held at once.
        batch_size: Rows that are taken from the stream at a time.

    Returns:
        How many rows the folder holds.

    Raises:
        TypeError: `stream` is no `IterableDataset`.
        ValueError: The stream has no rows, the folder is of another stream, or a column changes its type.

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
        self.kind = _plain({"split": split, "columns": stream.column_names, "start": stream.state_dict()})

    def run(self, limit: int, batch_size: int) -> int:
        """Write what is missing."""
        state = self._read_state()
        if state["done"]:
            logger.warning(
                "%s: %s is complete, with %d rows; nothing was written. To write it again, delete the folder.",
                *(_NAME, self.place, state["rows"]),
            )
            return int(state["rows"])
        if state["shards"]:
            self.stream.load_state_dict(state["state"])
        with tqdm(initial=state["rows"], desc="Writing rows", unit=" rows") as bar:
            for shard in self._shards(limit, batch_size, bar):
                self._write_shard(state["shards"], shard)
                state["shards"] += 1
                state["rows"] += len(shard)
                state["state"] = _plain(self.stream.state_dict())
                self._write_state(state)
        if not state["shards"]:
            raise ValueError(f"{_NAME}: the stream has no rows.")
        state["done"] = True
        self._write_state(state)
        return int(state["rows"])

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
            first = self._shard(0)
            return table.cast(pq.read_schema(first)) if first.exists() else table
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError) as error:
            raise ValueError(f"{_NAME}: the columns change their types along the stream: {error}") from error

    def _shard(self, number: int) -> Path:
        return self.place / "data" / f"{self.split}-{number:05d}.parquet"

    def _write_shard(self, number: int, table: pa.Table) -> None:
        # Its dot in front hides the temporary file from `load_dataset`.
        with written_aside(self._shard(number)) as aside:
            pq.write_table(table, aside)

    def _read_state(self) -> dict[str, Any]:
        path = self.place / _STATE
        if not path.exists():
            return {"kind": self.kind, "shards": 0, "rows": 0, "state": None, "done": False}
        state: dict[str, Any] = json.loads(path.read_text())
        if state["kind"] != self.kind:
            raise ValueError(
                f"{_NAME}: {self.place} holds shards of another stream, or of another split. Choose another folder, or "
                f"delete this one to write it again."
            )
        return state

    def _write_state(self, state: dict[str, Any]) -> None:
        with written_aside(self.place / _STATE) as aside:
            aside.write_text(json.dumps(state))


def _plain(state: Any) -> Any:
    """Return a state as JSON reads it back."""
    return json.loads(json.dumps(state))
