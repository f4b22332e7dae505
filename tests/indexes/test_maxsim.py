"""MaxSim equals that of sentence-transformers, and depends on the two texts alone."""

import datasets
import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.util import maxsim as their_maxsim
from sentence_transformers.util import mean_maxsim

from hnm_datasets import Corpus
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.indexes import maxsim
from hnm_datasets.models import shard_job
from hnm_datasets.models.token_vectors import token_vectors


@pytest.fixture(scope="module", autouse=True)
def _own_cache_and_small_shards(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr(shard_job, "SHARD", 16)
        yield


def arrays_of(rng, count, dimension, longest):
    arrays = [rng.standard_normal((rng.integers(1, longest + 1), dimension)) for _ in range(count)]
    return [array / np.linalg.norm(array, axis=1, keepdims=True) for array in arrays]


def embeddings_of(arrays, name):
    texts = [f"{name} {number}" for number in range(len(arrays))]
    by_text = dict(zip(texts, arrays, strict=True))
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": texts, "text": texts}))
    return corpus.embed_tokens(lambda some: [by_text[text] for text in some], fingerprint=name)


@pytest.mark.parametrize(("dimension", "longest"), [(1, 3), (3, 9), (7, 40), (96, 33), (128, 300)])
def test_scores_are_those_of_sentence_transformers(dimension, longest):
    rng = np.random.default_rng(dimension)
    passages, queries = arrays_of(rng, 40, dimension, longest), arrays_of(rng, 9, dimension, 34)
    embeddings = embeddings_of(passages, f"maxsim-{dimension}")
    lists = Ragged(np.arange(10) * 40, np.tile(np.arange(40), 9))
    found = maxsim.score(token_vectors(queries), embeddings, lists).reshape(9, 40)
    rounded = [[array.astype(np.float16).astype(np.float32) for array in arrays] for arrays in (queries, passages)]
    np.testing.assert_allclose(found, their_maxsim(*rounded).numpy(), rtol=1e-5, atol=1e-5)
    exact = their_maxsim(*([array.astype(np.float32) for array in arrays] for arrays in (queries, passages))).numpy()
    np.testing.assert_allclose(found, exact, atol=5e-3)


@pytest.fixture(scope="module")
def made():
    """Passages and queries of few and of many dimensions, and the scores of all pairs."""
    found = {}
    for dimension in (2, 24, 130):
        rng = np.random.default_rng(dimension)
        queries = arrays_of(rng, 4, dimension, 40)
        embeddings = embeddings_of(arrays_of(rng, 40, dimension, 400), f"pairs-{dimension}")
        every = Ragged(np.arange(5) * 40, np.tile(np.arange(40), 4))
        found[dimension] = queries, embeddings, maxsim.score(token_vectors(queries), embeddings, every).reshape(4, 40)
    return found


@given(
    dimension=st.sampled_from([2, 24, 130]),
    query=st.integers(0, 3),
    rows=st.lists(st.integers(0, 39), max_size=8),
    pairs=st.integers(1, 4),
)
def test_a_score_depends_on_the_pair_alone(made, dimension, query, rows, pairs):
    queries, embeddings, whole = made[dimension]
    lists = Ragged(np.array([0, len(rows)]), np.array(rows, dtype=np.int64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maxsim, "_PAIRS", pairs)
        alone = maxsim.score(token_vectors([queries[query]]), embeddings, lists)
    assert alone.tobytes() == whole[query, rows].tobytes()


def test_tiny_and_large_numbers():
    """Half precision has numbers of few bits below 6e-5, and ends at 65,504."""
    passages = [np.array([[2.0**-24, -(2.0**-15)]]), np.array([[65504.0, -65504.0]]), np.array([[0.0, -0.0]])]
    found = maxsim.score(
        token_vectors([np.array([[1.0, 0.0], [0.0, 1.0]])]),
        embeddings_of(passages, "tiny"),
        Ragged(np.array([0, 3]), np.arange(3)),
    )
    assert found.tolist() == [2.0**-24 - 2.0**-15, 0.0, 0.0]


def test_the_mean_is_that_of_sentence_transformers(make_token_model):
    model = make_token_model(similarity_fn_name="meanmaxsim")
    texts, queries = ["plate moves", "a wave. and another", "rock"], ["moves plate", "w"]
    embeddings = Corpus.from_dataset(Dataset.from_dict({"id": texts, "text": texts})).embed_tokens(model)
    assert embeddings.similarity == "meanmaxsim"
    asked = token_vectors(model.encode_query(queries))
    found = maxsim.score(asked, embeddings, Ragged(np.array([0, 3, 6]), np.tile(np.arange(3), 2))).reshape(2, 3)
    expected = mean_maxsim(model.encode_query(queries), model.encode_document(texts))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-3)


def test_vectors_of_another_model_are_refused():
    embeddings = embeddings_of([np.ones((2, 3))], "three")
    with pytest.raises(ValueError, match="have 4 dimensions, but those of the corpus have 3"):
        maxsim.score(token_vectors([np.ones((2, 4))]), embeddings, Ragged(np.array([0, 1]), np.array([0])))
