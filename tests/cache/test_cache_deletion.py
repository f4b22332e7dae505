"""Deletion takes what was asked for, whole, and nothing that a process uses."""

import os
import shutil
import signal
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from cache_helpers import FORK, left_by_a_killed_build, make, paths
from filelock import FileLock

from hnm_datasets import Corpus, cached, save_mined
from hnm_datasets.cache.listing import size_in_words
from hnm_datasets.hub.saving import lock_of
from hnm_datasets.models import shard_job
from hnm_datasets.models.embedding_job import EmbeddingJob
from hnm_datasets.models.encoders import Encoder
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.folders import build_once, cache_root_at
from hnm_datasets.storage.manifest import is_complete
from hnm_datasets.storage.results import Results


@pytest.fixture
def root(tmp_path):
    # A name with characters that have a meaning in a pattern.
    return tmp_path / "a cache [of] *mine"


def test_by_kind_by_age_and_by_name(root):
    old = make(root, "bm25", 0, age=40)
    new = make(root, "bm25", 1, model_name="m")
    vectors = make(root, "embeddings", 2, age=40, model_name="m")
    deletion = cached("bm25", older_than="30d", cache_folder=root).delete()
    assert str(deletion) == f"1 folder deleted, {size_in_words(deletion.deleted.nbytes)} freed."
    assert deletion.deleted.nbytes > 1000
    assert paths(deletion.deleted) == {old}
    assert not old.exists()
    assert paths(cached(cache_folder=root)) == {new, vectors}
    assert paths(cached(name="m", cache_folder=root).delete().deleted) == {new, vectors}
    assert len(cached(cache_folder=root)) == 0


def test_all_of_it_and_nothing_of_others(root):
    own = [make(root, kind, 3) for kind in ("bm25", "dense", "rows")]
    notes = root / "bm25" / "notes"
    notes.mkdir()
    (root.parent / "json").mkdir()
    left = left_by_a_killed_build(root)
    assert paths(cached(cache_folder=root).delete().deleted) == {*own, left}
    assert notes.is_dir()
    assert (root.parent / "json").is_dir()
    assert [path for path in (root / "bm25").iterdir() if path.is_dir()] == [notes]


def test_what_was_deleted_is_made_again(root):
    folder = make(root)
    cached(cache_folder=root).delete()
    assert not is_complete(folder)
    assert make(root) == folder
    assert is_complete(folder)


# ---- in use ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", ["beside", "inside"])
def test_a_folder_that_is_written_is_left(root, lock):
    folder, other = make(root), make(root, which=1)
    path = folder.with_name(f"{folder.name}.lock") if lock == "beside" else folder / "shards" / "0.lock"
    with FileLock(path):
        deletion = cached(cache_folder=root).delete()
    assert paths(deletion.deleted) == {other}
    assert str(deletion).splitlines()[1] == f"Left: {folder}: a running process writes it."
    assert is_complete(folder)
    assert paths(cached(cache_folder=root).delete().deleted) == {folder}


def test_a_build_that_runs_keeps_its_folder(root):
    left = left_by_a_killed_build(root)
    with FileLock(left.with_name(f"{left.name.split('.')[0]}.lock")):
        assert len(cached("unfinished", cache_folder=root).delete().left) == 1
    assert paths(cached("unfinished", cache_folder=root).delete().deleted) == {left}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists the mapped files of a process")
def test_a_folder_that_is_read_is_left(root):
    folder = make(root)
    ready, stop = FORK.Event(), FORK.Event()

    def read():
        numbers = np.memmap(folder / "numbers", mode="r")
        ready.set()
        assert stop.wait(60)
        assert numbers[0] == ord("1")

    process = FORK.Process(target=read)
    process.start()
    assert ready.wait(60)
    deletion = cached(cache_folder=root).delete()
    stop.set()
    process.join()
    assert process.exitcode == 0
    assert str(deletion).splitlines()[1] == f"Left: {folder}: the process {process.pid} has it open."
    numbers = np.memmap(folder / "numbers", mode="r")
    assert "this process has it open" in str(cached(cache_folder=root).delete())
    del numbers
    assert paths(cached(cache_folder=root).delete().deleted) == {folder}


def test_a_store_that_is_written_is_left(root):
    with cache_root_at(root):
        Results("vectors", "0" * 32).add(digest_strings(["a"]), np.float32([[1, 2]]))
        folder = root / "vectors" / ("0" * 32)
        with FileLock(folder / "write.lock"):
            assert "writes it" in str(cached().delete())
        assert paths(cached("vectors").delete().deleted) == {folder}
        again = Results("vectors", "0" * 32)
        assert not again.find(digest_strings(["a"]))[0].any()
        again.add(digest_strings(["a"]), np.float32([[1, 2]]))
        assert len(cached("vectors")) == 1


class Deletes:
    """An embedding function that deletes the cache in the middle of its work."""

    def __init__(self, root, how):
        self.root, self.how, self.said = root, how, []

    def __call__(self, texts):
        if texts[-1] == "third":
            self.said.append(self.how(self.root))
        return np.ones((len(texts), 2))


def test_a_corpus_that_is_embedded_is_left(root, monkeypatch):
    monkeypatch.setattr(shard_job, "SHARD", 1)
    with cache_root_at(root):
        corpus = Corpus.from_dataset({"id": ["a", "b", "c"], "text": ["first", "second", "third"]})
        model = Deletes(root, lambda root: str(cached("unfinished", cache_folder=root).delete()))
        embeddings = corpus.embed(model, fingerprint="ones")
        assert [said.splitlines()[0] for said in model.said] == ["0 folders deleted, 0 bytes freed."]
        assert "writes it" in model.said[0]
        assert (embeddings.vectors > 0).all()
        # Between two shards nothing is locked but this.
        job = EmbeddingJob(corpus, Encoder(model, "document", fingerprint="twos"))
        job.begin()
        with job.at_work():
            assert "writes it" in str(cached("unfinished").delete())
        assert len(cached("unfinished").delete().deleted) == 1


def test_shards_that_vanish_are_no_zeros(root, monkeypatch):
    monkeypatch.setattr(shard_job, "SHARD", 1)
    with cache_root_at(root):
        corpus = Corpus.from_dataset({"id": ["a", "b", "c"], "text": ["first", "second", "third"]})
        job = EmbeddingJob(corpus, Encoder(lambda texts: np.ones((len(texts), 2)), "document", fingerprint="ones"))
        job.begin()
        for shard in (0, 1):
            job.take(shard)
        shutil.rmtree(job.folder)
        job.take(2)
        with pytest.raises(FileNotFoundError, match=r"2 of 3 shards .* were deleted .* Repeat the call"):
            job.end()
        job.ensure()
        assert (job.embeddings.vectors > 0).all()


# ---- interrupted -----------------------------------------------------------------------------------------------------


def be_killed_while_deleting(root):
    shutil.rmtree = lambda path: (next(Path(path).glob("numbers")).unlink(), os.kill(os.getpid(), signal.SIGKILL))
    cached(cache_folder=root).delete()


def test_an_interrupted_deletion_leaves_nothing_that_is_opened(root):
    folder = make(root)
    process = FORK.Process(target=be_killed_while_deleting, args=(root,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not folder.exists()
    (rest,) = cached(cache_folder=root)
    assert rest.kind == "unfinished"
    assert paths(cached(cache_folder=root).delete().deleted) == {rest.path}
    assert [path for path in (root / "bm25").iterdir() if path.is_dir()] == []


def test_the_next_build_removes_what_an_interrupted_deletion_left(root):
    left = left_by_a_killed_build(root)
    make(root)
    assert not left.exists()


def test_a_folder_that_is_gone_meanwhile(root):
    folder = make(root)
    found = cached(cache_folder=root)
    shutil.rmtree(folder)
    assert str(found.delete()) == f"0 folders deleted, 0 bytes freed.\nLeft: {folder}: it no longer exists."


def test_a_folder_that_became_a_link_is_left(root):
    folder, elsewhere = make(root), make(root.parent / "elsewhere", which=7)
    found = cached(cache_folder=root)
    shutil.rmtree(folder)
    folder.symlink_to(elsewhere)
    assert "is a symbolic link" in str(found.delete())
    assert is_complete(elsewhere)
    shutil.move(root / "bm25", root.parent / "moved")
    (root / "bm25").symlink_to(root.parent / "moved")
    assert "is a symbolic link" in str(found.delete())


def test_links_inside_of_a_folder_are_removed_and_not_followed(root):
    (root.parent / "precious").mkdir()
    (root.parent / "precious" / "file").write_text("stays")
    folder = make(root)
    (folder / "link").symlink_to(root.parent / "precious")
    assert len(cached(cache_folder=root).delete().deleted) == 1
    assert (root.parent / "precious" / "file").read_text() == "stays"


# ---- folders for the Hub ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quakes", "quakes.1.tmp"])
def test_folders_for_the_hub(root, name):
    rows = {"anchor": ["what?"], "positive": ["this"], "negative": ["that"]}
    with cache_root_at(root):
        folder = root / "pushes" / "me" / name
        save_mined(rows, folder)
        (found,) = cached("pushes")
        with FileLock(lock_of(folder.resolve())):
            assert "writes it" in str(cached("pushes").delete())
        assert found.path == folder
        assert len(cached("pushes").delete().deleted) == 1
        assert list(folder.parent.iterdir()) == []
        half = folder.with_name(f".{name}.hnm_datasets.new")
        half.mkdir()
        assert paths(cached("unfinished").delete().deleted) == {half}
        save_mined(rows, folder)
        assert folder.is_dir()


# ---- read-only -------------------------------------------------------------------------------------------------------


@contextmanager
def as_a_reader(folder):
    """Work as somebody who may read a folder and not write to it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for path in (folder, *folder.rglob("*")):
            path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o200)


def test_a_read_only_cache_is_listed_used_and_left():
    # The folders of pytest are closed to others.
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        root = Path(parent) / "cache"
        folder = make(root, age=40)
        with as_a_reader(root):
            (found,) = cached(older_than="30d", cache_folder=root)
            assert found.path == folder
            # The use cannot be noted, and that is no error.
            assert build_once(root / "bm25", folder.name, lambda aside: 1 / 0) == folder
            (left,) = cached(cache_folder=root).delete().left
            assert left[1] == "it cannot be deleted: Permission denied"
        assert is_complete(folder)
