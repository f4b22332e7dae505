"""Writing in-memory rows to the cache directory, so that `map` can cache its results.

`map` writes its cache files next to the files of a dataset. A dataset without files, such as one created from a data
frame, is mapped again in every process. With a file named by the content of the rows, a second run of a notebook uses
the cache.
"""

from __future__ import annotations

import io
import logging
from typing import Any

import datasets
import pyarrow as pa
import xxhash
from datasets import Dataset

from hnm_datasets.runtime.datasets_internals import MemoryMappedTable
from hnm_datasets.storage.about import About
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.folders import build_once, cache_root
from hnm_datasets.storage.writing import FolderWriteError

logger = logging.getLogger(__name__)

#: Part of the folder name; increase it when the file format changes.
_FORMAT = 1
#: A name that `Dataset.cleanup_cache_files` does not remove.
_FILE = "rows.arrow"
#: Rows per record batch, as in files that `map` writes, so that reading one row reads little else.
_BATCH = 1000


def kept_rows(rows: Dataset) -> Dataset:
    """Return the same rows from a file in the cache directory, which is written unless it exists.

    Rows that are already in files are returned unchanged, and so are all rows if caching is disabled in `datasets`.

    Args:
        rows: Any dataset.

    Returns:
        The same rows and format, memory-mapped. The fingerprint of the dataset depends only on columns, types and
        values.

    Example:
        >>> rows = kept_rows(Dataset.from_dict({"query": ["what causes earthquakes?"]}))
        >>> rows[0], len(rows.cache_files)
        ({'query': 'what causes earthquakes?'}, 1)
    """
    if rows.cache_files or not len(rows) or not datasets.is_caching_enabled():
        return rows
    name = fingerprint({"kind": "rows", "format": _FORMAT, "digest": content_digest(rows)})
    try:
        folder = build_once(
            cache_root() / "rows",
            name,
            lambda aside: _write(rows, pa.OSFile(str(aside / _FILE), "wb")),
            About("rows", "mine or a loader", f"{len(rows):,}", facts={"columns": rows.column_names}),
        )
    except FolderWriteError as error:
        logger.warning("The rows stay in memory, so map cannot cache its results. %s", error)
        return rows
    table = MemoryMappedTable.from_file(str(folder / _FILE))
    kept = Dataset(table, info=rows.info, split=rows.split, fingerprint=name)
    if rows.format["type"] is not None:
        kept.set_format(
            rows.format["type"],
            rows.format["columns"],
            rows.format["output_all_columns"],
            **rows.format["format_kwargs"],
        )
    return kept


def in_memory_rows(table: pa.Table) -> Dataset:
    """Return a table as a dataset whose fingerprint depends on its content.

    The fingerprint of `datasets` takes several times longer and needs memory for a copy, because it pickles the table.

    Example:
        >>> names = [in_memory_rows(pa.table({"rank": ranks}))._fingerprint for ranks in ([1, 2], [1, 2], [1, 3])]
        >>> names[0] == names[1], names[0] == names[2]
        (True, False)
    """
    hasher = _Hasher()
    with pa.PythonFile(hasher, mode="w") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return Dataset(table, fingerprint=fingerprint({"kind": "table", "digest": hasher.hexdigest()}))


def content_digest(rows: Dataset) -> str:
    """Hash the columns, types and values of rows, at more than a gigabyte per second.

    Returns:
        32 hexadecimal digits. They do not depend on the storage, chunks or format of the rows.

    Example:
        >>> rows = Dataset.from_dict({"rank": [1, 2, 3]})
        >>> content_digest(rows.select([2, 1, 0]).select([2, 1, 0]).with_format("numpy")) == content_digest(rows)
        True
    """
    hasher = _Hasher()
    _write(rows, pa.PythonFile(hasher, mode="w"))
    return hasher.hexdigest()


class _Hasher(io.RawIOBase):
    """A file object that only hashes the written bytes."""

    def __init__(self) -> None:
        self._hasher = xxhash.xxh3_128()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._hasher.update(data)
        return len(data)

    def hexdigest(self) -> str:
        return self._hasher.hexdigest()


def _write(rows: Dataset, file: pa.NativeFile) -> None:
    # Use the schema of the features: the metadata of the table may contain a fingerprint.
    schema = rows.features.arrow_schema
    with file, pa.ipc.new_stream(file, schema) as stream:
        for table in rows.with_format("arrow").iter(_BATCH):
            stream.write_table(table.combine_chunks().replace_schema_metadata(schema.metadata))
