"""The shards of a corpus searched in actors of Ray, which are started again when they die."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from hnm_datasets import BM25Index, DenseIndex, ShardedIndex, load_sample
from hnm_datasets.runtime import ray_actors

ray = pytest.importorskip("ray")


def count_letters(texts):
    return np.array([[text.count(letter) + 1 for letter in "aeiost"] for text in texts], dtype=np.float32)


def pids(index):
    """Return the processes of an index's actors."""
    (actors,) = (actors for name, actors in ray_actors._ACTORS.items() if name.startswith(index.fingerprint))
    return ray.get([actor.__ray_call__.remote(lambda shard: os.getpid()) for actor in actors])


# Ray warns of its own changes, and leaves files to the garbage collector.
@pytest.mark.filterwarnings("ignore")
def test_actors_find_the_same_and_are_started_again(start_ray):
    corpus, rows = load_sample()
    queries = rows["query"][:20]
    plain = BM25Index(corpus)
    expected = plain.search(queries, 10)
    index = ShardedIndex([BM25Index(corpus, shard=(i, 2)) for i in range(2)], workers="ray")
    assert_same(index.search(queries, 10), expected)
    before = pids(index)
    assert len({os.getpid(), *before}) == 3
    # The same actors again, and between two searches one of them dies.
    assert_same(index.search(queries, 10), expected)
    assert pids(index) == before
    os.kill(before[1], signal.SIGKILL)
    assert_same(index.search(queries, 10), expected)
    after = pids(index)
    assert after[0] == before[0]
    assert after[1] != before[1]
    # During searches.
    killer = threading.Thread(target=lambda: (time.sleep(0.05), os.kill(after[0], signal.SIGKILL)))
    killer.start()
    while killer.is_alive():
        assert_same(index.search(queries, 10), expected)
    assert_same(index.search(queries, 10), expected)
    assert pids(index)[0] != after[0]

    embeddings = corpus.embed(count_letters, fingerprint="letters-2")
    dense = ShardedIndex([DenseIndex(embeddings, shard=(0, 1))], workers="ray")
    vectors = count_letters(queries)
    assert_same(dense.search(vectors, 10), DenseIndex(embeddings).search(vectors, 10))

    # A new cluster has no actors yet.
    ray.shutdown()
    start_ray()
    assert_same(dense.search(vectors, 10), DenseIndex(embeddings).search(vectors, 10))


def assert_same(one, other):
    for got, expected in zip(one, other, strict=True):
        np.testing.assert_array_equal(got, expected, strict=True)
