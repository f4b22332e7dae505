"""Lists of unequal length in one flat array: every helper against plain Python lists."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets.arrays.ragged import (
    Ragged,
    first_of_runs,
    first_positions,
    interleave_lists,
    kept_offsets,
    offsets_of,
    positions_within,
    runs_within,
    slice_lists,
    take_lists,
)

LISTS = st.lists(st.lists(st.integers(-99, 99), max_size=5), max_size=8)
SOME_LISTS = LISTS.filter(bool)


def ragged(lists, kind=np.array):
    values = list(itertools.chain(*lists))
    values = pa.array(values, pa.int64()) if kind is pa.array else np.array(values, dtype=np.int64)
    return Ragged(offsets_of(np.array(list(map(len, lists)), dtype=np.int64)), values)


def plain(lists):
    values = lists.values.to_pylist() if isinstance(lists.values, pa.Array) else lists.values.tolist()
    return [values[start:stop] for start, stop in itertools.pairwise(lists.offsets.tolist())]


@given(LISTS)
def test_lengths_and_owners(lists):
    found = ragged(lists)
    assert plain(found) == lists
    assert len(found) == len(lists)
    assert found.lengths.tolist() == [len(one) for one in lists]
    assert found.owners.tolist() == [row for row, one in enumerate(lists) for _ in one]


@given(st.lists(st.integers(0, 9)))
def test_offsets_begin_at_zero_and_count_on(lengths):
    offsets = offsets_of(np.array(lengths, dtype=np.int32))
    assert offsets.dtype == np.int64
    assert offsets.tolist() == [sum(lengths[:place]) for place in range(len(lengths) + 1)]


def test_many_long_lists_do_not_overflow():
    assert offsets_of(np.full(3, 2**31 - 1, dtype=np.int32)).tolist()[-1] == 3 * (2**31 - 1)


@given(LISTS, st.data())
def test_what_is_kept_stays_in_its_list(lists, data):
    total = sum(map(len, lists))
    keep = data.draw(st.lists(st.booleans(), min_size=total, max_size=total))
    found = ragged(lists)
    mask = np.array(keep, dtype=bool)
    marks = iter(keep)
    wanted = [[value for value in one if next(marks)] for one in lists]
    assert plain(Ragged(kept_offsets(found.offsets, mask), found.values[mask])) == wanted


@given(st.lists(st.integers(0, 12), max_size=30), st.integers(1, 12))
def test_runs_are_as_long_as_the_limit_allows(sizes, limit):
    runs = runs_within(np.array(sizes, dtype=np.int64), limit)
    assert [row for run in runs for row in range(run.start, run.stop)] == list(range(len(sizes)))
    for run in runs:
        assert run.stop - run.start == 1 or sum(sizes[run]) <= limit
        # A run that could take the next row as well would have taken it.
        assert run.stop == len(sizes) or sum(sizes[run]) + sizes[run.stop] > limit


@pytest.mark.parametrize("kind", [np.array, pa.array])
@given(lists=LISTS, data=st.data())
def test_consecutive_lists_are_cut_out(kind, lists, data):
    start = data.draw(st.integers(0, len(lists)))
    stop = data.draw(st.integers(start, len(lists)))
    found = slice_lists(ragged(lists, kind), slice(start, stop))
    assert plain(found) == lists[start:stop]
    assert found.offsets[0] == 0


def test_cutting_copies_nothing():
    lists = ragged([[1, 2], [3], [4, 5]])
    assert np.shares_memory(slice_lists(lists, slice(1, 3)).values, lists.values)


@pytest.mark.parametrize("kind", [np.array, pa.array])
@given(lists=SOME_LISTS, data=st.data())
def test_lists_are_taken_in_the_asked_order_and_as_often(kind, lists, data):
    which = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=10))
    taken = take_lists(ragged(lists, kind), np.array(which, dtype=np.int64))
    assert plain(taken) == [lists[row] for row in which]
    assert isinstance(taken.values, pa.Array if kind is pa.array else np.ndarray)


@given(LISTS)
def test_positions_count_from_zero_in_each_list(lists):
    wanted = [place for one in lists for place in range(len(one))]
    assert positions_within(ragged(lists).offsets).tolist() == wanted


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=8))
def test_first_positions_are_ranges(pairs):
    starts, counts = (np.array(part, dtype=np.int64) for part in (list(zip(*pairs, strict=True)) or [[], []]))
    wanted = [place for start, count in pairs for place in range(start, start + count)]
    assert first_positions(starts, counts).tolist() == wanted


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=20))
def test_the_first_of_a_run_differs_in_any_key(pairs):
    keys = [np.array(part, dtype=np.int64) for part in (list(zip(*pairs, strict=True)) or [[], []])]
    wanted = [place == 0 or pairs[place] != pairs[place - 1] for place in range(len(pairs))]
    assert first_of_runs(*keys).tolist() == wanted
    one = [place == 0 or pairs[place][0] != pairs[place - 1][0] for place in range(len(pairs))]
    assert first_of_runs(keys[0]).tolist() == one


def test_runs_of_strings():
    assert first_of_runs(np.array(["a", "a", "b", "a"])).tolist() == [True, False, True, True]


SHORT_LISTS = st.lists(st.integers(0, 9), max_size=4)


@given(st.lists(st.tuples(SHORT_LISTS, SHORT_LISTS), max_size=8))
def test_two_columns_of_lists_become_one(pairs):
    first, second = ragged([one for one, _ in pairs]), ragged([other for _, other in pairs])
    offsets, order = interleave_lists(first, second)
    joined = Ragged(offsets, np.concatenate([first.values, second.values])[order])
    assert plain(joined) == [one + other for one, other in pairs]
