"""Rows made in memory get a file named by their content, beside which `map` writes what it makes of them."""

import logging
import shutil
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, Features, List, Value, concatenate_datasets

from hnm_datasets.storage import folders
from hnm_datasets.storage.folders import cache_root, cache_root_at
from hnm_datasets.storage.kept_rows import in_memory_rows, kept_rows

ROWS = {
    "query": ["a?", "b?", ""],
    "positive_ids": [["x", "y"], [], None],
    "score": [0.5, None, 1.5],
    "more": [{"n": 1}, {"n": 2}, {"n": None}],
}


@pytest.fixture(autouse=True)
def own_root(tmp_path):
    with cache_root_at(tmp_path):
        yield


def count_calls(rows):
    calls = []

    def step(batch):
        calls.append(1)
        return {"length": [len(query) for query in batch["query"]]}

    rows.map(step, batched=True, new_fingerprint=f"{rows._fingerprint}-1")
    return len(calls)


def test_rows_are_the_same_and_in_a_file():
    rows = Dataset.from_dict(ROWS)
    kept = kept_rows(rows)
    assert kept[:] == rows[:]
    assert kept.features == rows.features
    assert [Path(file["filename"]).is_relative_to(cache_root()) for file in kept.cache_files] == [True]
    assert kept_rows(kept) is kept


def test_map_caches_what_it_makes_of_kept_rows():
    assert [count_calls(Dataset.from_dict(ROWS)) for _ in range(2)] == [1, 1]
    assert [count_calls(kept_rows(Dataset.from_dict(ROWS))) for _ in range(2)] == [1, 0]


def test_the_name_depends_on_the_content_alone():
    rows = Dataset.from_dict(ROWS)
    kept = kept_rows(rows)
    again = [
        Dataset.from_list(rows.to_list(), features=rows.features),
        concatenate_datasets([Dataset.from_dict(rows[:2], features=rows.features), rows.select([2])]),
        Dataset.from_dict({name: values[::-1] for name, values in ROWS.items()}).select([2, 1, 0]),
        rows.map(lambda row: row),
    ]
    assert {kept_rows(other)._fingerprint for other in again} == {kept._fingerprint}
    others = [
        rows.select([1, 0, 2]),
        rows.select([0, 1]),
        rows.rename_column("query", "question"),
        rows.select_columns(["positive_ids", "query", "score", "more"]),
        rows.cast_column("score", Value("float32")),
        rows.cast_column("query", Value("large_string")),
        Dataset.from_dict(ROWS | {"query": ["a?", "b", "?"]}),
    ]
    names = {kept_rows(other)._fingerprint for other in others}
    assert len(names) == len(others)
    assert kept._fingerprint not in names


@pytest.mark.parametrize(
    "rows",
    [
        Dataset.from_pandas(pd.DataFrame({"id": [1, 2], "kind": pd.Categorical(["a", "b"])})),
        Dataset(pa.table({"x": pa.array([[1.0], None], pa.large_list(pa.float64()))})),
        Dataset.from_dict({"x": np.zeros((2, 3, 2))}, features=Features({"x": datasets.Array2D((3, 2), "float64")})),
        Dataset.from_dict({"x": [[], []]}, features=Features({"x": List(Value("int8"))})),
        Dataset.from_dict({"x": [f"text {row}" for row in range(2500)]}).select(range(700, 2300)),
    ],
    ids=["categories", "large lists", "arrays", "empty lists", "a slice of many"],
)
def test_any_types_come_back(rows):
    kept = kept_rows(rows)
    assert kept.cache_files
    assert kept.features == rows.features
    assert kept[:] == rows[:]


def test_format_split_and_description_stay():
    info = datasets.DatasetInfo(description="what they are")
    rows = Dataset.from_dict({"a": [1], "b": [2]}, info=info, split="test").with_format(
        "numpy", columns=["b"], dtype=int
    )
    kept = kept_rows(rows)
    assert kept.format == rows.format
    assert (kept.split, kept.info.description) == ("test", "what they are")


def test_rows_in_files_stay_where_they_are(tmp_path):
    Dataset.from_dict(ROWS).save_to_disk(tmp_path / "saved")
    rows = datasets.load_from_disk(tmp_path / "saved")
    assert kept_rows(rows) is rows
    in_memory = datasets.load_from_disk(tmp_path / "saved", keep_in_memory=True)
    assert len(kept_rows(in_memory).cache_files) == 1


def test_nothing_is_written_of_no_rows_or_with_caching_disabled(tmp_path):
    empty = Dataset.from_dict({"query": []})
    assert kept_rows(empty) is empty
    datasets.disable_caching()
    try:
        rows = Dataset.from_dict(ROWS)
        assert kept_rows(rows) is rows
    finally:
        datasets.enable_caching()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_written_again(caplog):
    rows = Dataset.from_dict(ROWS)
    file = Path(kept_rows(rows).cache_files[0]["filename"])
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    with caplog.at_level(logging.WARNING):
        assert kept_rows(rows)[:] == rows[:]
    assert "It is built again" in caplog.text
    assert file.read_bytes() == content


def test_without_room_the_rows_stay_in_memory(caplog, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders.tempfile, "mkdtemp", full)
    rows = Dataset.from_dict(ROWS)
    with caplog.at_level(logging.WARNING):
        assert kept_rows(rows) is rows
    assert "stay in memory" in caplog.text
    assert "HF_DATASETS_CACHE" in caplog.text


def test_a_removed_cache_is_made_again(tmp_path):
    rows = Dataset.from_dict(ROWS)
    kept_rows(rows)
    shutil.rmtree(tmp_path / "rows")
    assert kept_rows(rows)[:] == rows[:]


def test_a_table_in_memory_is_named_by_its_content():
    table = pa.table({"query": ["a?", "b?"], "positive_ids": [["x"], []]})
    rows = in_memory_rows(table)
    assert rows[:] == table.to_pydict()
    assert rows.cache_files == []
    again = in_memory_rows(pa.table({"query": ["b?", "a?"], "positive_ids": [[], ["x"]]}).take([1, 0]))
    assert again._fingerprint == rows._fingerprint
    others = [table.slice(0, 1), table.select(["query"]), table.rename_columns(["query", "ids"]), table.take([1, 0])]
    assert len({in_memory_rows(other)._fingerprint for other in [table, *others]}) == 5
