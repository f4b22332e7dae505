"""What Ray passes becomes a table again, without a cluster."""

import numpy as np
import pyarrow as pa
import pytest

from hnm_datasets.runtime.ray_batches import holds_arrays, keep_name_of_step, table_of_arrays


def objects(rows):
    found = np.empty(len(rows), dtype=object)
    found[:] = rows
    return found


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ({"query": np.array(["a"])}, True),
        ({"query": ["a"], "scores": np.array([1.0])}, True),
        ({"query": ["a"]}, False),
        ({}, False),
        (pa.table({"query": ["a"]}), False),
    ],
    ids=["arrays", "one array", "lists", "nothing", "a table"],
)
def test_a_batch_of_ray_holds_arrays(rows, wanted):
    assert holds_arrays(rows) is wanted


def test_texts_numbers_and_lists_come_back():
    rows = {
        "query": np.array(["a", "b"]),
        "number": np.array([1, 2], dtype=np.int32),
        "negative_ids": objects([np.array(["x", "y"], dtype=object), np.array([], dtype=object)]),
        "negative_scores": objects([np.array([1, 2], dtype=np.float32), np.array([], dtype=np.float32)]),
    }
    table = table_of_arrays(rows, "Step")
    assert table.column_names == list(rows)
    assert table.to_pydict() == {
        "query": ["a", "b"],
        "number": [1, 2],
        "negative_ids": [["x", "y"], []],
        "negative_scores": [[1, 2], []],
    }
    assert table.schema.types == [pa.string(), pa.int32(), pa.list_(pa.string()), pa.list_(pa.float32())]


@pytest.mark.parametrize("name", ["negative_ids", "positive_ids", "negative_source"])
def test_empty_lists_of_texts_are_of_texts(name):
    # Of empty lists numpy knows no type, and the next batch would have another.
    found = table_of_arrays({name: objects([np.array([]), np.array([])])}, "Step")
    assert found.schema.types == [pa.list_(pa.string())]
    assert found.to_pydict() == {name: [[], []]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*", "ignore::FutureWarning:ray.*")
def test_pictures_stay_as_ray_keeps_them():
    pytest.importorskip("ray.data", reason="needs hnm-datasets[ray]")
    pictures = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    table = table_of_arrays({"picture": pictures, "query": np.array(["a", "b"])}, "Step")
    assert table.num_rows == 2
    assert np.array_equal(table["picture"].combine_chunks().to_numpy_ndarray(), pictures)


def test_a_class_that_ray_has_derived_has_the_name_of_the_step():
    class Step:
        pass

    derived = type("_MapClass", (Step,), {"__module__": "ray.data._internal"})
    keep_name_of_step(derived)
    assert derived.__name__ == "Step"
    # A class of one's own keeps its name.
    own = type("Mine", (Step,), {"__module__": "somewhere"})
    keep_name_of_step(own)
    assert own.__name__ == "Mine"
