"""Where the shards of a corpus are searched: within a budget of memory, in worker processes, in actors of Ray."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from hnm_datasets import BM25Index, BM25Negatives, Corpus, DenseIndex, DenseNegatives, ShardedIndex, load_sample
from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.indexes import bm25 as bm25_module
from hnm_datasets.indexes import dense as dense_module
from hnm_datasets.indexes import shard_workers
from hnm_datasets.indexes import sharded as sharded_module
from hnm_datasets.storage.opened import Opened

TABLE = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
VECTORS = np.random.default_rng(1).normal(size=(40, 16)).astype(np.float32)


def by_number(texts):
    return TABLE[[int(text.split()[-1]) for text in texts]]


def embedded():
    ids, texts = [f"p{i}" for i in range(len(TABLE))], [f"passage {i}" for i in range(len(TABLE))]
    return Corpus.from_dataset(Dataset.from_dict({"id": ids, "text": texts})).embed(by_number, fingerprint="table-1")


def shards_of(kind, content, shards, **options):
    return [kind(content, shard=(i, shards), **options) for i in range(shards)]


def indexes_of(workers):
    """Return queries, an index and the same in shards, of each kind."""
    corpus, rows = load_sample()
    embeddings = embedded()
    return {
        "bm25": (rows["query"][:9], BM25Index(corpus), ShardedIndex(shards_of(BM25Index, corpus, 3), workers=workers)),
        "dense": (
            VECTORS,
            DenseIndex(embeddings),
            ShardedIndex(shards_of(DenseIndex, embeddings, 3), workers=workers),
        ),
    }


def assert_same(one, other):
    for got, expected in zip(one, other, strict=True):
        np.testing.assert_array_equal(got, expected, strict=True)


def as_lists(rows):
    found = rows >= 0
    return Ragged(offsets_of(found.sum(axis=1)), rows[found])


# ---- memory ---------------------------------------------------------------------------------------------------------


def mapped():
    """Return the index files that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[-1] for line in lines if "/bm25/" in line and line.endswith(".npy")}


def names_in(opened):
    """Return the fingerprints of the indexes that this process has opened."""
    return {name for _, name in opened._resources}


@pytest.fixture(autouse=True)
def _nothing_open(monkeypatch):
    for module, name in ((bm25_module, "_OPENED"), (bm25_module, "_VOCABULARIES"), (dense_module, "_OPENED")):
        monkeypatch.setattr(module, name, Opened())
    monkeypatch.setattr(sharded_module, "_RECENT", {})


@pytest.mark.parametrize("fitting", [0, 1, 2, 5])
def test_no_more_than_the_memory_is_open(fitting, monkeypatch):
    corpus, rows = load_sample()
    queries = rows["query"][:5]
    expected = BM25Index(corpus, b=0.6).search(queries, 20)
    lists = as_lists(expected.rows)
    shards = shards_of(BM25Index, corpus, 5, b=0.6)
    memory = sum(sorted(shard.nbytes for shard in shards)[-fitting:]) if fitting else 1
    for shard in shards:
        # They are open from before, and closed by the first search within the memory.
        shard.search(queries, 1)
    assert names_in(bm25_module._OPENED) >= {shard.fingerprint for shard in shards}
    index = ShardedIndex(shards, memory)
    open_at_once, reopened = [], []
    search = BM25Index.search_shard

    def watched(shard, *arguments):
        before = names_in(bm25_module._OPENED)
        found = search(shard, *arguments)
        reopened.extend(names_in(bm25_module._OPENED) - before)
        opened = [one for one in shards if one.fingerprint in names_in(bm25_module._OPENED)]
        assert shard in opened
        assert len(opened) <= 1 or sum(one.nbytes for one in opened) <= memory
        folders = {Path(path).parent.name for path in mapped()} & {one.fingerprint for one in shards}
        assert folders == {one.fingerprint for one in opened}
        open_at_once.append(len(opened))
        return found

    monkeypatch.setattr(BM25Index, "search_shard", watched)
    for _ in range(3):
        assert_same(index.search(queries, 20), expected)
        np.testing.assert_array_equal(index.score(queries, lists), expected.scores[expected.rows >= 0])
    assert max(open_at_once) == max(1, fitting)
    assert len(reopened) >= 5
    if fitting == 5:
        assert len(reopened) == 5


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])
def test_the_memory_of_dense_shards(factory, monkeypatch):
    closed = []
    close = DenseIndex.close
    monkeypatch.setattr(DenseIndex, "close", lambda shard: (closed.append(shard.shard), close(shard))[1])
    embeddings = embedded()
    shards = shards_of(DenseIndex, embeddings, 4, factory=factory)
    expected = ShardedIndex(shards).search(VECTORS, 12)
    index = ShardedIndex(shards, 2 * max(shard.nbytes for shard in shards))
    assert closed == []
    assert len(names_in(dense_module._OPENED)) == (0 if factory == "Flat" else 4)
    assert_same(index.search(VECTORS, 12), expected)
    # First all that may be open from before, then two of them to make room.
    assert closed == [*((i, 4) for i in range(4)), (0, 4), (1, 4)]
    assert len(names_in(dense_module._OPENED)) == (0 if factory == "Flat" else 2)
    del closed[:4]
    # Those that are open come first, so two shards are opened again, not four.
    assert_same(index.search(VECTORS, 12), expected)
    assert closed == [(0, 4), (1, 4), (2, 4), (3, 4)]


# ---- worker processes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bm25", "dense"])
def test_worker_processes_find_the_same(kind):
    queries, plain, index = indexes_of(2)[kind]
    for k in (3, 30):
        assert_same(index.search(queries, k), plain.search(queries, k))
    lists = as_lists(plain.search(queries, 3).rows)
    np.testing.assert_array_equal(index.score(queries, lists), plain.score(queries, lists))


def test_all_indexes_share_the_processes(monkeypatch):
    monkeypatch.setattr(shard_workers, "_POOLS", {})
    for queries, _, index in indexes_of(2).values():
        index.search(queries, 3)
        index.search(queries, 5)
    (pool,) = shard_workers._POOLS.values()
    assert len(pool._processes) == 2
    pool.shutdown()


@pytest.mark.parametrize("kind", ["bm25", "dense"])
def test_map_workers_search_one_shard_after_another(kind, monkeypatch):
    queries, plain, index = indexes_of(2)[kind]
    if kind == "dense":
        rows = Dataset.from_dict({"query": [f"passage {i}" for i in range(8)], "positive_ids": [["p9"]] * 8})
        expected, step = (
            DenseNegatives(one.corpus, by_number, fingerprint="table-1", k=4, index=one) for one in (plain, index)
        )
    else:
        rows = load_sample()[1].select(range(8))
        expected, step = (BM25Negatives(one.corpus, k=4, index=one) for one in (plain, index))
    # The workers inherit the pool and its locks, without the threads that serve it.
    index.search(queries, 3)
    alone = rows.map(step, batched=True, load_from_cache_file=False).to_dict()
    monkeypatch.setattr(sharded_module, "search_in_processes", lambda *_: pytest.fail("a worker asked for workers"))
    shared = rows.map(step, batched=True, num_proc=2, load_from_cache_file=False).to_dict()
    monkeypatch.undo()
    assert alone == shared == rows.map(expected, batched=True).to_dict()
    assert_same(index.search(queries, 3), plain.search(queries, 3))


def test_workers_keep_below_the_memory():
    script = (
        "from hnm_datasets import BM25Index, ShardedIndex, load_sample\n"
        "from hnm_datasets.indexes import bm25, shard_workers\n"
        "corpus, _ = load_sample()\n"
        "shards = [BM25Index(corpus, shard=(i, 6)) for i in range(6)]\n"
        "index = ShardedIndex(shards, memory=2 * max(shard.nbytes for shard in shards), workers=1)\n"
        "index.search(['disease'], 2)\n"
        "(pool,) = shard_workers._POOLS.values()\n"
        'print(len(bm25._OPENED._resources), pool.submit(eval, \'__import__("sys").modules["\'\n'
        "    'hnm_datasets.indexes.bm25\"]._OPENED._resources.__len__()').result())\n"
    )
    assert run(script) == "0 2"


def test_errors_in_workers_reach_the_caller():
    queries, plain, index = indexes_of(2)["bm25"]
    with pytest.raises(ValueError, match="negative dimensions") as caught:
        index.search(queries, -1)
    # Only what a worker raised has a traceback of another process.
    assert type(caught.value.__cause__).__name__ == "_RemoteTraceback"
    assert_same(index.search(queries, 2), plain.search(queries, 2))


def test_killed_workers_are_told_and_replaced(monkeypatch):
    monkeypatch.setattr(shard_workers, "_POOLS", {})
    queries, plain, index = indexes_of(2)["bm25"]
    index.search(queries, 2)
    (pool,) = shard_workers._POOLS.values()
    for pid in list(pool._processes):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(BrokenProcessPool):
        index.search(queries, 2)
    assert_same(index.search(queries, 2), plain.search(queries, 2))
    shard_workers._POOLS.popitem()[1].shutdown()


def run(script):
    """Run a script of its own and return what it printed."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SEARCH_AND_SHOW_WORKERS = (
    "import os, signal\n"
    "from hnm_datasets import BM25Index, ShardedIndex, load_sample\n"
    "from hnm_datasets.indexes.shard_workers import _POOLS\n"
    "corpus, _ = load_sample()\n"
    "index = ShardedIndex([BM25Index(corpus, shard=(i, 3)) for i in range(3)], workers=2)\n"
    "def search():\n"
    "    assert (index.search(['disease'], 2).rows >= 0).all()\n"
    "search()\n"
    "print(*[pid for pool in _POOLS.values() for pid in pool._processes], flush=True)\n"
)


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), signal.SIGKILL)\n"])
def test_the_workers_end_with_the_program(end):
    # What is printed is read until all have ended who could print: that would be the workers.
    done = subprocess.run(
        [sys.executable, "-c", SEARCH_AND_SHOW_WORKERS + end], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == (-signal.SIGKILL if end else 0), done.stderr
    workers = [Path(f"/proc/{pid}/cmdline") for pid in done.stdout.split()]
    assert len(workers) == 2
    waited = time.monotonic() + 5
    while any(path.exists() and path.read_bytes() for path in workers) and time.monotonic() < waited:
        time.sleep(0.05)
    assert not any(path.exists() and path.read_bytes() for path in workers)


def test_a_fork_of_the_program_has_workers_of_its_own():
    child = (
        "child = os.fork()\n"
        "if not child:\n"
        "    search()\n"
        "    os._exit(7)\n"
        "print(os.waitpid(child, 0)[1] >> 8)\n"
        "search()\n"
    )
    assert run(SEARCH_AND_SHOW_WORKERS + child).splitlines()[-1] == "7"
