"""Return the result of a step in the format of its input batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import as_objects, as_series
from hnm_datasets.columns import KNOWN_POSITIVE_IDS, QUERY
from hnm_datasets.runtime.workers import in_ray_worker


class ArrowColumns(dict[str, pa.Array]):
    """Columns that `Dataset.map` writes as Arrow arrays, without conversion to Python lists.

    `map` checks that the `values()` of a function's result are lists, arrays or pandas Series, and converts a Series to
    a Python list before writing it. However, it merges the result into the batch by item access, and its writer accepts
    Arrow arrays. Therefore `values()` returns Series and the items are Arrow arrays, which is six times faster.
    """

    def values(self) -> list[pd.Series[Any]]:  # type: ignore[override]
        """Return the columns as pandas Series, as `map` requires."""
        return [pd.Series(as_series(array)) for array in super().values()]


class NewRows(NamedTuple):
    """The result of a step that changes the number of rows.

    Attributes:
        owners: The row of the batch that each new row comes from. Shape (M,).
        columns: The columns that the step writes. Shape (M,) each.
    """

    owners: NDArray[np.int64]
    columns: dict[str, pa.Array]


def is_polars(rows: Any) -> bool:
    """Return whether this is a polars data frame, without importing polars."""
    polars: Any = sys.modules.get("polars")
    return polars is not None and isinstance(rows, polars.DataFrame)


def column_names(rows: Any) -> Sequence[str]:
    """Return the names of the columns of a table or data frame."""
    names: Sequence[str] = rows.column_names if isinstance(rows, pa.Table) else rows.columns
    return names


def answer_columns(rows: Any, columns: Mapping[str, pa.Array]) -> Any:
    """Return new or changed columns in the format of the rows.

    For a mapping, only the columns are returned, because `map` merges them. For a table or data frame, all columns are
    returned, because `map` uses it as the whole result.
    """
    if isinstance(rows, pa.Table):
        for name, array in columns.items():
            at = rows.column_names.index(name) if name in rows.column_names else -1
            rows = rows.append_column(name, array) if at < 0 else rows.set_column(at, name, array)
        return rows
    if isinstance(rows, pd.DataFrame):
        # Ray keeps Arrow-backed pandas types and guesses all others.
        as_column = as_series if in_ray_worker() else as_objects
        return rows.assign(**{name: as_column(array) for name, array in columns.items()})
    if is_polars(rows):
        return rows.with_columns(sys.modules["polars"].from_arrow(pa.table(dict(columns))).get_columns())
    return _as_mapping(rows, columns)


def _as_mapping(rows: Any, columns: Mapping[str, pa.Array]) -> Any:
    """Return columns as the kind of mapping that the rows are: Arrow, numpy or lists."""
    if hasattr(rows, "keys_to_format"):
        return ArrowColumns(columns)
    if any(isinstance(values, np.ndarray) for values in rows.values()):
        return {name: as_objects(array) for name, array in columns.items()}
    return {name: array.to_pylist() for name, array in columns.items()}


def answer_rows(rows: Any, names: list[str], column: Callable[[str], pa.Array], new: NewRows, step: str) -> Any:
    """Return new rows, with the other columns of the row that each comes from.

    The query and the lists of positives and negatives are removed.

    Args:
        rows: The batch.
        names: The names of the batch's columns.
        column: Reads a column of the batch.
        new: The new rows.
        step: The step that created them, for errors.
    """
    owners, columns = new
    taken = [name for name in columns if name in names]
    if taken:
        raise ValueError(
            f"{step} writes the columns {list(columns)}, but the rows already have {taken}. Rename or remove them "
            f"first."
        )
    used = {name for name in names if name.startswith(("negative_", "positive_"))}
    used |= {QUERY, KNOWN_POSITIVE_IDS} & set(names)
    others = [name for name in names if name not in used]
    if isinstance(rows, pa.Table):
        return pa.table({name: column(name).take(pa.array(owners)) for name in others} | columns)
    if isinstance(rows, pd.DataFrame):
        return answer_columns(rows[others].iloc[owners].reset_index(drop=True), columns)
    if is_polars(rows):
        frame = rows.select(others)[owners] if others else rows.select([])
        return answer_columns(frame, columns)
    if hasattr(rows, "keys_to_format"):
        # `map` merges changes made to this batch in place, and then drops `remove_columns`.
        for name in others:
            rows[name] = column(name).take(pa.array(owners))
        for name in used:
            del rows[name]
        return _as_mapping(rows, columns)
    answer = _as_mapping(rows, columns)
    if any(isinstance(values, np.ndarray) for values in rows.values()):
        # A formatted dataset merges the original columns, and a stream of arrays compares only the numbers of rows.
        # Therefore return all columns if the input has arrays.
        return {name: _repeated(values, owners) for name, values in rows.items()} | answer
    as_many = len(owners) == len(column(names[0])) and not np.array_equal(owners, np.arange(len(owners)))
    if as_many and isinstance(rows, dict) and all(isinstance(values, list) for values in rows.values()):
        # A stream compares only the numbers of rows, which are equal here although the rows differ. Returning the batch
        # itself, with all columns repeated, keeps the columns aligned with their rows and lets `remove_columns` work.
        for name in names:
            rows[name] = [rows[name][owner] for owner in owners.tolist()]
        rows.update(answer)
        return rows
    return answer


def _repeated(values: Any, owners: NDArray[np.int64]) -> Any:
    return values[owners] if isinstance(values, np.ndarray) else [values[owner] for owner in owners.tolist()]
