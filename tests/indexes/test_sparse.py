"""Sparse search: the answer of a slow, dense one, to the bit, whole or in shards, and prefix-stable."""

import multiprocessing
import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hnm_datasets import BM25Index, Corpus, ShardedIndex, SparseIndex
from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.storage.folders import cache_root


def embedded(matrix, name):
    """Return embeddings whose vectors are the rows of a matrix."""
    texts = [f"passage {row}" for row in range(len(matrix))]
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": [f"p{row}" for row in range(len(matrix))], "text": texts}))
    return corpus.embed_sparse(
        lambda texts: matrix[[int(text.split()[-1]) for text in texts]], fingerprint=f"{name}-{Hasher.hash(matrix)}"
    )


def slow_scores(queries, matrix):
    """Add up in float32, term by term, as the index says that it does."""
    scores = np.zeros((len(queries), len(matrix)), dtype=np.float32)
    for term in range(matrix.shape[1]):
        both = (queries[:, [term]] != 0) & (matrix[None, :, term] != 0)
        scores += np.where(both, queries[:, [term]] * matrix[None, :, term], np.float32(0))
    return scores


def check_hits(hits, scores, k):
    for row, own in enumerate(scores):
        order = np.argsort(-own, kind="stable")
        best = order[own[order] > 0][:k]
        assert hits.rows[row].tolist() == [*best, *[-1] * (k - len(best))]
        assert hits.scores[row].tolist() == [*own[best], *[-np.inf] * (k - len(best))]


def check_all(index, queries, scores, k):
    """Compare the answers and the scores of all passages."""
    for depth in (k, 2 * k):
        check_hits(index.search(queries, depth), scores, depth)
    every = Ragged(offsets_of(np.full(len(queries), scores.shape[1])), np.indices(scores.shape)[1].reshape(-1))
    np.testing.assert_array_equal(index.score(queries, every), scores.reshape(-1))


WEIGHTS = st.sampled_from([0, 0, 0, 0.5, 1, 0.1, -0.1, -1, 3.3, 1e-30, -1e-30])


@settings(max_examples=25)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 6)), elements=WEIGHTS),
    arrays(np.float32, st.tuples(st.integers(0, 3), st.integers(1, 8)), elements=WEIGHTS),
    st.integers(1, 12),
    st.sampled_from([1, 2, 5]),
)
def test_any_vectors_in_any_number_of_shards(matrix, queries, k, shards):
    embeddings, width = embedded(matrix, "any"), max(matrix.shape[1], queries.shape[1])
    padded, asked = (np.pad(one, ((0, 0), (0, width - one.shape[1]))) for one in (matrix, queries))
    scores = slow_scores(asked, padded)
    check_all(SparseIndex(embeddings), queries, scores, k)
    shards = min(shards, len(matrix))
    check_all(ShardedIndex([SparseIndex(embeddings, shard=(i, shards)) for i in range(shards)]), queries, scores, k)


@pytest.fixture(scope="module")
def large():
    """Terms of very different frequencies, so that both ways to pick the best are taken; weights of both signs."""
    rng = np.random.default_rng(0)
    matrix = scipy.sparse.hstack(
        [scipy.sparse.random(6000, 4, density, random_state=rng) for density in (0.5, 0.01, 0.001)]
    )
    # Few distinct weights, so that ties are common.
    matrix = np.round(matrix.toarray(), 1).astype(np.float32)
    matrix[:, 3] *= -1
    queries = np.round(rng.uniform(-1, 3, (150, 12)) * (rng.random((150, 12)) < 0.3), 1).astype(np.float32)
    # Some ask for rare terms alone, which may subtract.
    queries[::3, :8] = 0
    return embedded(matrix, "large"), queries, slow_scores(queries, matrix)


def test_frequent_and_rare_terms(large):
    embeddings, queries, scores = large
    assert (scores < 0).any()
    index = SparseIndex(embeddings)
    check_all(index, queries, scores, 20)
    sharded = ShardedIndex([SparseIndex(embeddings, shard=(i, 5)) for i in range(5)], memory="40kB")
    check_all(sharded, queries, scores, 20)
    assert index.nbytes > 0
    assert index.corpus == Corpus(embeddings.corpus_fingerprint)


def test_queries_in_the_forms_of_models(large):
    embeddings, queries, scores = large
    forms = [queries, scipy.sparse.csr_array(queries), torch.from_numpy(queries).to_sparse()]
    for form in forms:
        check_hits(SparseIndex(embeddings).search(form, 3), scores, 3)


def test_after_a_fork(large):
    embeddings, queries, scores = large
    index = SparseIndex(embeddings)
    index.search(queries, 3)

    def child():
        check_hits(index.search(queries, 5), scores, 5)

    worker = multiprocessing.get_context("fork").Process(target=child)
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0


def test_what_is_built_is_opened_and_deleted(large):
    embeddings, queries, scores = large
    copy = embedded(np.eye(3, dtype=np.float32), "discarded")
    index = SparseIndex(copy)
    index.prepare()
    folder = cache_root() / "sparse" / index.fingerprint
    written = (folder / "postings.npy").stat().st_mtime_ns
    index.close()
    check_hits(index.search(np.eye(3), 2), np.eye(3, dtype=np.float32), 2)
    assert (folder / "postings.npy").stat().st_mtime_ns == written
    index.discard()
    assert not folder.exists()
    assert not copy.are_made
    check_hits(SparseIndex(embeddings).search(queries[:2], 2), scores[:2], 2)


def test_pickles_hashes_and_names(large):
    index = SparseIndex(large[0])
    again = pickle.loads(pickle.dumps(index))
    assert again == index
    assert (Hasher.hash(again), again.fingerprint) == (Hasher.hash(index), index.fingerprint)
    assert SparseIndex(large[0], shard=(0, 2)).fingerprint != SparseIndex(large[0], shard=(1, 2)).fingerprint
    sharded = ShardedIndex([SparseIndex(large[0], shard=(i, 2)) for i in (1, 0)])
    assert sharded.embeddings == large[0]
    with pytest.raises(AttributeError, match="dense or sparse shards accepts vectors"):
        sharded.encode(["text"])


def test_bad_input_is_named(large):
    index = SparseIndex(large[0])
    with pytest.raises(TypeError, match=r"embeddings must be SparseEmbeddings, got str.*embed_sparse"):
        SparseIndex("embeddings")
    with pytest.raises(ValueError, match=r"shard must be \(i, n\)"):
        SparseIndex(large[0], shard=(2, 2))
    with pytest.raises(ValueError, match="Sparse vectors must be a matrix"):
        index.search(["a text"], 3)
    for value in (np.nan, np.inf, 1e20):
        with pytest.raises(ValueError, match="weight of the query vector 1 is NaN, infinite or beyond 1e15"):
            index.search([[1.0, 0], [0, value]], 3)
    with pytest.raises(ValueError, match="all shards must have the same type"):
        ShardedIndex([SparseIndex(large[0], shard=(0, 2)), BM25Index(index.corpus, shard=(1, 2))])
