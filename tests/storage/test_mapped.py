"""Arrays and columns of texts come back from disk as they were written, and are mapped."""

import mmap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets.storage.mapped import append_array, open_array, open_strings, release, save_array, save_strings

DTYPES = [np.uint8, np.int32, np.int64, np.uint64, np.float16, np.float32, np.bool_]


def written(folder, pieces, dtype):
    with append_array(folder, "numbers", np.dtype(dtype)) as append:
        for piece in pieces:
            append(piece)
    return open_array(folder, "numbers")


@given(st.lists(st.lists(st.integers(0, 1), max_size=20), max_size=8), st.sampled_from(DTYPES))
def test_pieces_are_one_array(tmp_path_factory, pieces, dtype):
    folder = tmp_path_factory.mktemp("pieces")
    pieces = [np.array(piece, dtype=dtype) for piece in pieces]
    expected = np.concatenate([*pieces, np.zeros(0, dtype)])
    found = written(folder, pieces, dtype)
    assert found.dtype == np.dtype(dtype)
    assert found.tolist() == expected.tolist()
    # The same file as numpy's own.
    save_array(folder, "whole", expected)
    assert (folder / "numbers.npy").stat().st_size == (folder / "whole.npy").stat().st_size


@given(st.lists(st.lists(st.floats(width=32), max_size=9), max_size=5))
def test_bytes_come_back_as_they_were(tmp_path_factory, pieces):
    pieces = [np.array(piece, dtype=np.float32) for piece in pieces]
    found = written(tmp_path_factory.mktemp("floats"), pieces, np.float32)
    assert found.tobytes() == b"".join(piece.tobytes() for piece in pieces)


def test_the_header_has_room_for_a_long_array(tmp_path):
    pieces = [np.full(400_000, number, dtype=np.uint8) for number in range(3)]
    found = written(tmp_path, pieces, np.uint8)
    assert found.shape == (1_200_000,)
    assert np.bincount(found).tolist() == [400_000] * 3


def test_pieces_are_cast_and_may_be_cut_from_others(tmp_path):
    found = written(tmp_path, [np.arange(10)[::3], np.array([1.0, 2.0])], np.int32)
    assert found.dtype == np.int32
    assert found.tolist() == [0, 3, 6, 9, 1, 2]


def test_a_new_array_takes_the_place_of_a_longer_one(tmp_path):
    written(tmp_path, [np.arange(1000)], np.int64)
    assert written(tmp_path, [np.arange(3)], np.int64).tolist() == [0, 1, 2]


@pytest.mark.parametrize("array", [np.arange(12.0).reshape(3, 4), np.array([], dtype=np.uint64), np.array([[]])])
def test_an_array_is_opened_as_it_was_saved(tmp_path, array):
    save_array(tmp_path, "numbers", array)
    found = open_array(tmp_path, "numbers")
    assert (found.dtype, found.shape, found.tolist()) == (array.dtype, array.shape, array.tolist())


def test_an_opened_array_is_mapped_and_plain(tmp_path):
    save_array(tmp_path, "numbers", np.arange(5))
    found = open_array(tmp_path, "numbers")
    assert type(found) is np.ndarray
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    base = found
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)


@pytest.mark.parametrize("size", [0, 3])
def test_an_opened_array_is_read_only_also_without_numbers(tmp_path, size):
    save_array(tmp_path, "numbers", np.arange(size))
    assert not open_array(tmp_path, "numbers").flags.writeable


def test_objects_are_neither_written_nor_read(tmp_path):
    objects = np.array([{}, None], dtype=object)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        save_array(tmp_path, "objects", objects)
    np.save(tmp_path / "pickled.npy", objects, allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        open_array(tmp_path, "pickled")


def test_what_is_released_can_be_read_again(tmp_path):
    numbers = np.arange(100_000)
    save_array(tmp_path, "numbers", numbers)
    found = open_array(tmp_path, "numbers")
    for part in (found, found[17:], found[3:4], found[5000:80_000], found[:0], found.reshape(-1, 10)):
        release(part)
        assert np.array_equal(found, numbers)


def resident(path):
    """Return the bytes of a mapped file that this process holds."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(
        1024 * int(next(one for one in lines if one.startswith("Rss:")).split()[1])
        for line in lines
        if line.endswith(str(path))
    )


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux alone tells what is resident")
def test_whole_pages_alone_are_released(tmp_path):
    save_array(tmp_path, "numbers", np.zeros(64 * mmap.PAGESIZE, dtype=np.uint8))
    path, found = tmp_path / "numbers.npy", open_array(tmp_path, "numbers")
    found.sum()
    whole = resident(path)
    assert whole >= found.nbytes
    # From the middle of a page to the middle of another: the pages at both ends stay.
    begins = -found.ctypes.data % mmap.PAGESIZE
    release(found[begins + 100 : begins + 10 * mmap.PAGESIZE + 100])
    assert resident(path) == whole - 9 * mmap.PAGESIZE
    release(found)
    assert resident(path) <= 2 * mmap.PAGESIZE


def test_an_array_in_memory_is_not_released(tmp_path):
    numbers = np.arange(10_000)
    release(numbers)
    release(numbers[5:])
    assert np.array_equal(numbers, np.arange(10_000))


# ---- texts -----------------------------------------------------------------------------------------------------------

CHUNKS = st.lists(st.lists(st.text(max_size=15), max_size=8), max_size=6)
KINDS = st.sampled_from([pa.string(), pa.large_string()])


@given(CHUNKS, KINDS)
def test_texts_come_back(tmp_path_factory, chunks, kind):
    folder = tmp_path_factory.mktemp("texts")
    save_strings(folder, "text", (pa.array(chunk, kind) for chunk in chunks))
    found = open_strings(folder, "text")
    found.validate(full=True)
    assert found.type == pa.large_string()
    assert found.to_pylist() == [text for chunk in chunks for text in chunk]


PARTS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=4)


@given(st.lists(st.text(max_size=9), max_size=12), PARTS, KINDS)
def test_parts_of_arrays_come_back_as_those_parts(tmp_path_factory, texts, parts, kind):
    folder = tmp_path_factory.mktemp("parts")
    chunks = [pa.array(texts, kind).slice(start, length) for start, length in parts if start <= len(texts)]
    save_strings(folder, "text", chunks)
    assert open_strings(folder, "text").to_pylist() == [text for chunk in chunks for text in chunk.to_pylist()]


@pytest.mark.parametrize("texts", [[], [""], ["", "", ""], ["\0", "a\0b", ""], ["\U0010ffff", "e\u0301", "é", "\r\n"]])
def test_odd_texts_come_back(tmp_path, texts):
    save_strings(tmp_path, "text", [pa.array(texts, pa.string())])
    assert open_strings(tmp_path, "text").to_pylist() == texts


def test_columns_lie_beside_each_other_and_are_taken_from(tmp_path):
    save_strings(tmp_path, "id", [pa.array(["a", "b"]), pa.array(["c"])])
    save_strings(tmp_path, "text", [pa.array(["one", "two", "three"])])
    assert open_strings(tmp_path, "text").take(pa.array([2, 0])).to_pylist() == ["three", "one"]
    assert open_strings(tmp_path, "id").to_pylist() == ["a", "b", "c"]
