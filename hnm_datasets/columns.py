"""The column contract: which columns the steps read and write, and how a batch is read and answered.

`Dataset.map` hands a step a lazy view of an Arrow table, `IterableDataset.map` a dict of lists, a formatted dataset a
dict of arrays, a table or a data frame, and so does Ray Data. `Batch` reads all of them as Arrow columns and answers in
the form it was asked in, so that a step knows nothing of where it runs. In a Ray worker alone a dict of arrays is
answered by a table: Ray would pickle its lists of texts and take its lists of numbers for tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hnm_datasets.fingerprint import digest_strings
from hnm_datasets.processes import in_ray_worker
from hnm_datasets.ragged import Ragged, offsets_of

QUERY_ID = "query_id"
QUERY = "query"
POSITIVE_IDS = "positive_ids"
JUDGED_NEGATIVE_IDS = "judged_negative_ids"
NEGATIVE_IDS = "negative_ids"
NEGATIVE_SCORES = "negative_scores"
NEGATIVE_RANKS = "negative_ranks"
NEGATIVE_SOURCE = "negative_source"
POSITIVE_SCORES = "positive_scores"

#: Who writes a column, for the error that says it is missing.
_MADE_BY = {
    QUERY: "rename your column to 'query', or load the rows with load_beir or from_pairs",
    POSITIVE_IDS: "add it with attach_positives (from qrels) or load the rows with load_beir or from_pairs",
    NEGATIVE_IDS: "mine first, for example with .map(BM25Negatives(corpus), batched=True)",
    NEGATIVE_SCORES: "mine first, for example with .map(BM25Negatives(corpus), batched=True)",
    NEGATIVE_RANKS: "mine first, for example with .map(BM25Negatives(corpus), batched=True)",
    POSITIVE_SCORES: "mine first, for example with .map(BM25Negatives(corpus), batched=True)",
}
_SCORED_BY = "score first, for example with .map(CrossEncoderScores(corpus, model, name={name!r}), batched=True)"


def score_column(by: str, of: str = "negative") -> str:
    """Name the score column that `by` means: `"score"` is the retriever's, anything else a teacher's name.

    Example:
        >>> score_column("score"), score_column("teacher"), score_column("teacher", of="positive")
        ('negative_scores', 'negative_teacher_scores', 'positive_teacher_scores')
    """
    return f"{of}_scores" if by == "score" else f"{of}_{by}_scores"


class ArrowColumns(dict[str, pa.Array]):
    """Columns for `Dataset.map` that reach its writer as Arrow arrays, without a detour through Python lists.

    `map` accepts only lists, arrays and pandas Series as the `values()` of what a function returns, and turns a Series
    into Python lists before it writes it. But it merges what is returned by item access into the batch, and its writer
    takes Arrow arrays as they are. So `values()` shows Series and the items are Arrow: six times faster.
    """

    def values(self) -> list[pd.Series[Any]]:  # type: ignore[override]
        """Show the columns as the pandas Series that `map` asks for."""
        return [pd.Series(_as_series(array)) for array in super().values()]


class Batch:
    """Some rows, read as Arrow columns whatever they came in.

    Args:
        rows: What `map` handed to the step: a lazy batch, a mapping of lists, arrays, Series or Arrow arrays, a
            `pyarrow.Table` or a `pandas.DataFrame`.
        step: The name of the step, for error messages.
    """

    def __init__(self, rows: Any, step: str) -> None:
        if not isinstance(rows, (Mapping, pa.Table, pd.DataFrame)):
            raise TypeError(
                f"{step} takes a batch of rows (a mapping of columns, a pyarrow.Table or a pandas.DataFrame), got "
                f"{type(rows).__name__}. Pass it to .map(..., batched=True)."
            )
        # Ray takes an answer for the whole batch, where `map` merges it.
        self.rows: Any = _as_table(rows, step) if _holds_arrays(rows) and in_ray_worker() else rows
        self.step = step
        names: Any = self.rows.column_names if isinstance(self.rows, pa.Table) else self.rows
        self.names: list[str] = list(names)
        self._keys: pa.Array | None = None

    def __len__(self) -> int:
        if isinstance(self.rows, Mapping) and not self._is_lazy:
            return len(next(iter(self.rows.values()))) if self.names else 0
        return len(self.rows.pa_table if self._is_lazy else self.rows)

    @property
    def _is_lazy(self) -> bool:
        return hasattr(self.rows, "keys_to_format")

    # ---- reading -------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Tell whether there is such a column."""
        return name in self.names

    def require(self, name: str) -> None:
        """Raise a KeyError that names the column, what there is, and who would have made it."""
        if name not in self.names:
            remedy = _MADE_BY.get(name) or _remedy_by_name(name) or "add it in an earlier step"
            raise KeyError(
                f"{self.step} needs the column {name!r}, and there are only {self.names}. To get it: {remedy}."
            )

    def column(self, name: str) -> pa.Array:
        """Return a column as one Arrow array, of whatever type it has."""
        self.require(name)
        if self._is_lazy and name in self.rows.keys_to_format:
            values = self.rows.pa_table[name]
        else:
            values = self.rows[name]
        return _as_arrow(values, name, self.step)

    def strings(self, name: str) -> pa.Array:
        """Return a column of texts, none of them null."""
        array = self.column(name)
        if pa.types.is_null(array.type):
            array = array.cast(pa.string())
        if not _is_string(array.type):
            raise TypeError(f"{self.step}: the column {name!r} must hold strings, got {array.type}.")
        if array.null_count:
            row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
            raise ValueError(
                f"{self.step}: the column {name!r} is null in {self.describe(row)}. Fill it or filter such rows out."
            )
        return array

    def string_lists(self, name: str) -> Ragged[pa.Array]:
        """Return a column of lists of texts. A null list counts as empty; a null inside a list is refused."""
        lists = self.lists(name)
        if pa.types.is_null(lists.values.type):
            lists = Ragged(lists.offsets, lists.values.cast(pa.string()))
        if not _is_string(lists.values.type):
            raise TypeError(
                f"{self.step}: the column {name!r} must be List(string), got lists of {lists.values.type}. "
                f"Cast it with .cast_column({name!r}, List(Value('string')))."
            )
        if lists.values.null_count:
            self._refuse(name, lists, lists.values.is_null().to_numpy(zero_copy_only=False), "holds a null")
        return lists

    def number_lists(self, name: str) -> Ragged[NDArray[np.generic]]:
        """Return a column of lists of numbers. A null or NaN inside a list is refused."""
        lists = self.lists(name)
        if pa.types.is_null(lists.values.type):
            lists = Ragged(lists.offsets, lists.values.cast(pa.float32()))
        if not (pa.types.is_integer(lists.values.type) or pa.types.is_floating(lists.values.type)):
            raise TypeError(f"{self.step}: the column {name!r} must be lists of numbers, got {lists.values.type}.")
        if lists.values.null_count:
            self._refuse(name, lists, lists.values.is_null().to_numpy(zero_copy_only=False), "holds a null")
        values = lists.values.to_numpy(zero_copy_only=False)
        if values.dtype.kind == "f":
            self._refuse(name, lists, np.isnan(values), "holds a NaN")
        return Ragged(lists.offsets, values)

    def candidates(self) -> dict[str, Ragged[pa.Array]]:
        """Return the aligned candidate lists: every list column that begins with `negative_`."""
        self.require(NEGATIVE_IDS)
        ids = self.string_lists(NEGATIVE_IDS)
        lists = {NEGATIVE_IDS: ids}
        for name in self.names:
            if name == NEGATIVE_IDS or not name.startswith("negative_"):
                continue
            array = self.column(name)
            if _is_list(array.type):
                lists[name] = _flatten(array)
                self.check_aligned(NEGATIVE_IDS, ids, name, lists[name])
        return lists

    def positives(self) -> dict[str, Ragged[pa.Array]]:
        """Return the aligned lists of positives: every list column that begins with `positive_`."""
        lists = {POSITIVE_IDS: self.string_lists(POSITIVE_IDS)}
        for name in self.names:
            if name.startswith("positive_") and name != POSITIVE_IDS and _is_list(self.column(name).type):
                lists[name] = _flatten(self.column(name))
        return lists

    def check_aligned(self, first: str, a: Ragged[Any], second: str, b: Ragged[Any]) -> None:
        """Raise unless two columns have lists of the same lengths."""
        if np.array_equal(a.offsets, b.offsets):
            return
        row = int(np.flatnonzero(a.lengths != b.lengths)[0])
        raise ValueError(
            f"{self.step}: {first!r} and {second!r} must be aligned, but in {self.describe(row)} they have "
            f"{a.lengths[row]} and {b.lengths[row]} values. Whoever changed one must change both: mine again, or drop "
            f"the column {second!r}."
        )

    def lists(self, name: str) -> Ragged[pa.Array]:
        """Return a column of lists of whatever type. A null list counts as empty."""
        array = self.column(name)
        if not _is_list(array.type) and not pa.types.is_null(array.type):
            raise TypeError(f"{self.step}: the column {name!r} must hold lists, got {array.type}.")
        return _flatten(array)

    def _refuse(self, name: str, lists: Ragged[pa.Array], bad: NDArray[np.bool_], what: str) -> None:
        if bad.any():
            row = int(lists.owners[np.flatnonzero(bad)[0]])
            raise ValueError(f"{self.step}: the column {name!r} {what} in {self.describe(row)}.")

    # ---- row keys ------------------------------------------------------------------------------------------------

    def row_keys(self) -> NDArray[np.uint64]:
        """Return 64 bits per row that depend on its `query_id`, or on its `query` where there is none. Shape (B,)."""
        return digest_strings(self._key_strings().to_pylist())[:, 0]

    def describe(self, row: int) -> str:
        """Name a row for a person, for example `the row with query_id 'q17'`."""
        for name in (QUERY_ID, QUERY):
            if self.has(name):
                text = repr(self.column(name)[row].as_py())
                return f"the row with {name} {text if len(text) <= 80 else text[:77] + '...'}"
        return f"row {row} of the batch"

    def _key_strings(self) -> pa.Array:
        if self._keys is None:
            self._keys = self.strings(QUERY_ID if self.has(QUERY_ID) else QUERY)
        return self._keys

    # ---- answering -----------------------------------------------------------------------------------------------

    def answer(self, columns: Mapping[str, pa.Array]) -> Any:
        """Return new or changed columns in the form that the batch came in.

        A mapping is answered by the columns alone, which `map` merges; a table or data frame, which `map` would take
        as the whole result, by itself with the columns put in.
        """
        if isinstance(self.rows, pa.Table):
            table = self.rows
            for name, array in columns.items():
                place = table.column_names.index(name) if name in table.column_names else -1
                table = table.append_column(name, array) if place < 0 else table.set_column(place, name, array)
            return table
        if isinstance(self.rows, pd.DataFrame):
            # Ray keeps what pandas knows the Arrow type of, and guesses the others.
            as_column = _as_series if in_ray_worker() else _as_objects
            return self.rows.assign(**{name: as_column(array) for name, array in columns.items()})
        return self.as_mapping(columns)

    def as_mapping(self, columns: Mapping[str, pa.Array]) -> Any:
        """Return columns as the kind of mapping that the batch is: Arrow, numpy or lists."""
        if self._is_lazy:
            return ArrowColumns(columns)
        if any(isinstance(values, np.ndarray) for values in self.rows.values()):
            return {name: _as_objects(array) for name, array in columns.items()}
        return {name: array.to_pylist() for name, array in columns.items()}


def _remedy_by_name(name: str) -> str | None:
    if name.startswith("negative_") and name.endswith("_ranks"):
        source = name.removesuffix("_ranks").removeprefix("negative_")
        return f"fuse a source of this name, for example with FuseNegatives({{{source!r}: ..., ...}})"
    teacher = name.removesuffix("_scores").removeprefix("negative_").removeprefix("positive_")
    return _SCORED_BY.format(name=teacher) if name == score_column(teacher, name[:8]) else None


def _is_string(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


def _holds_arrays(rows: Any) -> bool:
    return isinstance(rows, dict) and any(isinstance(values, np.ndarray) for values in rows.values())


def _as_table(rows: Any, step: str) -> pa.Table:
    """Make Ray's dict of arrays a table again; images and other objects stay as Ray keeps them."""
    columns = {}
    for name, values in rows.items():
        if getattr(values, "ndim", 1) == 1:
            try:
                array = _as_arrow(values, name, step)
                # By the contract these hold texts, which empty lists do not tell.
                is_untyped = pa.types.is_list(array.type) and pa.types.is_null(array.type.value_type)
                is_texts = is_untyped and name.endswith(("_ids", "_source"))
                columns[name] = array.cast(pa.list_(pa.string())) if is_texts else array
                continue
            except (TypeError, ValueError, pa.ArrowException):
                # Not of our columns.
                pass
        from ray.data.block import BlockAccessor

        columns[name] = BlockAccessor.batch_to_block({name: values})[name]
    return pa.table(columns)


def _as_arrow(values: Any, name: str, step: str) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
    if isinstance(values, pa.Array):
        # What a function on arrays has answered in Ray: pickled lists and tensors.
        return _of_arrays(values.to_pylist()) if isinstance(values.type, pa.BaseExtensionType) else values
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{step} got one row instead of a batch. Pass batched=True to .map.")
    if isinstance(values, pd.Series):
        return _as_arrow(pa.Array.from_pandas(values), name, step)
    if isinstance(values, np.ndarray) and (values.ndim > 1 or values.dtype == object):
        # A formatted dataset stacks lists of one length into a matrix, others into an array of arrays.
        values = list(values)
    elif not isinstance(values, (Sequence, np.ndarray)):
        values = [value.tolist() if hasattr(value, "tolist") else value for value in values]
    try:
        return _of_arrays(values) if isinstance(values, list) else pa.array(values)
    except pa.ArrowInvalid as error:
        raise TypeError(f"{step}: the column {name!r} mixes types: {error}") from error


def _of_arrays(values: list[Any]) -> pa.Array:
    """Read rows that may be arrays; lists of numbers keep their type, even if all are empty."""
    arrays = [value for value in values if isinstance(value, np.ndarray) and value.ndim == 1]
    nulls = np.fromiter((value is None for value in values), dtype=bool, count=len(values))
    kinds = {array.dtype.kind for array in arrays}
    # numpy makes any empty list one of float64.
    is_known = len(kinds) == 1 and (any(map(len, arrays)) or arrays[0].dtype != np.float64)
    if not is_known or len(arrays) + nulls.sum() < len(values):
        return pa.array([value.tolist() if isinstance(value, np.ndarray) else value for value in values])
    flat = np.concatenate(arrays)
    items = pa.array(flat.tolist() if kinds == {"O"} else flat)
    offsets = offsets_of(np.array([0 if value is None else len(value) for value in values]))
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), items, mask=pa.array(nulls))


def _as_series(array: pa.Array) -> pd.api.extensions.ExtensionArray:
    return pd.arrays.ArrowExtensionArray(array)


def _as_objects(array: pa.Array) -> NDArray[Any]:
    objects = np.empty(len(array), dtype=object)
    if _is_list(array.type):
        lists = _flatten(array)
        values = lists.values.to_numpy(zero_copy_only=False)
        # One by one: numpy would take lists of one length for a matrix.
        for row, part in enumerate(np.split(values, lists.offsets[1:-1]) if len(array) else []):
            objects[row] = part
        return objects
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _flatten(array: pa.Array) -> Ragged[pa.Array]:
    if pa.types.is_null(array.type):
        return Ragged(np.zeros(len(array) + 1, dtype=np.int64), pa.nulls(0))
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.zeros(len(array) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Ragged(offsets, array.flatten())
