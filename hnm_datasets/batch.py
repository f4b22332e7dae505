"""A batch of rows in whatever form it came, read as Arrow columns, and the answer in that form.

`Dataset.map` passes a step a lazy view of an Arrow table, `IterableDataset.map` a dict of lists, a formatted dataset a
dict of arrays, a table or a data frame, and so does Ray Data. `Batch` reads all of them as Arrow columns and answers in
the same form, so that a step does not know where it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import as_arrow, as_objects, as_series, flatten_lists, is_list, is_string, type_name
from hnm_datasets.arrays.ragged import Ragged, interleave_lists
from hnm_datasets.columns import (
    JUDGED_NEGATIVE_IDS,
    KNOWN_POSITIVE_IDS,
    NEGATIVE_IDS,
    NEGATIVE_RANKS,
    NEGATIVE_SCORES,
    POSITIVE_IDS,
    POSITIVE_SCORES,
    QUERY,
    QUERY_ID,
    score_column,
)
from hnm_datasets.runtime.ray_batches import holds_arrays, table_of_arrays
from hnm_datasets.runtime.workers import in_ray_worker
from hnm_datasets.storage.digests import digest_strings

#: Who writes a column, for the error that says it is missing.
_MADE_BY = {
    QUERY: "rename your column to 'query', or load the rows with load_beir or from_pairs",
    POSITIVE_IDS: "add it with attach_positives (from qrels) or load the rows with load_beir or from_pairs",
    JUDGED_NEGATIVE_IDS: "load judgments with load_beir, or add them with attach_positives; both write this column",
    NEGATIVE_IDS: "mine first, for example with .map(BM25Negatives(corpus), batched=True)",
    NEGATIVE_SCORES: "mine first, for example with .map(BM25Negatives(corpus), batched=True)",
    NEGATIVE_RANKS: "mine first, for example with .map(BM25Negatives(corpus), batched=True)",
    POSITIVE_SCORES: "mine first, for example with .map(BM25Negatives(corpus), batched=True)",
}
_SCORED_BY = "score first, for example with .map(CrossEncoderScores(corpus, model, name={name!r}), batched=True)"


class ArrowColumns(dict[str, pa.Array]):
    """Columns for `Dataset.map` that reach its writer as Arrow arrays, without a detour through Python lists.

    `map` accepts only lists, arrays and pandas Series as the `values()` of what a function returns, and turns a Series
    into Python lists before it writes it. But it merges what is returned by item access into the batch, and its writer
    takes Arrow arrays as they are. So `values()` shows Series and the items are Arrow: six times faster.
    """

    def values(self) -> list[pd.Series[Any]]:  # type: ignore[override]
        """Show the columns as the pandas Series that `map` asks for."""
        return [pd.Series(as_series(array)) for array in super().values()]


class PassageIds(Protocol):
    """What a batch must know of a corpus to look ids up: `Corpus` is one."""

    def __len__(self) -> int: ...

    def find(self, ids: pa.Array) -> NDArray[np.int64]:
        """Return the row number of each passage, -1 where there is none. Shape (B,)."""


def rows_of_ids(
    ids: Ragged[pa.Array],
    corpus: PassageIds,
    step: str,
    name: str,
    describe: Callable[[int], str],
    which: NDArray[np.int64] | None = None,
) -> Ragged[NDArray[np.int64]]:
    """Return the row numbers of passages in a corpus; see `Batch.rows_in`.

    Args:
        ids: B lists of ids.
        corpus: The passages.
        step: The step that asks, for the error.
        name: The column of the ids, for the error.
        describe: Names a row for a person, given its number, for the error.
        which: Look up only these flat positions; the others are 0. None: all.
    """
    asked = ids.values if which is None else ids.values.take(pa.array(which))
    found = corpus.find(asked)
    if (found < 0).any():
        at = int(np.flatnonzero(found < 0)[0])
        owner = int(ids.owners[at if which is None else which[at]])
        raise KeyError(
            f"{step}: {name!r} of {describe(owner)} names the passage {asked[at].as_py()!r}, which is not among the "
            f"{len(corpus)} passages of the corpus. Use the corpus that these ids belong to, or take the id out of the "
            f"column."
        )
    if which is None:
        return Ragged(ids.offsets, found)
    rows = np.zeros(len(ids.values), dtype=np.int64)
    rows[which] = found
    return Ragged(ids.offsets, rows)


class NewRows(NamedTuple):
    """The answer of a step that changes the number of rows.

    Attributes:
        owners: The batch's row that each new row comes from. Shape (M,).
        columns: The columns that the step writes. Shape (M,) each.
    """

    owners: NDArray[np.int64]
    columns: dict[str, pa.Array]


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
        self.rows: Any = table_of_arrays(rows, step) if holds_arrays(rows) and in_ray_worker() else rows
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
        return as_arrow(values, name, self.step)

    def strings(self, name: str) -> pa.Array:
        """Return a column of texts, none of them null."""
        array = self.column(name)
        if pa.types.is_null(array.type):
            array = array.cast(pa.string())
        if not is_string(array.type):
            raise TypeError(f"{self.step}: the column {name!r} must hold strings, got {type_name(array.type)}.")
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
        if not is_string(lists.values.type):
            raise TypeError(
                f"{self.step}: the column {name!r} must be List(string), got lists of {type_name(lists.values.type)}. "
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
            raise TypeError(
                f"{self.step}: the column {name!r} must be lists of numbers, got {type_name(lists.values.type)}."
            )
        if lists.values.null_count:
            self._refuse(name, lists, lists.values.is_null().to_numpy(zero_copy_only=False), "holds a null")
        values = lists.values.to_numpy(zero_copy_only=False)
        if values.dtype.kind == "f":
            self._refuse(name, lists, np.isnan(values), "holds a NaN")
        return Ragged(lists.offsets, values)

    def rows_in(
        self, name: str, corpus: PassageIds, which: NDArray[np.int64] | None = None
    ) -> Ragged[NDArray[np.int64]]:
        """Return the row numbers in a corpus of the passages that a column of id lists names.

        Args:
            name: The column.
            corpus: The passages.
            which: Look up only these flat positions of the column; the others are 0. None: all.

        Raises:
            KeyError: The corpus has no passage of such an id.
        """
        return rows_of_ids(self.string_lists(name), corpus, self.step, name, self.describe, which)

    def known_positives_in(self, corpus: PassageIds) -> Ragged[NDArray[np.int64]]:
        """Return the row numbers of each row's positives, then of those of other rows with the same question.

        Raises:
            KeyError: The corpus has no passage of such an id.
        """
        own = self.rows_in(POSITIVE_IDS, corpus)
        if not self.has(KNOWN_POSITIVE_IDS):
            return own
        others = self.rows_in(KNOWN_POSITIVE_IDS, corpus)
        offsets, order = interleave_lists(own, others)
        return Ragged(offsets, np.concatenate([own.values, others.values])[order])

    def candidates(self) -> dict[str, Ragged[pa.Array]]:
        """Return the aligned candidate lists: every list column that begins with `negative_`."""
        self.require(NEGATIVE_IDS)
        ids = self.string_lists(NEGATIVE_IDS)
        lists = {NEGATIVE_IDS: ids}
        for name in self.names:
            if name == NEGATIVE_IDS or not name.startswith("negative_"):
                continue
            array = self.column(name)
            if is_list(array.type):
                lists[name] = flatten_lists(array)
                self.check_aligned(NEGATIVE_IDS, ids, name, lists[name])
        return lists

    def positives(self) -> dict[str, Ragged[pa.Array]]:
        """Return the aligned lists of positives: every list column that begins with `positive_`."""
        lists = {POSITIVE_IDS: self.string_lists(POSITIVE_IDS)}
        for name in self.names:
            if name.startswith("positive_") and name != POSITIVE_IDS and is_list(self.column(name).type):
                lists[name] = flatten_lists(self.column(name))
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
        if not is_list(array.type) and not pa.types.is_null(array.type):
            raise TypeError(f"{self.step}: the column {name!r} must hold lists, got {type_name(array.type)}.")
        return flatten_lists(array)

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

    def answer(self, columns: Mapping[str, pa.Array] | NewRows) -> Any:
        """Return new or changed columns, or new rows, in the form that the batch came in.

        A mapping is answered by the columns alone, which `map` merges; a table or data frame, which `map` would take
        as the whole result, by itself with the columns put in.
        """
        if isinstance(columns, NewRows):
            return self._with_new_rows(*columns)
        if isinstance(self.rows, pa.Table):
            table = self.rows
            for name, array in columns.items():
                at = table.column_names.index(name) if name in table.column_names else -1
                table = table.append_column(name, array) if at < 0 else table.set_column(at, name, array)
            return table
        if isinstance(self.rows, pd.DataFrame):
            # Ray keeps what pandas knows the Arrow type of, and guesses the others.
            as_column = as_series if in_ray_worker() else as_objects
            return self.rows.assign(**{name: as_column(array) for name, array in columns.items()})
        return self._as_mapping(columns)

    def _as_mapping(self, columns: Mapping[str, pa.Array]) -> Any:
        """Return columns as the kind of mapping that the batch is: Arrow, numpy or lists."""
        if self._is_lazy:
            return ArrowColumns(columns)
        if any(isinstance(values, np.ndarray) for values in self.rows.values()):
            return {name: as_objects(array) for name, array in columns.items()}
        return {name: array.to_pylist() for name, array in columns.items()}

    def _with_new_rows(self, owners: NDArray[np.int64], columns: dict[str, pa.Array]) -> Any:
        """Return new rows beside the batch's other columns, each repeated for the rows that come from it.

        The lists of positives and negatives and the query are used up.
        """
        taken = [name for name in columns if self.has(name)]
        if taken:
            raise ValueError(
                f"{self.step} writes the columns {list(columns)}, and the rows have {taken} already. Rename or remove "
                f"them first."
            )
        rows: Any = self.rows
        used = {name for name in self.names if name.startswith(("negative_", "positive_"))}
        used |= {QUERY, KNOWN_POSITIVE_IDS} & set(self.names)
        others = [name for name in self.names if name not in used]
        if isinstance(rows, pa.Table):
            return pa.table({name: self.column(name).take(pa.array(owners)) for name in others} | columns)
        if isinstance(rows, pd.DataFrame):
            repeated = rows[others].iloc[owners].reset_index(drop=True)
            return Batch(repeated, self.step).answer(columns)
        if self._is_lazy:
            # `map` merges the changes that are made in this batch in place, and takes `remove_columns` away from it.
            for name in others:
                rows[name] = self.column(name).take(pa.array(owners))
            for name in used:
                del rows[name]
            return self._as_mapping(columns)
        new = self._as_mapping(columns)
        if any(isinstance(values, np.ndarray) for values in rows.values()):
            # A formatted dataset merges the columns as they were before, and a stream of arrays compares only numbers
            # of rows: a step that is asked in arrays answers with all columns.
            return {name: _repeated(values, owners) for name, values in rows.items()} | new
        as_many = len(owners) == len(self) and not np.array_equal(owners, np.arange(len(self)))
        if as_many and isinstance(rows, dict) and all(isinstance(values, list) for values in rows.values()):
            # A stream compares only the numbers of rows, and here they agree although the rows do not. Returning the
            # batch itself, with all its columns repeated, keeps them beside their rows and lets `remove_columns` work.
            for name in self.names:
                rows[name] = [rows[name][owner] for owner in owners.tolist()]
            rows.update(new)
            return rows
        return new


def _repeated(values: Any, owners: NDArray[np.int64]) -> Any:
    return values[owners] if isinstance(values, np.ndarray) else [values[owner] for owner in owners.tolist()]


def _remedy_by_name(name: str) -> str | None:
    if name.startswith("negative_") and name.endswith("_ranks"):
        source = name.removesuffix("_ranks").removeprefix("negative_")
        return f"fuse a source of this name, for example with FuseNegatives({{{source!r}: ..., ...}})"
    teacher = name.removesuffix("_scores").removeprefix("negative_").removeprefix("positive_")
    return _SCORED_BY.format(name=teacher) if name == score_column(teacher, name[:8]) else None
