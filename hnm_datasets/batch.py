"""Read a batch of rows in any format as Arrow columns, and return results in the same format.

`Dataset.map` passes a lazy view of an Arrow table to a step, `IterableDataset.map` passes a dict of lists. A formatted
dataset and Ray Data pass a dict of arrays, a table or a data frame. `Batch` reads all of them as Arrow columns and
returns results in the same format, so steps do not depend on where they run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hnm_datasets.answers import NewRows, answer_columns, answer_rows, column_names, is_polars
from hnm_datasets.arrays.arrow import as_arrow, flatten_lists, is_list, is_one_value, is_string, type_name
from hnm_datasets.arrays.ids import as_ids
from hnm_datasets.arrays.ragged import Ragged, interleave_lists
from hnm_datasets.columns import (
    KNOWN_POSITIVE_IDS,
    NEGATIVE_IDS,
    POSITIVE_IDS,
    QUERY,
    QUERY_ID,
)
from hnm_datasets.missing_columns import check_column
from hnm_datasets.runtime.ray_batches import holds_arrays, table_of_arrays
from hnm_datasets.runtime.workers import in_ray_worker
from hnm_datasets.storage.digests import digest_strings

#: The explanation of a null score, with a remedy.
_WITHOUT_SCORE = (
    " Sources such as search engines score only the passages they find. Score the rows with BiEncoderScores or "
    "CrossEncoderScores and use by='teacher', or filter such rows out."
)


class PassageIds(Protocol):
    """The methods of a corpus that are needed to look up ids; `Corpus` has them."""

    def __len__(self) -> int: ...

    def find(self, ids: pa.Array) -> NDArray[np.int64]:
        """Return the row number of each passage, -1 for unknown ids. Shape (B,)."""


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
        step: The calling step, for errors.
        name: The column of the ids, for errors.
        describe: Returns a description of a row, given its number, for errors.
        which: Look up only these flat positions; the others are 0. None for all.
    """
    asked = ids.values if which is None else ids.values.take(pa.array(which))
    found = corpus.find(asked)
    if (found < 0).any():
        at = int(np.flatnonzero(found < 0)[0])
        owner = int(ids.owners[at if which is None else which[at]])
        # Without its positive, a row is useless, and the passage may be mined as a negative.
        remedy = "remove the id from the column"
        if name in (POSITIVE_IDS, KNOWN_POSITIVE_IDS):
            remedy = "build corpus and rows together: from_pairs(dataset, ..., passages=...) or load_beir(...)"
        raise KeyError(
            f"{step}: {name!r} of {describe(owner)} names the passage {asked[at].as_py()!r}, which is not among the "
            f"{len(corpus)} passages of the corpus. Use the corpus that these ids belong to, or {remedy}."
        )
    if which is None:
        return Ragged(ids.offsets, found)
    rows = np.zeros(len(ids.values), dtype=np.int64)
    rows[which] = found
    return Ragged(ids.offsets, rows)


class Batch:
    """A batch of rows in any format, read as Arrow columns.

    Args:
        rows: A batch as `map` passes it: a lazy batch, a mapping of lists, arrays, Series or Arrow arrays, a
            `pyarrow.Table`, or a pandas or polars data frame.
        step: The name of the step, for error messages.
    """

    def __init__(self, rows: Any, step: str) -> None:
        if not isinstance(rows, (Mapping, pa.Table, pd.DataFrame)) and not is_polars(rows):
            raise TypeError(
                f"{step} takes a batch of rows (a mapping of columns, a pyarrow.Table, or a data frame of pandas or "
                f"polars), got {type(rows).__name__}. Pass the step to .map(..., batched=True)."
            )
        # `map` merges the result into the batch, but Ray uses it as the whole batch.
        self.rows: Any = table_of_arrays(rows, step) if holds_arrays(rows) and in_ray_worker() else rows
        self.step = step
        names: Any = self.rows if isinstance(self.rows, Mapping) else list(column_names(self.rows))
        self.names: list[str] = list(names)
        self._keys: pa.Array | None = None
        self._check_columns()

    def _check_columns(self) -> None:
        """Raise an error unless the columns have distinct names and one value per row."""
        for name in self.names:
            if not isinstance(name, str):
                raise TypeError(f"{self.step}: the name of the column {name!r} must be a string. Rename the column.")
        if len(set(self.names)) < len(self.names):
            name = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"{self.step}: there are several columns {name!r}. Rename or remove one of them.")
        if not isinstance(self.rows, Mapping):
            return
        # Columns that a lazy batch has not read yet have the length of its table.
        rows: Any = self.rows
        unread = rows.keys_to_format if self._is_lazy else ()
        known = [(name, len(rows.pa_table)) for name in self.names if name in unread][:1]
        for name in self.names:
            if name not in unread and is_one_value(rows[name]):
                raise TypeError(f"{self.step} got one row instead of a batch. Pass batched=True to .map.")
            if name not in unread and (length := _length(rows[name])) is not None:
                known.append((name, length))
        for name, length in known:
            if length != known[0][1]:
                raise ValueError(
                    f"{self.step}: the column {name!r} has {length} rows and the column {known[0][0]!r} has "
                    f"{known[0][1]}. All columns of a batch must have one value per row."
                )

    def __len__(self) -> int:
        if isinstance(self.rows, Mapping) and not self._is_lazy:
            return len(self.column(self.names[0])) if self.names else 0
        return len(self.rows.pa_table if self._is_lazy else self.rows)

    @property
    def _is_lazy(self) -> bool:
        return hasattr(self.rows, "keys_to_format")

    # ---- reading -------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Return whether the batch has a column."""
        return name in self.names

    def require(self, name: str, option: str = "by") -> None:
        """Raise a KeyError that names a missing column, the existing columns, and how to get the missing one.

        Args:
            name: The column.
            option: The option of the step that selects the scores.
        """
        if name not in self.names:
            texts = [column for column in self.names if is_string(self.column(column).type)]
            check_column(self.step, name, self.names, option, texts)

    def column(self, name: str) -> pa.Array:
        """Return a column as one Arrow array of any type."""
        self.require(name)
        if self._is_lazy and name in self.rows.keys_to_format:
            values = self.rows.pa_table[name]
        else:
            values = self.rows[name]
        return as_arrow(values, name, self.step)

    def strings(self, name: str) -> pa.Array:
        """Return a column of texts without nulls."""
        array = self.column(name)
        if pa.types.is_null(array.type):
            array = array.cast(pa.string())
        if not is_string(array.type):
            raise TypeError(f"{self.step}: the column {name!r} must hold strings, got {type_name(array.type)}.")
        return self._without_null(name, array)

    def ids(self, name: str) -> pa.Array:
        """Return a column of ids as texts without nulls; ids may be whole numbers."""
        array = as_ids(self.column(name), f"the column {name!r}", self.step, "row {} of the batch".format)
        return self._without_null(name, array)

    def _without_null(self, name: str, array: pa.Array) -> pa.Array:
        if array.null_count:
            row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
            raise ValueError(
                f"{self.step}: the column {name!r} is null in {self.describe(row)}. Fill it or filter such rows out."
            )
        return array

    def queries(self) -> pa.Array:
        """Return the queries; raise an error if one is blank."""
        queries = self.strings(QUERY)
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(queries)), 0).to_numpy(zero_copy_only=False)
        if blank.any():
            raise ValueError(
                f"{self.step}: the column 'query' is empty in {self.describe(int(np.flatnonzero(blank)[0]))}. Filter "
                f"such rows out: dataset.filter(lambda row: row['query'].strip())."
            )
        return queries

    def id_lists(self, name: str) -> Ragged[pa.Array]:
        """Return a column of lists of ids as texts; ids may be whole numbers.

        A null list counts as empty; a null inside a list raises an error.
        """
        lists = self.lists(name)

        def describe(at: int) -> str:
            return self.describe(int(lists.owners[at]))

        ids = Ragged(lists.offsets, as_ids(lists.values, f"the column {name!r}", self.step, describe))
        if ids.values.null_count:
            self._refuse(name, ids, ids.values.is_null().to_numpy(zero_copy_only=False), "holds a null")
        return ids

    def string_lists(self, name: str) -> Ragged[pa.Array]:
        """Return a column of lists of texts. A null list counts as empty; a null inside a list raises an error."""
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
        """Return a column of lists of numbers. A null or NaN inside a list raises an error."""
        lists = self.lists(name)
        if pa.types.is_null(lists.values.type):
            lists = Ragged(lists.offsets, lists.values.cast(pa.float32()))
        if not (pa.types.is_integer(lists.values.type) or pa.types.is_floating(lists.values.type)):
            raise TypeError(
                f"{self.step}: the column {name!r} must be lists of numbers, got {type_name(lists.values.type)}."
            )
        remedy = _WITHOUT_SCORE if name.endswith("_scores") else ""
        if lists.values.null_count:
            self._refuse(name, lists, lists.values.is_null().to_numpy(zero_copy_only=False), "holds a null", remedy)
        values = lists.values.to_numpy(zero_copy_only=False)
        if values.dtype.kind == "f":
            self._refuse(name, lists, np.isnan(values), "holds a NaN", remedy)
        return Ragged(lists.offsets, values)

    def scores(self, name: str, *, finite: bool = False) -> Ragged[NDArray[np.generic]]:
        """Return a column of lists of numbers that are aligned with `negative_ids` or `positive_ids`.

        Args:
            name: The column, such as `negative_scores`.
            finite: Raise an error for infinite numbers too.

        Raises:
            ValueError: The lists differ in length from the lists of ids, or contain a null, a NaN or (with `finite`) an
                infinite number.
        """
        numbers = self.number_lists(name)
        ids = POSITIVE_IDS if name.startswith("positive_") else NEGATIVE_IDS
        if self.has(ids):
            self.check_aligned(ids, self.lists(ids), name, numbers)
        if finite and numbers.values.dtype.kind == "f":
            self._refuse(name, self.lists(name), ~np.isfinite(numbers.values), "holds an infinite score")
        return numbers

    def rows_in(
        self, name: str, corpus: PassageIds, which: NDArray[np.int64] | None = None
    ) -> Ragged[NDArray[np.int64]]:
        """Return the row numbers in a corpus of the passages in a column of id lists.

        Args:
            name: The column.
            corpus: The passages.
            which: Look up only these flat positions of the column; the others are 0. None for all.

        Raises:
            KeyError: An id is not in the corpus.
        """
        return rows_of_ids(self.id_lists(name), corpus, self.step, name, self.describe, which)

    def known_positives_in(self, corpus: PassageIds) -> Ragged[NDArray[np.int64]]:
        """Return the row numbers of each row's positives, followed by those of other rows with the same question.

        Raises:
            KeyError: An id is not in the corpus.
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
        ids = self.id_lists(NEGATIVE_IDS)
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
        lists = {POSITIVE_IDS: self.id_lists(POSITIVE_IDS)}
        for name in self.names:
            if name.startswith("positive_") and name != POSITIVE_IDS and is_list(self.column(name).type):
                lists[name] = flatten_lists(self.column(name))
        return lists

    def check_aligned(self, first: str, a: Ragged[Any], second: str, b: Ragged[Any]) -> None:
        """Raise an error unless two columns have lists of the same lengths."""
        if np.array_equal(a.offsets, b.offsets):
            return
        row = int(np.flatnonzero(a.lengths != b.lengths)[0])
        raise ValueError(
            f"{self.step}: {first!r} and {second!r} must be aligned, but in {self.describe(row)} they have "
            f"{a.lengths[row]} and {b.lengths[row]} values. One of them was changed alone: mine again, or remove the "
            f"column {second!r}."
        )

    def lists(self, name: str) -> Ragged[pa.Array]:
        """Return a column of lists of any type. A null list counts as empty."""
        array = self.column(name)
        if not is_list(array.type) and not pa.types.is_null(array.type):
            raise TypeError(
                f"{self.step}: the column {name!r} must hold lists, got {type_name(array.type)}. Wrap single values "
                f"in lists: dataset.map(lambda row: {{{name!r}: [row[{name!r}]]}})."
            )
        return flatten_lists(array)

    def _refuse(self, name: str, lists: Ragged[pa.Array], bad: NDArray[np.bool_], what: str, remedy: str = "") -> None:
        if bad.any():
            row = int(lists.owners[np.flatnonzero(bad)[0]])
            raise ValueError(f"{self.step}: the column {name!r} {what} in {self.describe(row)}.{remedy}")

    # ---- row keys ------------------------------------------------------------------------------------------------

    def row_keys(self) -> NDArray[np.uint64]:
        """Return 64 bits per row that depend on its `query_id` or, without it, on its `query`. Shape (B,)."""
        return digest_strings(self._key_strings().to_pylist())[:, 0]

    def describe(self, row: int) -> str:
        """Describe a row for messages, for example `the row with query_id 'q17'`."""
        for name in (QUERY_ID, QUERY):
            if self.has(name):
                text = repr(self.column(name)[row].as_py())
                return f"the row with {name} {text if len(text) <= 80 else text[:77] + '...'}"
        return f"row {row} of the batch"

    def _key_strings(self) -> pa.Array:
        if self._keys is None:
            self._keys = self.ids(QUERY_ID) if self.has(QUERY_ID) else self.strings(QUERY)
        return self._keys

    # ---- results -------------------------------------------------------------------------------------------------

    def answer(self, columns: Mapping[str, pa.Array] | NewRows) -> Any:
        """Return new or changed columns, or new rows, in the format of the batch; see `answers.py`."""
        if isinstance(columns, NewRows):
            return answer_rows(self.rows, self.names, self.column, columns, self.step)
        return answer_columns(self.rows, columns)


def _length(values: Any) -> int | None:
    """Return the number of rows of a column, or None if it has no length, as some iterators."""
    return len(values) if hasattr(values, "__len__") else None
