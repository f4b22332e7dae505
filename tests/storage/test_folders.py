"""Folders are built once, whole or not at all, and what was damaged since is built again."""

import multiprocessing
import os
import signal
import stat
import threading
import time
from pathlib import Path

import datasets
import pytest
from filelock import FileLock, Timeout

from hnm_datasets.storage.folders import (
    build_once,
    cache_root,
    cache_root_at,
    finish,
    folder_size,
    is_complete,
    umask,
    unfinish,
    written_aside,
)

FORK = multiprocessing.get_context("fork")


class Build:
    """Writes two files, and counts how often."""

    def __init__(self):
        self.times = 0

    def __call__(self, folder):
        self.times += 1
        assert list(folder.iterdir()) == []
        (folder / "numbers").write_bytes(b"0123456789")
        (folder / "letters").write_bytes(b"abc")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


WHOLE = {"numbers": b"0123456789", "letters": b"abc"}


def left_beside(parent):
    return sorted(path.name for path in parent.iterdir() if not path.name.endswith(".lock"))


# ---- build_once ------------------------------------------------------------------------------------------------------


def test_a_folder_is_built_once(tmp_path):
    build = Build()
    parent = tmp_path / "made" / "as well"
    for _ in range(3):
        assert build_once(parent, "one", build) == parent / "one"
    assert build.times == 1
    assert content(parent / "one") == WHOLE
    assert left_beside(parent) == ["one"]
    build_once(parent, "other", build)
    assert build.times == 2


def build_slowly(parent, barrier):
    def build(folder):
        with (parent / "log").open("a") as log:
            log.write(f"{os.getpid()}\n")
        (folder / "letters").write_text("a")
        time.sleep(0.5)
        (folder / "letters").write_text("abc")

    barrier.wait(60)
    folder = build_once(parent, "one", build)
    assert (folder / "letters").read_text() == "abc"


def test_two_processes_that_ask_at_once_build_once(tmp_path):
    barrier = FORK.Barrier(2)
    workers = [FORK.Process(target=build_slowly, args=(tmp_path, barrier)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len((tmp_path / "log").read_text().splitlines()) == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_build_that_raises_leaves_nothing(tmp_path, error):
    def fail(folder):
        (folder / "letters").write_text("a")
        raise error("broken")

    with pytest.raises(error, match="broken"):
        build_once(tmp_path, "one", fail)
    assert left_beside(tmp_path) == []
    build = Build()
    assert content(build_once(tmp_path, "one", build)) == WHOLE
    assert build.times == 1


def be_killed(parent):
    def build(folder):
        (folder / "letters").write_text("a")
        os.kill(os.getpid(), signal.SIGKILL)

    build_once(parent, "one", build)


def test_a_build_that_is_killed_leaves_nothing_that_is_opened(tmp_path):
    worker = FORK.Process(target=be_killed, args=(tmp_path,))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    # Else this test would be of nothing.
    assert len(list(tmp_path.glob("one.*.tmp"))) == 1
    assert not (tmp_path / "one").exists()
    build = Build()
    assert content(build_once(tmp_path, "one", build)) == WHOLE
    assert build.times == 1
    assert left_beside(tmp_path) == ["one"]


def test_the_leftovers_of_another_name_stay(tmp_path):
    (tmp_path / "other.123.tmp").mkdir()
    build_once(tmp_path, "one", Build())
    assert left_beside(tmp_path) == ["one", "other.123.tmp"]


def shorten(folder):
    (folder / "numbers").write_bytes(b"012345678")


def lengthen(folder):
    (folder / "numbers").write_bytes(b"0123456789a")


def remove(folder):
    (folder / "numbers").unlink()


def spoil_manifest(folder):
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text()[:-2])


@pytest.mark.parametrize("damage", [shorten, lengthen, remove, spoil_manifest, unfinish])
def test_a_damaged_folder_is_noticed_and_built_again(tmp_path, damage):
    build = Build()
    folder = build_once(tmp_path, "one", build)
    (folder / "stray").write_text("of before")
    assert is_complete(folder)
    damage(folder)
    assert not is_complete(folder)
    assert build_once(tmp_path, "one", build) == folder
    assert build.times == 2
    assert is_complete(folder)
    assert content(folder) == WHOLE


def test_waiting_for_another_builder_ends(tmp_path):
    with FileLock(tmp_path / "one.lock"), pytest.raises(Timeout):
        build_once(tmp_path, "one", Build(), timeout=0.05)
    build_once(tmp_path, "one", Build(), timeout=0.05)
    # Who only opens does not wait.
    with FileLock(tmp_path / "one.lock"):
        build_once(tmp_path, "one", Build(), timeout=0.05)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_folder_has_the_permissions_of_any_new_one(tmp_path, mask):
    before = os.umask(mask)
    try:
        assert umask() == mask
        assert umask() == mask
        folder = build_once(tmp_path, "one", Build())
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~mask


def test_finished_with_some_of_its_files(tmp_path):
    assert not is_complete(tmp_path)
    Build()(tmp_path)
    finish(tmp_path, ["letters"])
    assert is_complete(tmp_path)
    shorten(tmp_path)
    assert is_complete(tmp_path)
    (tmp_path / "letters").write_bytes(b"")
    assert not is_complete(tmp_path)
    unfinish(tmp_path)
    unfinish(tmp_path)


def test_the_size_of_a_folder(tmp_path):
    assert folder_size(tmp_path) == 0
    Build()(tmp_path)
    assert folder_size(tmp_path) == 13


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


# ---- the cache folder ------------------------------------------------------------------------------------------------


def test_the_cache_is_beside_that_of_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    assert cache_root() == tmp_path / "hnm_datasets"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "text"))
    assert cache_root() == tmp_path / "text" / "hnm_datasets"


def test_another_cache_is_used_in_the_block_alone():
    before = cache_root()
    with cache_root_at(Path("/a")):
        assert cache_root() == Path("/a")
        with cache_root_at(Path("/b")):
            assert cache_root() == Path("/b")
            with cache_root_at(None):
                assert cache_root() == Path("/b")
        assert cache_root() == Path("/a")
        with pytest.raises(RuntimeError, match="broken"), cache_root_at(Path("/c")):
            raise RuntimeError("broken")
        assert cache_root() == Path("/a")
    assert cache_root() == before
    with cache_root_at(None):
        assert cache_root() == before


def test_other_threads_keep_their_cache():
    before, seen, turn = cache_root(), {}, threading.Barrier(2, timeout=60)

    def work():
        seen["at first"] = cache_root()
        with cache_root_at(Path("/of the thread")):
            turn.wait()
            turn.wait()
            seen["in its block"] = cache_root()

    with cache_root_at(Path("/a")):
        thread = threading.Thread(target=work)
        thread.start()
        turn.wait()
        here = cache_root()
        turn.wait()
        thread.join()
    assert here == Path("/a")
    assert seen == {"at first": before, "in its block": Path("/of the thread")}
