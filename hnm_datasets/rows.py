"""Convert rows in any supported format to a `Dataset`.

Every public function that takes rows reads them with `dataset_of`, so all of them support the same formats and raise
the same errors.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd
import pyarrow as pa
from datasets import Dataset, IterableDataset, IterableDatasetDict

from hnm_datasets.answers import is_polars
from hnm_datasets.arrays.arrow import as_arrow, as_plain, is_one_value
from hnm_datasets.storage.kept_rows import in_memory_rows
from hnm_datasets.terminal import printable

if TYPE_CHECKING:
    import polars

    Rows: TypeAlias = (
        Dataset
        | Mapping[str, Dataset]
        | pd.DataFrame
        | polars.DataFrame
        | pa.Table
        | Sequence[Mapping[str, Any]]
        | Mapping[str, Sequence[Any]]
    )
else:
    Rows = Any

#: The methods of `Dataset` that read a file, by its extension.
_READERS = {".csv": "from_csv", ".json": "from_json", ".jsonl": "from_json", ".parquet": "from_parquet"}
_FORMS = "a Dataset, a data frame of pandas or polars, a pyarrow.Table, a list of dicts or a dict of lists"


def dataset_of(rows: Rows, owner: str, name: str = "rows") -> Dataset:
    """Convert rows to a `Dataset`; a `Dataset` is returned unchanged.

    A `DatasetDict` must have a single split, which is returned. A named index of a pandas data frame becomes a column;
    an unnamed index is dropped.

    Args:
        rows: A `Dataset`, a data frame of pandas or polars, a `pyarrow.Table`, a list of dicts, or a dict of lists.
        owner: The calling function, for errors.
        name: The parameter, for errors.

    Raises:
        TypeError: The rows have another type, such as a stream, or a column mixes types.
        ValueError: A `DatasetDict` or dict of datasets has several splits, or columns have the same name or different
            lengths.

    Example:
        >>> dataset_of([{"query": "a?"}, {"query": "b?", "query_id": "q2"}], "example")[:]
        {'query': ['a?', 'b?'], 'query_id': [None, 'q2']}
    """
    if isinstance(rows, Dataset):
        return rows
    if isinstance(rows, Mapping) and any(isinstance(split, Dataset) for split in rows.values()):
        if len(rows) == 1:
            return next(iter(rows.values()))
        splits = list(rows)
        raise ValueError(
            f"{owner}: {name} is a {type(rows).__name__} of {len(rows)} splits: {splits}. Pass one of them, such as "
            f"{name}[{splits[0]!r}]."
        )
    if isinstance(rows, (IterableDataset, IterableDatasetDict)):
        raise TypeError(
            f"{owner}: {name} is an {type(rows).__name__}, but all rows are needed at once. Load it without "
            f"streaming=True, or write it to Parquet with write_stream and load the files."
        )
    if isinstance(rows, pd.DataFrame):
        return in_memory_rows(_table_of_frame(rows, owner))
    if is_polars(rows):
        polars: Any = sys.modules["polars"]
        # Without string views, which can only be converted to strings up to 2 GiB.
        return in_memory_rows(_plain_table(rows.to_arrow(compat_level=polars.CompatLevel.oldest())))  # type: ignore[union-attr]
    if isinstance(rows, pa.RecordBatch):
        rows = pa.table(rows)
    if isinstance(rows, pa.Table):
        _check_names(rows.column_names, owner)
        return in_memory_rows(_plain_table(rows))
    if isinstance(rows, Mapping):
        return in_memory_rows(_plain_table(_table_of_columns(rows, owner, name)))
    if isinstance(rows, Sequence) and not isinstance(rows, (str, bytes)):
        columns = _columns_of_dicts(rows, owner, name)
        return in_memory_rows(_plain_table(_table_of_columns(columns, owner, name)))
    remedy = " Call .collect() first." if type(rows).__name__ == "LazyFrame" else ""
    if isinstance(rows, (str, Path)):
        remedy = f" {_read_first(str(rows))}"
    raise TypeError(f"{owner}: {name} must be {_FORMS}, got {type(rows).__name__}.{remedy}")


def _read_first(source: str) -> str:
    """Say how to read the file or dataset that was passed by its name."""
    reader = _READERS.get(Path(source).suffix.lower())
    call = f"load_dataset({source!r}, split='train')" if reader is None else f"Dataset.{reader}({source!r})"
    return f"Read it first: {call}."


def _columns_of_dicts(rows: Sequence[Any], owner: str, name: str) -> dict[str, list[Any]]:
    if any(isinstance(row, Dataset) for row in rows):
        raise TypeError(
            f"{owner}: {name} is a {type(rows).__name__} that contains a Dataset. Loaders return the corpus and the "
            f"rows: corpus, rows = load_beir(...)."
        )
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"{owner}: {name} must be {_FORMS}; row {number} of the list is {_short(row)}.")
    # `Dataset.from_list` would drop keys that the first row lacks.
    names = dict.fromkeys(key for row in rows for key in row)
    return {key: [row.get(key) for row in rows] for key in names}


def _table_of_columns(columns: Mapping[str, Any], owner: str, name: str) -> pa.Table:
    _check_names(list(columns), owner)
    for key, values in columns.items():
        if is_one_value(values):
            remedy = "Wrap a single row in a list: [row]"
            if isinstance(values, Mapping):
                remedy = (
                    f"Convert scores by query and passage to one row each: [{{'query_id': query, 'corpus_id': passage, "
                    f"'score': score}} for query, found in {name}.items() for passage, score in found.items()]"
                )
            raise TypeError(
                f"{owner}: {name} must be {_FORMS}; the value of {key!r} is {_short(values)}, but a list with one "
                f"value per row is expected. {remedy}."
            )
    arrays = {key: _column(values, key, owner) for key, values in columns.items()}
    first = next(iter(arrays), None)
    for key, array in arrays.items():
        if first is not None and len(array) != len(arrays[first]):
            raise ValueError(
                f"{owner}: the column {key!r} has {len(array)} rows and the column {first!r} has {len(arrays[first])}."
            )
    return pa.table(arrays)


def _column(values: Any, key: str, owner: str) -> pa.Array:
    try:
        return as_arrow(values, key, owner)
    except TypeError:
        # pandas uses NaN for missing texts.
        filled = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
    return as_arrow(filled, key, owner)


def _table_of_frame(frame: pd.DataFrame, owner: str) -> pa.Table:
    named = [level for level in frame.index.names if level is not None]
    for level in named:
        if level in frame.columns:
            raise ValueError(
                f"{owner}: {level!r} is the name of both a column and the index of the data frame. Rename one of them, "
                f"or drop the index: frame.reset_index(drop=True)."
            )
    if named:
        frame = frame.reset_index(named)
    _check_names(list(frame.columns), owner)
    try:
        return _plain_table(pa.Table.from_pandas(frame, preserve_index=False))
    except (pa.ArrowException, OverflowError, UnicodeError):
        # Convert column by column, so that the error names the row.
        return _table_of_columns({str(name): frame[name] for name in frame.columns}, owner, "rows")


def _plain_table(table: pa.Table) -> pa.Table:
    """Return the table without view, dictionary and run-end types, and without large types if small ones suffice."""
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        chunks = [as_plain(chunk) for chunk in column.chunks]
        plain = pa.chunked_array(chunks) if chunks else column
        with contextlib.suppress(pa.ArrowInvalid):
            plain = plain.cast(_small_type(plain.type))
        columns[name] = plain
    return pa.table(columns)


def _small_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(type_):
        return pa.string()
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return pa.list_(_small_type(type_.value_type))
    return type_


def _check_names(names: Sequence[Any], owner: str) -> None:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{owner}: the name of the column {name!r} must be a string. Rename the column.")
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{owner}: there are several columns {name!r}. Rename or remove one of them.")


def _short(value: Any) -> str:
    text = printable(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
