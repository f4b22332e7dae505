"""Files appear whole or not at all, and an error of writing says where, why and what to do."""

import errno
import multiprocessing
import os
import resource
import signal

import numpy as np
import pyarrow as pa
import pytest

from hnm_datasets.storage.folders import build_once, cache_root_at
from hnm_datasets.storage.mapped import append_array, create_array, save_array, save_strings
from hnm_datasets.storage.results import Results
from hnm_datasets.storage.writing import FolderWriteError, writing, written_aside

# ---- written_aside ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [None, "old"])
def test_a_file_appears_whole(tmp_path, old):
    path = tmp_path / "card.md"
    if old is not None:
        path.write_text(old)
    with written_aside(path) as aside:
        aside.write_text("half")
        assert (path.read_text() if path.exists() else None) == old
        # Hidden from whoever lists the folder.
        assert [one for one in tmp_path.iterdir() if one.name[0] != "."] == [path][: old is not None]
        assert aside.parent == tmp_path
        aside.write_text("whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there_before(tmp_path, old, error):
    path = tmp_path / "card.md"
    if old is not None:
        path.write_text(old)

    def fail():
        with written_aside(path) as aside:
            aside.write_text("half")
            raise error("broken")

    with pytest.raises(error, match="broken"):
        fail()
    assert [one.read_text() for one in tmp_path.iterdir()] == [old][: old is not None]
    # Also before anything was written.
    with pytest.raises(error, match="broken"), written_aside(path):
        raise error("broken")
    assert [one.read_text() for one in tmp_path.iterdir()] == [old][: old is not None]


def test_what_a_killed_writer_left_is_overwritten(tmp_path):
    path = tmp_path / "card.md"
    with written_aside(path) as aside:
        aside.write_text("x")
    aside.write_text("much longer, from a writer that was killed")
    with written_aside(path) as aside:
        aside.write_text("whole")
    assert [one.read_text() for one in tmp_path.iterdir()] == ["whole"]


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_names_folder_cause_and_way_out(tmp_path, code):
    with (
        pytest.raises(FolderWriteError, match=r"HF_DATASETS_CACHE") as caught,
        writing(tmp_path / "not" / "there", 256_000),
    ):
        raise OSError(code, os.strerror(code))
    text = str(caught.value)
    assert f"{tmp_path}/not/there cannot be written: {os.strerror(code)} (256,000 bytes are needed, " in text
    assert "Free disk space" in text
    assert caught.value.errno == code


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR])
def test_no_right_names_folder_cause_and_way_out(tmp_path, code):
    for place in (tmp_path / "file", tmp_path, tmp_path.parent):
        with (
            pytest.raises(FolderWriteError, match=r"can still be read.*HF_DATASETS_CACHE") as caught,
            writing(tmp_path),
        ):
            raise OSError(code, os.strerror(code), str(place))
        assert f"{tmp_path} cannot be written: {os.strerror(code)}." in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied", "/elsewhere/data.parquet"),
        PermissionError(13, "Permission denied", 7),
        FileNotFoundError(2, "No such file", "file"),
        OSError("no number"),
        ValueError("another kind"),
    ],
    ids=str,
)
def test_errors_of_something_else_stay(tmp_path, error):
    with pytest.raises(type(error)) as caught, writing(tmp_path):
        raise error
    assert caught.value is error


def test_an_error_is_told_once(tmp_path):
    with pytest.raises(FolderWriteError) as caught, writing(tmp_path), writing(tmp_path / "inner", 5):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value).count("cannot be written") == 1
    assert "inner" in str(caught.value)


def limited(limit, act, queue):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        act()
    except FolderWriteError as error:
        queue.put(str(error))


def what_a_small_disk_says(limit, act):
    """Run in a process that can write files of so many bytes only."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=limited, args=(limit, act, queue))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    return queue.get(timeout=10)


def test_each_writer_names_its_folder_when_there_is_no_room(tmp_path):
    keys, rows = np.arange(2000, dtype=np.uint64).reshape(-1, 2), np.ones((1000, 64), np.float32)
    strings = pa.array(["a text of a passage"] * 5000)

    def write_aside():
        with written_aside(tmp_path / "a.json") as aside:
            aside.write_bytes(bytes(100_000))

    def add():
        Results("vectors", "s").add(keys, rows)

    def appended(folder):
        with append_array(folder, "numbers", np.dtype(np.int64)) as append:
            append(np.arange(10_000))

    builds = {
        "array": lambda folder: save_array(folder, "numbers", np.arange(10_000)),
        "appended": appended,
        "strings": lambda folder: save_strings(folder, "texts", [strings]),
        "mapped": lambda folder: create_array(folder / "vectors.npy", np.dtype(np.float32), (1000, 64)),
    }
    with cache_root_at(tmp_path / "cache"):
        assert f"{tmp_path} cannot be written: File too large" in what_a_small_disk_says(20_000, write_aside)
        said = what_a_small_disk_says(20_000, add)
        assert f"{tmp_path / 'cache' / 'vectors' / 's'} cannot be written" in said
        assert "(268,000 bytes are needed" in said or "280,000 bytes are needed" in said
        assert not list((tmp_path / "cache" / "vectors" / "s").glob("*.npy"))
        for name, build in builds.items():
            said = what_a_small_disk_says(
                20_000, lambda build=build, name=name: build_once(tmp_path / "x", name, build)
            )
            assert f"{tmp_path / 'x'} cannot be written: File too large" in said
    assert sorted(path.suffix for path in (tmp_path / "x").iterdir()) == [".lock"] * 4


def test_a_file_system_that_reserves_no_room(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    create_array(tmp_path / "vectors.npy", np.dtype(np.float32), (10, 3))
    assert np.load(tmp_path / "vectors.npy").tolist() == np.zeros((10, 3)).tolist()


def test_an_array_has_its_room_at_once(tmp_path):
    create_array(tmp_path / "vectors.npy", np.dtype(np.float32), (1000, 64))
    found = (tmp_path / "vectors.npy").stat()
    assert found.st_blocks * 512 >= found.st_size == 256_128
