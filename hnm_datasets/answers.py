"""The answer of a step, in the form that its batch came in."""

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
    """Columns for `Dataset.map` that reach its writer as Arrow arrays, without a detour through Python lists.

    `map` accepts only lists, arrays and pandas Series as the `values()` of what a function returns, and turns a Series
    into Python lists before it writes it. But it merges what is returned by item access into the batch, and its writer
    takes Arrow arrays as they are. So `values()` shows Series and the items are Arrow: six times faster.
    """

    def values(self) -> list[pd.Series[Any]]:  # type: ignore[override]
        """Show the columns as the pandas Series that `map` asks for."""
        return [pd.Series(as_series(array)) for array in super().values()]


class NewRows(NamedTuple):
    """The answer of a step that changes the number of rows.

    Attributes:
        owners: The batch's row that each new row comes from. Shape (M,).
        columns: The columns that the step writes. Shape (M,) each.
    """

    owners: NDArray[np.int64]
    columns: dict[str, pa.Array]


def is_polars(rows: Any) -> bool:
    """Return whether this is a data frame of polars, which is never imported here."""
    polars: Any = sys.modules.get("polars")
    return polars is not None and isinstance(rows, polars.DataFrame)


def column_names(rows: Any) -> Sequence[str]:
    """Return the names of the columns of a table or data frame."""
    names: Sequence[str] = rows.column_names if isinstance(rows, pa.Table) else rows.columns
    return names


def answer_columns(rows: Any, columns: Mapping[str, pa.Array]) -> Any:
    """Return new or changed columns in the form of the rows.

    A mapping is answered by the columns alone, which `map` merges; a table or data frame, which `map` would take as the
    whole result, by itself with the columns put in.
    """
    if isinstance(rows, pa.Table):
        for name, array in columns.items():
            at = rows.column_names.index(name) if name in rows.column_names else -1
            rows = rows.append_column(name, array) if at < 0 else rows.set_column(at, name, array)
        return rows
    if isinstance(rows, pd.DataFrame):
        # Ray keeps what pandas knows the Arrow type of, and guesses the others.
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
    """Return new rows beside the other columns of the old ones, each repeated for the rows that come from it.

    The lists of positives and negatives and the query are used up.

    Args:
        rows: The batch.
        names: The names of its columns.
        column: Reads a column of it.
        new: The new rows.
        step: The step that made them, for the error.
    """
    owners, columns = new
    taken = [name for name in columns if name in names]
    if taken:
        raise ValueError(
            f"{step} writes the columns {list(columns)}, and the rows have {taken} already. Rename or remove them "
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
        # `map` merges the changes that are made in this batch in place, and takes `remove_columns` away from it.
        for name in others:
            rows[name] = column(name).take(pa.array(owners))
        for name in used:
            del rows[name]
        return _as_mapping(rows, columns)
    answer = _as_mapping(rows, columns)
    if any(isinstance(values, np.ndarray) for values in rows.values()):
        # A formatted dataset merges the columns as they were before, and a stream of arrays compares only numbers of
        # rows: a step that is asked in arrays answers with all columns.
        return {name: _repeated(values, owners) for name, values in rows.items()} | answer
    as_many = len(owners) == len(column(names[0])) and not np.array_equal(owners, np.arange(len(owners)))
    if as_many and isinstance(rows, dict) and all(isinstance(values, list) for values in rows.values()):
        # A stream compares only the numbers of rows, and here they agree although the rows do not. Returning the batch
        # itself, with all its columns repeated, keeps them beside their rows and lets `remove_columns` work.
        for name in names:
            rows[name] = [rows[name][owner] for owner in owners.tolist()]
        rows.update(answer)
        return rows
    return answer


def _repeated(values: Any, owners: NDArray[np.int64]) -> Any:
    return values[owners] if isinstance(values, np.ndarray) else [values[owner] for owner in owners.tolist()]
