"""Read and write datasets and corpora as Parquet shards, and replace a folder in one step."""

from __future__ import annotations

import contextlib
import glob
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Value, load_dataset

from hnm_datasets.corpus.passages import Corpus

#: The folders of the rows and of the passages.
DATA, CORPUS = "data", "corpus"
#: Bytes of a shard before compression, and of the passages in memory at a time.
_SHARD, _CHUNK = 500_000_000, 64_000_000


def size_of(rows: Dataset) -> int:
    """Estimate the bytes of rows, which may be a selection from a larger table."""
    return int(rows.data.nbytes * len(rows) / max(len(rows.data), 1))


def write_rows(folder: Path, split: str, rows: Dataset) -> None:
    """Write the rows of a split as Parquet shards of bounded size, with their features."""
    folder.mkdir(exist_ok=True)
    shards = min(len(rows), -(-size_of(rows) // _SHARD) or 1)
    for shard in range(shards):
        part = rows.shard(shards, shard, contiguous=True)
        part.to_parquet(folder / f"{split}-{shard:05d}-of-{shards:05d}.parquet")


def corpus_size(corpus: Corpus) -> int:
    """Return the bytes of a corpus."""
    return sum(column.nbytes for column in corpus.columns.values())


def corpus_features(columns: Iterable[str]) -> Features:
    """Return the features of a published corpus."""
    return Features({name: Value("string") for name in columns})


def write_corpus(folder: Path, corpus: Corpus) -> None:
    """Write a corpus as Parquet shards of bounded size, with bounded memory."""
    folder.mkdir()
    columns = corpus.columns
    schema = corpus_features(columns).arrow_schema
    total = corpus_size(corpus)
    size = -(-len(corpus) // max(1, -(-total // _SHARD)))
    shards = -(-len(corpus) // size)
    step = max(1, _CHUNK * len(corpus) // total)
    for shard in range(shards):
        with pq.ParquetWriter(folder / f"train-{shard:05d}-of-{shards:05d}.parquet", schema) as writer:
            end = min((shard + 1) * size, len(corpus))
            for start in range(shard * size, end, step):
                part = [column.slice(start, min(step, end - start)) for column in columns.values()]
                writer.write_table(pa.table([column.cast(pa.string()) for column in part], schema=schema))


def beside(folder: Path, kind: str) -> Path:
    """Return the folder in which the next content of a folder is written (`"new"`), or its last one kept (`"old"`)."""
    return folder.with_name(f".{folder.name}.hnm_datasets.{kind}")


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder next to `folder`, which replaces it unless an error is raised."""
    aside, before = beside(folder, "new"), beside(folder, "old")
    # We hold the lock, so these are from a process that was killed, maybe between the two renames below.
    if before.exists() and not folder.exists():
        before.rename(folder)
    for stale in (aside, before):
        shutil.rmtree(stale, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(before)
    aside.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def load_rows(folder: Path, split: str) -> Dataset:
    """Read a split that `write_rows` or `write_corpus` wrote."""
    return load_dataset("parquet", data_files={split: f"{glob.escape(str(folder))}/{split}-*.parquet"}, split=split)
