"""The store of rows by key: nothing is lost, and nothing broken is read."""

import multiprocessing
import os

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.folders import cache_root, cache_root_at
from hnm_datasets.storage.results import Results


@pytest.fixture(autouse=True)
def _own_store(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)


def keys_of(*names):
    return digest_strings([str(name) for name in names])


def rows_of(*numbers):
    return np.array([[number, -number] for number in numbers], dtype=np.float32)


def segments():
    return sorted((cache_root() / "vectors" / "s").glob("*.npy"))


def check_holds(store, numbers):
    known, rows = store.find(keys_of(*numbers))
    assert known.all()
    assert rows.tolist() == rows_of(*numbers).tolist()


def test_an_empty_store_knows_nothing():
    known, rows = Results("vectors", "s").find(keys_of(1, 2))
    assert known.tolist() == [False, False]
    assert rows.shape == (2, 0)
    known, rows = Results("vectors", "s").find(keys_of())
    assert known.shape == (0,)


def test_rows_are_found_by_key():
    store = Results("vectors", "s")
    store.add(keys_of(1, 2, 3), rows_of(1, 2, 3))
    known, rows = store.find(keys_of(3, 9, 1, 3))
    assert known.tolist() == [True, False, True, True]
    assert rows.dtype == np.float32
    assert rows[known].tolist() == rows_of(3, 1, 3).tolist()


def test_another_store_finds_what_was_added_before_and_after_it_was_opened():
    one, other = Results("vectors", "s"), Results("vectors", "s")
    one.add(keys_of(1), rows_of(1))
    check_holds(other, [1])
    one.add(keys_of(2), rows_of(2))
    check_holds(other, [1, 2])
    assert not Results("vectors", "another name").find(keys_of(1))[0].any()
    assert not Results("another kind", "s").find(keys_of(1))[0].any()


def test_bytes_come_back_as_they_were():
    odd = np.array([[np.float32(1e-45), np.nan, np.inf, -0.0, np.float32(0.1)]], dtype=np.float32)
    Results("vectors", "s").add(keys_of(1), odd)
    assert Results("vectors", "s").find(keys_of(1))[1].tobytes() == odd.tobytes()


def test_many_additions_become_few_files():
    store, late = Results("vectors", "s"), Results("vectors", "s")
    for number in range(45):
        store.add(keys_of(number), rows_of(number))
        if number == 20:
            check_holds(late, range(21))
    assert len(segments()) <= 33
    for reader in (store, late, Results("vectors", "s")):
        check_holds(reader, range(45))
    for number in range(45, 140):
        store.add(keys_of(number), rows_of(number))
        assert len(segments()) <= 33
    for reader in (store, late, Results("vectors", "s")):
        check_holds(reader, range(140))


def test_what_was_merged_by_another_is_merged_no_more():
    one, other = Results("vectors", "s"), Results("vectors", "s")
    for number in range(32):
        one.add(keys_of(number), rows_of(number))
    check_holds(other, range(32))
    one.add(keys_of(32), rows_of(32))
    other.add(keys_of(33), rows_of(33))
    for reader in (one, other, Results("vectors", "s")):
        check_holds(reader, range(34))


@pytest.mark.parametrize("size", [0, 3, 60, 130, -1], ids=["empty", "3 bytes", "half a header", "no rows", "a byte"])
def test_a_file_that_was_cut_short_is_ignored(size):
    store = Results("vectors", "s")
    store.add(keys_of(1, 2), rows_of(1, 2))
    (path,) = segments()
    store.add(keys_of(3), rows_of(3))
    path.write_bytes(path.read_bytes()[:size])
    again = Results("vectors", "s")
    assert again.find(keys_of(1, 2, 3))[0].tolist() == [False, False, True]
    again.add(keys_of(1, 2), rows_of(1, 2))
    check_holds(again, [1, 2, 3])
    check_holds(Results("vectors", "s"), [1, 2, 3])


def test_a_file_that_is_something_else_is_ignored():
    store = Results("vectors", "s")
    store.add(keys_of(1), rows_of(1))
    np.save(cache_root() / "vectors" / "s" / "other.npy", np.arange(5))
    (cache_root() / "vectors" / "s" / "noise.npy").write_bytes(os.urandom(500))
    check_holds(Results("vectors", "s"), [1])


def test_an_addition_that_fails_leaves_nothing(monkeypatch):
    store = Results("vectors", "s")

    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("hnm_datasets.storage.results.write_array", fail)
    with pytest.raises(OSError, match="no space"):
        store.add(keys_of(1), rows_of(1))
    monkeypatch.undo()
    assert [path for path in (cache_root() / "vectors" / "s").glob("*") if path.suffix != ".lock"] == []


def add_many(folder, first):
    with cache_root_at(folder):
        store = Results("vectors", "s")
        for number in range(first, first + 60):
            store.add(keys_of(number), rows_of(number))
            store.find(keys_of(number, number + 1))


def test_processes_that_add_at_once_lose_nothing():
    # Sixty additions each: both merge while the other adds.
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=add_many, args=(cache_root(), first)) for first in (0, 1000, 30)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    check_holds(Results("vectors", "s"), [*range(90), *range(1000, 1060)])
    assert not list((cache_root() / "vectors" / "s").glob("*.tmp"))


numbers = st.lists(st.integers(0, 30), max_size=6)
operations = st.lists(st.tuples(st.sampled_from(["add", "find", "reopen"]), numbers), max_size=60)


@settings(max_examples=30)
@given(operations)
def test_a_store_agrees_with_a_dict(tmp_path_factory, operations):
    with cache_root_at(tmp_path_factory.mktemp("store")):
        store, expected = Results("vectors", "s"), {}
        for operation, chosen in operations:
            if operation == "add":
                store.add(keys_of(*chosen), rows_of(*chosen).reshape(-1, 2))
                expected |= dict.fromkeys(chosen)
            elif operation == "reopen":
                store = Results("vectors", "s")
            known, rows = store.find(keys_of(*chosen))
            assert known.tolist() == [number in expected for number in chosen]
            assert rows[known].tolist() == [[n, -n] for n in chosen if n in expected]
