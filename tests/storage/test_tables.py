"""Tables from strings to rows: every string is found where it is, and nothing else."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.tables import IdTable, KeyTable, RepeatedIdError

IDS = st.lists(st.text(max_size=12), min_size=1, max_size=60, unique=True)


@given(IDS, st.lists(st.text(max_size=12), max_size=30), st.data())
def test_both_tables_agree_with_a_dict(ids, others, data):
    asked = data.draw(st.permutations(ids)) + others
    rows = {one: row for row, one in enumerate(ids)}
    wanted = [rows.get(one, -1) for one in asked]
    assert IdTable.of(pa.array(ids, pa.large_string())).find(pa.array(asked, pa.string())).tolist() == wanted
    assert KeyTable.from_digests(digest_strings(ids)).find(digest_strings(asked)).tolist() == wanted


@given(IDS, st.integers(0, 20), st.integers(0, 20))
def test_a_part_of_an_array_is_looked_up_as_that_part(ids, start, length):
    asked = pa.array(ids).slice(start, length)
    table = IdTable.of(pa.array(["before", *ids], pa.large_string()).slice(1))
    assert table.find(asked).tolist() == list(range(len(ids)))[start : start + length]


def test_many_are_found_by_several_threads():
    names = np.char.add("passage-", np.arange(50_000).astype(str))
    order = np.random.default_rng(0).permutation(200_000) % 60_000
    asked = pa.array(np.char.add("passage-", order.astype(str)).tolist())
    found = IdTable.of(pa.array(names.tolist(), pa.large_string())).find(asked)
    assert np.array_equal(found, np.where(order < 50_000, order, -1))


@given(IDS, st.data())
def test_a_repeated_id_is_named(ids, data):
    again = data.draw(st.integers(0, len(ids) - 1))
    with pytest.raises(RepeatedIdError) as caught:
        IdTable.of(pa.array([*ids, ids[again]], pa.large_string()))
    assert (caught.value.first, caught.value.second) == (again, len(ids))


def test_a_table_is_mapped_from_disk(tmp_path):
    ids = pa.array(["a", "", "ä"], pa.large_string())
    IdTable.of(ids).save(tmp_path, "by_id")
    opened = IdTable.open(tmp_path, "by_id", ids)
    assert opened.find(pa.array(["ä", "b", "", "a"])).tolist() == [2, -1, 1, 0]
    assert not opened.slots.flags.writeable
