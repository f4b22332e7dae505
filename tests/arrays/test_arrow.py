"""Arrow arrays from whatever holds a column, and back."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets.arrays.arrow import (
    array_of_rows,
    as_arrow,
    as_objects,
    as_series,
    flatten_lists,
    is_list,
    is_string,
    list_array,
    type_name,
)
from hnm_datasets.batch import Batch

TEXTS = ["a", "", "ä", None]
LISTS = [[1, 2], [], None, [3]]


def read(values):
    return as_arrow(values, "column", "Step")


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.string_view()])
def test_types_of_texts(type_):
    assert is_string(type_)
    assert not is_list(type_)
    assert not is_string(pa.list_(type_))


@pytest.mark.parametrize("type_", [pa.list_(pa.int8()), pa.large_list(pa.int8()), pa.list_(pa.int8(), 3)])
def test_types_of_lists(type_):
    assert is_list(type_)
    assert not is_string(type_)


@pytest.mark.parametrize("type_", [pa.int64(), pa.null(), pa.binary(), pa.float32(), pa.struct([("a", pa.string())])])
def test_other_types(type_):
    assert not is_string(type_)
    assert not is_list(type_)


HOLDERS = {
    "list": lambda values, type_: values,
    "tuple": lambda values, type_: tuple(values),
    "array": lambda values, type_: pa.array(values, type_),
    "chunks": lambda values, type_: pa.chunked_array([pa.array(values[:1], type_), pa.array(values[1:], type_)]),
    "chunk": lambda values, type_: pa.chunked_array([pa.array(values, type_)]),
    "series": lambda values, type_: pd.Series(values, dtype=object),
    "arrow series": lambda values, type_: pd.Series(pd.arrays.ArrowExtensionArray(pa.array(values, type_))),
    "objects": lambda values, type_: np.array([*values, 0], dtype=object)[:-1],
    "column": lambda values, type_: Dataset.from_dict({"column": pa.array(values, type_)})["column"],
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize(("values", "type_"), [(TEXTS, pa.string()), (LISTS, pa.list_(pa.int64()))])
def test_every_holder_reads_the_same(holder, values, type_):
    found = read(HOLDERS[holder](values, type_))
    assert isinstance(found, pa.Array)
    assert found.to_pylist() == values
    assert found.type == type_


def test_no_chunks_keep_their_type():
    found = read(pa.chunked_array([], pa.list_(pa.string())))
    assert (len(found), found.type) == (0, pa.list_(pa.string()))


@pytest.mark.parametrize(
    ("values", "wanted", "type_"),
    [
        (np.array([1, 2], dtype=np.int32), [1, 2], pa.int32()),
        (np.array([[1, 2], [3, 4]], dtype=np.float32), [[1, 2], [3, 4]], pa.list_(pa.float32())),
        (np.array(["a", "b"]), ["a", "b"], pa.string()),
        (np.zeros((2, 0), dtype=np.int64), [[], []], pa.list_(pa.int64())),
    ],
    ids=["numbers", "a matrix", "texts", "empty lists"],
)
def test_numpy_keeps_its_type(values, wanted, type_):
    found = read(values)
    assert found.to_pylist() == wanted
    assert found.type == type_


def test_a_holder_that_is_only_iterable_is_read():
    class Numbers:
        def __iter__(self):
            yield from (np.int64(3), np.array([1, 2])[1], 5)

    assert read(Numbers()).to_pylist() == [3, 2, 5]


def test_what_ray_pickles_is_read_as_rows():
    class Kept(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.list_(pa.int64()), "tests.kept")

        def __arrow_ext_serialize__(self):
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type, serialized):
            return cls()

    found = read(pa.ExtensionArray.from_storage(Kept(), pa.array([[1], [2, 3]])))
    assert found.type == pa.list_(pa.int64())
    assert found.to_pylist() == [[1], [2, 3]]


@pytest.mark.parametrize("row", ["a row", b"a row"])
def test_one_row_is_no_batch(row):
    with pytest.raises(TypeError, match=r"Step got one row instead of a batch. Pass batched=True"):
        read(row)


@pytest.mark.parametrize("values", [["a", 1], [1, "a"], ("a", 1), [[1], "a"], [{"a": 1}, "a"]], ids=str)
def test_mixed_types_name_the_column_and_the_step(values):
    with pytest.raises(TypeError, match="Step: the column 'column' mixes types"):
        read(values)


DTYPES = st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint16])


@given(DTYPES, st.lists(st.none() | st.lists(st.integers(0, 9), max_size=3), max_size=6))
def test_rows_of_arrays_keep_their_type(dtype, rows):
    arrays = [None if row is None else np.array(row, dtype=dtype) for row in rows]
    found = array_of_rows(arrays)
    assert found.to_pylist() == rows
    # Of empty lists numpy makes float64, so only that says nothing.
    known = any(rows) or (dtype is not np.float64 and any(row is not None for row in rows))
    if known:
        assert found.type == pa.list_(pa.from_numpy_dtype(dtype))
    elif rows:
        assert found.type in (pa.null(), pa.list_(pa.null()))


@pytest.mark.parametrize(
    "rows",
    [
        [np.array(["a", "b"], dtype=object), np.array([], dtype=object)],
        [np.array([1, 2]), [3]],
        [np.array([], dtype=np.float64), np.array([1, 2])],
        [np.array([[1, 2], [3, 4]]), np.array([[5, 6]])],
        [np.array([], dtype=np.float64), np.array(["a"], dtype=object)],
    ],
    ids=["texts", "an array and a list", "one of unknown type", "matrices", "unknown type and texts"],
)
def test_rows_of_other_arrays(rows):
    assert array_of_rows(rows).to_pylist() == [np.asarray(row).tolist() for row in rows]


# ---- lists -----------------------------------------------------------------------------------------------------------

ROWS = st.lists(st.none() | st.lists(st.none() | st.text(max_size=3), max_size=4), max_size=8)


@given(ROWS, st.sampled_from([pa.list_, pa.large_list]), st.integers(0, 3), st.integers(0, 8))
def test_lists_are_flattened(rows, list_of, start, length):
    array = pa.array(rows, list_of(pa.string())).slice(start, length)
    lists = flatten_lists(array)
    part = rows[start : start + length]
    wanted = [row or [] for row in part]
    values = lists.values.to_pylist()
    assert [values[a:b] for a, b in zip(lists.offsets, lists.offsets[1:], strict=False)] == wanted
    assert len(values) == sum(map(len, wanted))
    assert lists.offsets.dtype == np.int64


def test_values_under_a_null_list_are_no_values():
    # Arrow may keep what was in a list that has become null.
    array = pa.ListArray.from_arrays(pa.array([0, 2, 4]), pa.array([1, 2, 3, 4]), mask=pa.array([True, False]))
    lists = flatten_lists(array)
    assert (lists.offsets.tolist(), lists.values.to_pylist()) == ([0, 0, 2], [3, 4])


@pytest.mark.parametrize("rows", [[[1, 2], [3, 4]], [[1, 2], None, [5, 6]], [None]])
def test_lists_of_one_fixed_length_are_flattened(rows):
    lists = flatten_lists(pa.array(rows, pa.list_(pa.int64(), 2)))
    assert lists.lengths.tolist() == [len(row or []) for row in rows]
    assert lists.values.to_pylist() == [value for row in rows for value in row or []]


def test_a_column_of_nulls_is_one_of_empty_lists():
    lists = flatten_lists(pa.nulls(3))
    assert (lists.offsets.tolist(), len(lists.values)) == ([0, 0, 0, 0], 0)


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=6))
def test_a_list_array_is_what_datasets_writes(rows):
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    array = list_array(offsets, pa.array([value for row in rows for value in row], pa.int64()))
    assert array.to_pylist() == rows
    assert array.type == pa.list_(pa.int64())
    assert Dataset.from_dict({"lists": array})["lists"][:] == rows


# ---- back to numpy and pandas ----------------------------------------------------------------------------------------


@given(st.lists(st.none() | st.lists(st.integers(0, 9), max_size=3), max_size=6))
def test_lists_become_one_array_each(rows):
    array = pa.array(rows, pa.list_(pa.int32()))
    found = as_objects(array)
    assert (found.shape, found.dtype) == ((len(rows),), object)
    assert all(isinstance(row, np.ndarray) and row.dtype == np.int32 for row in found)
    assert [row.tolist() for row in found] == [row or [] for row in rows]


def test_lists_of_one_length_are_no_matrix():
    found = as_objects(pa.array([[1, 2], [3, 4]]))
    assert found.shape == (2,)
    assert found[1].tolist() == [3, 4]


@pytest.mark.parametrize(
    ("values", "dtype"), [([1, 2], np.int64), ([0.5, 1.5], np.float64), (["a", "ä"], object), ([[], []], object)]
)
def test_other_columns_become_plain_arrays(values, dtype):
    found = as_objects(pa.array(values))
    assert found.dtype == dtype
    assert len(found) == 2


def test_a_series_shares_the_array():
    array = pa.array([[1], None, [2, 3]])
    series = pd.Series(as_series(array))
    assert series.dtype == pd.ArrowDtype(array.type)
    assert pa.array(series).equals(array)
    assert pa.Array.from_pandas(series).buffers()[1].address == array.buffers()[1].address


def test_names_of_fields_neither_reach_a_terminal_nor_fill_it():
    assert type_name(pa.struct([("\x1b[31m\u202e", pa.int64())])) == r"struct<\x1b[31m\u202e: int64>"
    assert len(type_name(pa.struct([(f"field {number}", pa.int64()) for number in range(1000)]))) == 201
    with pytest.raises(TypeError, match=r"must hold strings, got struct<\\x1b: int64>"):
        Batch({"query": pa.array([{"\x1b": 1}])}, "test").strings("query")
