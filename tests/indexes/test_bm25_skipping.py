"""A search that skips postings answers as one that reads them all, to the bit."""

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import BM25Index, Corpus
from hnm_datasets.arrays.ragged import offsets_of
from hnm_datasets.indexes import bm25_kernels, bm25_skipping, bm25_skipping_kernels
from hnm_datasets.indexes.bm25_files import Postings
from hnm_datasets.indexes.sharded import ShardedIndex

METHODS = ["lucene", "robertson", "atire", "bm25l", "bm25+"]


def drawn(seed, passages, shares, values):
    """Postings of tokens that are in shares of the passages; few values of weights make many ties."""
    rng = np.random.default_rng(seed)
    lists = [np.flatnonzero(rng.random(passages) < share).astype(np.int32) for share in shares]
    starts = offsets_of([*map(len, lists), 0])
    weights = rng.integers(0, values + 1, starts[-1]) * np.repeat(rng.random(len(starts) - 1), np.diff(starts))
    arrays = (starts, np.concatenate(lists), weights.astype(np.float32))
    return Postings(*map(read_only, arrays))


def read_only(array):
    """As mapped arrays are, for which the loops are compiled."""
    array.setflags(write=False)
    return array


def bounds_of(postings, passages):
    bounds = bm25_skipping.bounds_of(postings, passages)
    return bm25_skipping_kernels.Bounds(*map(read_only, bounds))


def exhaustive(postings, offsets, tokens, passages, k):
    keys = np.empty((len(offsets) - 1, k), dtype=np.uint64)
    bm25_kernels.search(postings.starts, postings.postings, postings.weights, offsets, tokens, None, passages, keys)
    return np.sort(keys, axis=1)


@pytest.fixture(autouse=True)
def short_lists_have_segments(monkeypatch):
    monkeypatch.setattr(bm25_skipping, "_FREQUENT", 20)


SHARES = st.lists(st.sampled_from([0, 0.002, 0.01, 0.05, 0.07, 0.2, 0.5, 1]), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5000), SHARES, st.sampled_from([1, 2, 9, 10**6]), st.data())
def test_random_queries_have_the_same_keys(seed, passages, shares, values, data):
    postings = drawn(seed, passages, shares, values)
    token = st.integers(0, len(shares) - 1)
    queries = data.draw(st.lists(st.lists(token, max_size=9) | st.lists(token, min_size=58, max_size=62), max_size=5))
    k = data.draw(st.sampled_from([1, 3, 40, 700, 6000]))
    offsets = offsets_of([len(query) for query in queries])
    tokens = np.array([token for query in queries for token in query], dtype=np.int64)
    keys = np.empty((len(queries), k), dtype=np.uint64)
    bm25_skipping.search(postings, offsets, tokens, passages, bounds_of(postings, passages), keys)
    assert np.sort(keys, axis=1).tolist() == exhaustive(postings, offsets, tokens, passages, k).tolist()


@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("values", [30, 10**6])
def test_most_queries_are_answered_without_reading_all(k, values):
    passages, shares = 150_000, [0.0005, 0.003, 0.01, 0.03, 0.1, 0.3]
    postings = drawn(k + values, passages, shares, values)
    rng = np.random.default_rng(k)
    tokens = np.concatenate([rng.permutation(len(shares)) for _ in range(20)])
    offsets = np.arange(21) * len(shares)
    bounds = bounds_of(postings, passages)
    assert (bounds.lines >= 0).sum() == 2
    keys, done = np.empty((20, k), dtype=np.uint64), np.empty(20, dtype=np.bool_)
    index = (postings.starts, postings.postings, postings.weights)
    places = np.where(np.isin(tokens, bounds.tokens), np.searchsorted(bounds.tokens, tokens), -1)
    bm25_skipping_kernels.search(*index, offsets, tokens, passages, bounds, places, keys, done)
    assert done.mean() > 0.8
    assert np.sort(keys, axis=1)[done].tolist() == exhaustive(postings, offsets, tokens, passages, k)[done].tolist()


@pytest.mark.parametrize("method", METHODS)
def test_an_index_that_skips_answers_the_same(method, monkeypatch):
    rng = np.random.default_rng(0)
    words = np.array([f"w{number}x" for number in range(60)])
    shares = 1 / np.arange(1, 61) ** 0.7
    texts = [" ".join(rng.choice(words, rng.integers(1, 9), p=shares / shares.sum())) for _ in range(900)]
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": [str(row) for row in range(900)], "text": texts}))
    queries = [" ".join(rng.choice(words, 6)) for _ in range(70)] + ["", "unknown", " ".join(words)]
    index = BM25Index(corpus, method=method)
    expected = index.search(queries, 300)
    monkeypatch.setattr(bm25_skipping, "PASSAGES_PER_HIT", 0)
    for searched in (index, ShardedIndex([BM25Index(corpus, method=method, shard=(i, 2)) for i in range(2)])):
        for k in (1, 17, 300):
            hits = searched.search(queries, k)
            assert hits.rows.tolist() == expected.rows[:, :k].tolist()
            assert hits.scores.tolist() == expected.scores[:, :k].tolist()
    assert index.search(queries, 0).rows.shape == (73, 0)
    assert index.search([], 3).rows.shape == (0, 3)


def test_the_bounds_are_made_once_and_only_where_they_pay(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": list("abcdefghij"), "text": ["plates move"] * 10}))
    index, folder = BM25Index(corpus), tmp_path / "hnm_datasets" / "bm25-bounds"
    index.search(["plates"], 1)
    assert not folder.exists()
    monkeypatch.setattr(bm25_skipping, "PASSAGES_PER_HIT", 5)
    index.search(["plates"], 3)
    assert not folder.exists()
    before = index.nbytes
    index.search(["plates"], 2)
    assert index.nbytes == before + sum(path.stat().st_size for path in folder.glob("*/*.npy")) > before
    assert len(list(folder.glob("*/maxima.npy"))) == 1
    index.close()
    monkeypatch.setattr(bm25_skipping, "bounds_of", None)
    assert index.search(["plates"], 2).rows.tolist() == [[0, 1]]
