"""Rows made in memory, written to the cache directory so that `map` caches what it makes of them.

`map` writes its answers beside the files of a dataset. A dataset without files, such as one made from a data frame, is
mapped again in every process. A file named by the content of the rows makes the second notebook run free.
"""

from __future__ import annotations

import io
import logging
from typing import Any

import datasets
import pyarrow as pa
import xxhash
from datasets import Dataset
from datasets.table import MemoryMappedTable

from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.folders import build_once, cache_root
from hnm_datasets.storage.writing import FolderWriteError

logger = logging.getLogger(__name__)

#: Goes into the name of the folder; raise it when the form of the file changes.
_FORMAT = 1
#: Not one that `Dataset.cleanup_cache_files` removes.
_FILE = "rows.arrow"
#: Rows of a record batch, as `map` writes them: one row is read without reading its neighbors far away.
_BATCH = 1000


def kept_rows(rows: Dataset) -> Dataset:
    """Return the same rows from a file in the cache directory, written unless it is there.

    Rows that are in files already are returned as they are, and so are all if the caching of `datasets` is disabled.

    Args:
        rows: Any dataset.

    Returns:
        The same rows and format, memory-mapped; the dataset's fingerprint depends on columns, types and values alone.

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
            cache_root() / "rows", name, lambda aside: _write(rows, pa.OSFile(str(aside / _FILE), "wb"))
        )
    except FolderWriteError as error:
        logger.warning("The rows stay in memory, so map caches nothing that it makes of them. %s", error)
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
    """Return a table as a dataset whose fingerprint is made of its content.

    The fingerprint that `datasets` makes itself takes several times as long and the memory of another copy, because it
    pickles the table.

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
    """Hash the columns, types and values of rows, more than a gigabyte a second.

    Returns:
        32 hexadecimal digits. They do not depend on how the rows are kept, cut into chunks or formatted.

    Example:
        >>> rows = Dataset.from_dict({"rank": [1, 2, 3]})
        >>> content_digest(rows.select([2, 1, 0]).select([2, 1, 0]).with_format("numpy")) == content_digest(rows)
        True
    """
    hasher = _Hasher()
    _write(rows, pa.PythonFile(hasher, mode="w"))
    return hasher.hexdigest()


class _Hasher(io.RawIOBase):
    """A file that keeps nothing of what is written but its hash."""

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
    # The metadata of a table also names the process that made it.
    schema = rows.features.arrow_schema
    with file, pa.ipc.new_stream(file, schema) as stream:
        for table in rows.with_format("arrow").iter(_BATCH):
            stream.write_table(table.combine_chunks().replace_schema_metadata(schema.metadata))
