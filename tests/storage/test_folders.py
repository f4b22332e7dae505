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

from hnm_datasets.storage.folders import build_once, cache_root, cache_root_at, folder_size
from hnm_datasets.storage.manifest import is_complete, unfinish
from hnm_datasets.storage.writing import umask

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
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name in WHOLE}


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


def test_the_leftovers_of_others_go_unless_they_are_at_work(tmp_path):
    for name in ("dead.123.tmp", "dead.456.tmp", "busy.123.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "letters").write_text("a")
    (tmp_path / ".note.json.tmp").write_text("no folder")
    with FileLock(tmp_path / "busy.lock"):
        build_once(tmp_path, "one", Build())
    assert left_beside(tmp_path) == [".note.json.tmp", "busy.123.tmp", "one"]
    build_once(tmp_path, "two", Build())
    assert left_beside(tmp_path) == [".note.json.tmp", "one", "two"]


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


def test_the_size_of_a_folder(tmp_path):
    assert folder_size(tmp_path) == 0
    Build()(tmp_path)
    assert folder_size(tmp_path) == 13


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
