"""Lists by key: what was kept is found, by any process, after merges too."""

import numpy as np
import pytest

from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.storage import results as module
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.folders import cache_root, cache_root_at
from hnm_datasets.storage.list_results import ListResults

ENTRY = np.dtype([("term", "<i4"), ("weight", "<f4")])


@pytest.fixture(autouse=True)
def own_cache(tmp_path):
    with cache_root_at(tmp_path):
        yield


def store():
    return ListResults("vectors", "lists", ENTRY)


def lists_of(numbers):
    lengths = np.array([number % 4 for number in numbers], dtype=np.int64)
    values = np.empty(lengths.sum(), dtype=ENTRY)
    values["term"] = np.repeat(numbers, lengths)
    values["weight"] = np.repeat(numbers, lengths) / 2
    return Ragged(offsets_of(lengths), values)


def keys_of(numbers):
    return digest_strings([f"key {number}" for number in numbers])


def check(results, numbers, unknown=()):
    asked = [*unknown, *reversed(numbers)]
    known, found = results.find(keys_of(asked))
    assert known.tolist() == [number in numbers for number in asked]
    kept = np.flatnonzero(known)
    expected = lists_of(np.array(asked)[kept])
    np.testing.assert_array_equal(found.lengths[kept], expected.lengths)
    np.testing.assert_array_equal(found.values, expected.values)


def test_what_was_kept_is_found_by_others():
    first, other = store(), store()
    check(first, [], [1, 2])
    first.add(keys_of([5, 4, 3]), lists_of([5, 4, 3]))
    check(other, [5, 4, 3], [9, 8])
    other.add(keys_of([7, 8]), lists_of([7, 8]))
    check(first, [3, 4, 5, 7, 8], [9])
    known, found = first.find(keys_of([]))
    assert (len(known), len(found)) == (0, 0)


def test_small_segments_are_merged(monkeypatch):
    monkeypatch.setattr(module, "_SEGMENTS", 4)
    results = store()
    for start in range(0, 60, 3):
        results.add(keys_of(range(start, start + 3)), lists_of(range(start, start + 3)))
    assert len(list((cache_root() / "vectors" / "lists").glob("*.npy"))) < 8
    check(results, list(range(60)), [77])
    check(store(), list(range(60)), [77])


def test_a_damaged_segment_is_computed_again(caplog):
    results = store()
    results.add(keys_of([1, 2, 3]), lists_of([1, 2, 3]))
    (path,) = (cache_root() / "vectors" / "lists").glob("*.npy")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    check(store(), [], [1, 2, 3])
    assert "is damaged" in caplog.text
