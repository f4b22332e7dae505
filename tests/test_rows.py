"""Rows that a user hands over, in whatever form, become a `Dataset` or are refused with a way out."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, List, Value

from hnm_datasets import from_pairs
from hnm_datasets.rows import dataset_of

COLUMNS = {"query": ["a?", "b?", None], "positive_ids": [["x", "y"], [], ["z"]], "n": [1, 2, 3]}
LIST = [dict(zip(COLUMNS, values, strict=True)) for values in zip(*COLUMNS.values(), strict=True)]
TABLE = pa.table(COLUMNS)
FORMS = {
    "dict of lists": COLUMNS,
    "dict of anything": {
        "query": pd.Series(COLUMNS["query"]),
        "positive_ids": tuple(map(np.array, COLUMNS["positive_ids"])),
        "n": np.array(COLUMNS["n"]),
    },
    "list of dicts": LIST,
    "tuple of dicts": tuple(LIST),
    "table": TABLE,
    "table in chunks": pa.concat_tables([TABLE[:1], TABLE[1:]]),
    "record batch": TABLE.to_batches()[0],
    "pandas": pd.DataFrame(COLUMNS),
    "pandas of Arrow": TABLE.to_pandas(types_mapper=pd.ArrowDtype),
    "pandas with arrays": TABLE.to_pandas(),
    "pandas with category": pd.DataFrame(COLUMNS).astype({"query": "category"}),
    "pandas with string": pd.DataFrame(COLUMNS).astype({"query": "string[pyarrow]"}),
    "pandas, filtered": pd.DataFrame({name: [*values, None] for name, values in COLUMNS.items()})[:3].astype(
        {"n": int}
    ),
    "polars": polars.DataFrame(COLUMNS),
    "polars with category": polars.DataFrame(COLUMNS).with_columns(polars.col("query").cast(polars.Categorical)),
    "a split": DatasetDict({"train": Dataset.from_dict(COLUMNS)}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(form):
    rows = dataset_of(FORMS[form], "reader")
    assert rows[:] == COLUMNS
    assert rows.features == {"query": Value("string"), "positive_ids": List(Value("string")), "n": Value("int64")}


def test_a_dataset_stays_as_it_is():
    rows = Dataset.from_dict(COLUMNS).with_format("numpy")
    assert dataset_of(rows, "reader") is rows


def test_types_are_those_that_steps_know():
    views = pa.table({"view": pa.array(["a"], pa.string_view()), "dictionary": pa.array([["b"]]).cast(
        pa.list_(pa.dictionary(pa.int8(), pa.string())))})  # fmt: skip
    assert dataset_of(views, "reader").features == {"view": Value("string"), "dictionary": List(Value("string"))}


def test_no_rows_are_no_rows():
    for empty in (
        [],
        {},
        DatasetDict(),
        {"query": []},
        pd.DataFrame({"query": []}),
        pa.table({"query": pa.array([], pa.string())}),
    ):
        assert len(dataset_of(empty, "reader")) == 0


def test_a_row_may_lack_a_column():
    assert dataset_of([{"a": 1}, {"b": "x"}, {"a": 2}], "reader")[:] == {"a": [1, None, 2], "b": [None, "x", None]}


def test_an_index_of_pandas_is_a_column_if_it_has_a_name():
    frame = pd.DataFrame({"query_id": ["q1", "q2"], "query": ["a?", "b?"], "n": [1, 2]})
    assert dataset_of(frame.set_index("query_id"), "reader").column_names == ["query_id", "query", "n"]
    assert dataset_of(frame.set_index(["query_id", "query"]), "reader").column_names == ["query_id", "query", "n"]
    assert dataset_of(frame[frame["n"] > 1], "reader").column_names == ["query_id", "query", "n"]
    with pytest.raises(
        ValueError, match=r"reader: 'n' is the name of both a column and the index .*reset_index\(drop=True\)"
    ):
        dataset_of(frame.rename_axis("n"), "reader")


def test_missing_values_of_pandas_are_null():
    frame = pd.DataFrame({"text": ["a", float("nan"), pd.NA], "id": [1, None, 3]})
    assert dataset_of(frame, "reader")[:] == {"text": ["a", None, None], "id": [1.0, None, 3.0]}
    # Of numbers, NaN is one.
    records = pd.DataFrame({"text": ["a", float("nan")], "lists": [["x"], float("nan")], "id": [1, None]})
    assert repr(dataset_of(records.to_dict("records"), "reader").to_list()) == (
        "[{'text': 'a', 'lists': ['x'], 'id': 1.0}, {'text': None, 'lists': None, 'id': nan}]"
    )


STREAM = IterableDataset.from_generator(lambda: iter(LIST))


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (STREAM, TypeError, "reader: qrels is an IterableDataset.*without streaming=True.*write_stream"),
        (IterableDatasetDict({"train": STREAM}), TypeError, "IterableDatasetDict.*write_stream"),
        (
            DatasetDict({"dev": Dataset.from_dict(COLUMNS), "test": Dataset.from_dict(COLUMNS)}),
            ValueError,
            r"reader: qrels is a DatasetDict of 2 splits: \['dev', 'test'\]\. Pass one of them, such as qrels\['dev'\]",
        ),
        ({"dev": Dataset.from_dict(COLUMNS), "test": 3}, ValueError, r"a dict of 2 splits.*qrels\['dev'\]"),
        ((3, Dataset.from_dict(COLUMNS)), TypeError, r"is a tuple that contains a Dataset.*corpus, rows = load_beir"),
        (polars.LazyFrame(COLUMNS), TypeError, r"got LazyFrame. Call .collect\(\) first"),
        ("file.csv", TypeError, "reader: qrels must be a Dataset, a data frame of pandas or polars.*got str"),
        (None, TypeError, "got NoneType"),
        (iter(LIST), TypeError, "got list_iterator"),
        (["a?", "b?"], TypeError, "row 0 of the list is 'a\\?'"),
        ([LIST[0], ["a?"]], TypeError, r"row 1 of the list is \['a\?'\]"),
        (LIST[0], TypeError, r"the value of 'query' is 'a\?', but a list.*Wrap a single row in a list: \[row\]"),
        ({"q1": {"p1": 1}}, TypeError, "of 'q1' is {'p1': 1}.*for query, found in qrels.items"),
        ({"a": [1, 2], "b": [1]}, ValueError, "reader: the column 'b' has 1 rows and the column 'a' has 2"),
        ({1: ["a"]}, TypeError, "the name of the column 1 must be a string"),
        (pd.DataFrame([["a"]]), TypeError, "the name of the column 0 must be a string"),
        (pd.DataFrame([["a", "b"]], columns=["x", "x"]), ValueError, "several columns 'x'"),
        (pa.table([[1], [2]], names=["x", "x"]), ValueError, "several columns 'x'"),
        (pd.DataFrame({"x": ["a", 1.5]}), TypeError, "reader: the column 'x' mixes types in row 1"),
        ([{"x": "a"}, {"x": ["b"]}], TypeError, "reader: the column 'x' mixes types in row 1"),
        ({"text": ["a", 1, float("nan")]}, TypeError, "reader: the column 'text' mixes types in row 1"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_what_is_refused_names_the_way_out(rows, error, message):
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        dataset_of(rows, "reader", "qrels")


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("pairs.csv", "Dataset.from_csv('pairs.csv')"),
        ("pairs.jsonl", "Dataset.from_json('pairs.jsonl')"),
        (Path("my/pairs.parquet"), "Dataset.from_parquet('my/pairs.parquet')"),
        ("sentence-transformers/gooaq", "load_dataset('sentence-transformers/gooaq', split='train')"),
    ],
)
def test_a_name_instead_of_rows_is_to_be_read_first(source, call):
    with pytest.raises(TypeError) as error:
        from_pairs(source)
    assert str(error.value).endswith(f"Read it first: {call}.")
