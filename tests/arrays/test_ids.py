"""Ids are texts, whatever type they came in."""

import pyarrow as pa
import pytest

from hnm_datasets.arrays.ids import as_ids


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        (pa.array([1, -2, None]), ["1", "-2", None]),
        (pa.array([2**63], pa.uint64()), ["9223372036854775808"]),
        (pa.array([7], pa.int8()), ["7"]),
        (pa.array([1.0, None, float("nan"), -0.0]), ["1", None, None, "0"]),
        (pa.array([2.0**53 - 1]), ["9007199254740991"]),
        (pa.array([3.0], pa.float32()), ["3"]),
        (pa.array(["01", "1.0", "", None]), ["01", "1.0", "", None]),
        (pa.array(["a"], pa.large_string()), ["a"]),
        (pa.array(["a"], pa.string_view()), ["a"]),
        (pa.array([5, 6, 5]).dictionary_encode(), ["5", "6", "5"]),
        (pa.nulls(2), [None, None]),
        (pa.array([], pa.float64()), []),
    ],
)
def test_strings_and_whole_numbers_become_strings(ids, wanted):
    found = as_ids(ids, "ids", "reader")
    assert found.to_pylist() == wanted
    assert pa.types.is_string(found.type) or pa.types.is_large_string(found.type)


@pytest.mark.parametrize(
    ("ids", "why"),
    [
        (pa.array([1.0, 1.5]), r"reader: the column 'id' holds the number 1.5 in row 1, which is not an id"),
        (pa.array([None, float("inf")]), "the number inf in row 1, which is too large"),
        (pa.array([2.0**53]), "9007199254740992.0 in row 0, which is too large to be exact"),
    ],
)
def test_other_numbers_are_refused(ids, why):
    with pytest.raises(ValueError, match=why):
        as_ids(ids, "the column 'id'", "reader")


@pytest.mark.parametrize("ids", [pa.array([True]), pa.array([b"a"]), pa.array([["a"]]), pa.array([{"a": 1}])])
def test_other_types_are_refused(ids):
    with pytest.raises(TypeError, match=f"reader: x must hold ids, which are strings or whole numbers, got {ids.type}"):
        as_ids(ids, "x", "reader")
