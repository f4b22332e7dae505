"""Sparse embeddings: those of the model, each passage once, whatever happens in between, never another model's."""

import multiprocessing
import os
import pickle
import signal
import time

import datasets
import numpy as np
import older_versions
import pytest
import scipy.sparse
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder, SparseStaticEmbedding, SpladePooling
from transformers import BertForMaskedLM

from hnm_datasets import Corpus, SparseEmbeddings
from hnm_datasets.models import shard_job
from hnm_datasets.models.handles import load_model
from hnm_datasets.models.sparse_encoders import SparseTextEncoder
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.folders import cache_root, cache_root_at
from hnm_datasets.storage.manifest import DamagedFolderError

SHARD = 8
WORDS = ["plate", "wave", "rock", "on", "moves", *map(str, range(40))]


@pytest.fixture(autouse=True)
def _own_cache_and_small_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(shard_job, "SHARD", SHARD)


def corpus_of(texts):
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{row}" for row in range(len(texts))], "text": texts}))


TEXTS = [f"plate {row if row % 5 else row // 2 + 1} moves " + "on " * (row % 4) for row in range(50)]
TEXTS[24:32] = TEXTS[:8]
TEXTS[40] = "unheard of"


@pytest.fixture
def corpus():
    """Seven shards; the fourth repeats the first, and one passage has no known word."""
    return corpus_of(TEXTS)


@pytest.fixture
def model(make_sparse_model):
    return make_sparse_model(WORDS)


@pytest.fixture(scope="module")
def splade(tmp_path_factory, save_bert):
    return make_splade(save_bert(tmp_path_factory.mktemp("splade"), BertForMaskedLM))


def make_splade(path, **options):
    return SparseEncoder(
        modules=[Transformer(path, transformer_task="fill-mask", max_seq_length=24), SpladePooling()],
        device="cpu", **options,
    )  # fmt: skip


def answer(texts):
    """Terms and weights that depend on the text alone; some texts have none."""
    digests = digest_strings(texts)
    return (digests[:, :1] >> np.arange(30, dtype=np.uint64)) % 3 % 2 * (digests[:, 1:] % 97 + 1) * (digests[:, :1] % 7)


def dense(vectors, width):
    return scipy.sparse.csr_array(
        (vectors.weights, vectors.terms, vectors.offsets), shape=(len(vectors), width)
    ).toarray()


def matrix_of(embeddings, width):
    whole = dense(embeddings.take(np.arange(len(embeddings))), width)
    np.testing.assert_array_equal(np.concatenate([dense(block, width) for block in embeddings.blocks()]), whole)
    return whole


def theirs(method, texts, **options):
    return method(list(texts), **options).to_dense().numpy()


# ---- what they hold --------------------------------------------------------------------------------------------------


def test_weights_are_those_of_the_model_in_corpus_order(corpus, model):
    embeddings = corpus.embed_sparse(model)
    np.testing.assert_array_equal(matrix_of(embeddings, len(WORDS) + 1), theirs(model.encode_document, TEXTS))
    assert (len(embeddings), embeddings.similarity, embeddings.prompt) == (50, "dot", "")
    assert (embeddings.corpus_fingerprint, embeddings.max_active_dims) == (corpus.fingerprint, None)
    assert repr(embeddings).startswith("SparseEmbeddings(50 vectors of 3.")
    assert embeddings.are_made
    picked = np.array([40, 3, 27, 3])
    np.testing.assert_array_equal(dense(embeddings.take(picked), 60)[:, :46], matrix_of(embeddings, 46)[picked])
    assert [len(block) for block in embeddings.blocks(range(5, 18))] == [3, 8, 2]
    np.testing.assert_array_equal(
        np.concatenate([dense(block, 46) for block in embeddings.blocks(range(5, 18))]), matrix_of(embeddings, 46)[5:18]
    )


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_splade(corpus, splade, batch_size):
    for options in ({}, {"max_active_dims": 5}, {"prompt": "waves "}):
        embeddings = corpus.embed_sparse(splade, batch_size=batch_size, **options)
        expected = theirs(splade.encode_document, TEXTS, **options)
        np.testing.assert_allclose(matrix_of(embeddings, expected.shape[1]), expected, atol=1e-5)
        assert (np.count_nonzero(expected, axis=1) <= options.get("max_active_dims", 99)).all()
        embeddings.discard()


def test_queries_and_documents_of_a_model_with_a_router(corpus, splade, tmp_path):
    tokenizer = splade[0].tokenizer
    weights = torch.linspace(0, 2, len(tokenizer))
    model = SparseEncoder(
        modules=[Router.for_query_document([SparseStaticEmbedding(tokenizer, weights, frozen=True)], list(splade))],
        device="cpu",
        prompts={"query": "a ", "document": "b "},
    )
    model.save(str(tmp_path / "router"))
    for one in (model, str(tmp_path / "router")):
        queries = SparseTextEncoder(one, "query")
        width = len(weights)
        np.testing.assert_array_equal(dense(queries.vectors(TEXTS), width), theirs(model.encode_query, TEXTS))
        expected = theirs(model.encode_document, TEXTS)
        np.testing.assert_allclose(matrix_of(corpus.embed_sparse(one), width), expected, atol=1e-5)
    assert (queries.source, queries.prompt) == (str(tmp_path / "router"), "a ")


@older_versions.needs("sentence-transformers", "6.2", "the model changes when it encodes")
def test_a_sparse_autoencoder_is_told_how_many_dimensions_to_keep(corpus, splade, save_bert, tmp_path):
    torch.manual_seed(0)
    path = save_bert(tmp_path / "bert", BertForMaskedLM)
    modules = [Transformer(path), Pooling(32, "mean"), SparseAutoEncoder(32, 64, k=12)]
    model = SparseEncoder(modules=modules, device="cpu", similarity_fn_name="cosine", max_active_dims=7)
    embeddings = corpus.embed_sparse(model)
    expected = theirs(model.encode_document, TEXTS, max_active_dims=7)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(matrix_of(embeddings, 64), expected, atol=1e-5)
    assert (embeddings.similarity, embeddings.normalize, embeddings.max_active_dims) == ("cosine", True, 7)


@settings(max_examples=15)
@given(
    st.lists(st.text(st.sampled_from("aAb "), min_size=1, max_size=3).filter(str.strip), min_size=1, max_size=30),
    st.integers(1, 9),
)
def test_vectors_do_not_depend_on_shards_and_repetitions(tmp_path_factory, texts, shard):
    seen = []

    def model(texts):
        seen.extend(texts)
        return answer(texts)

    with pytest.MonkeyPatch.context() as patch, cache_root_at(tmp_path_factory.mktemp("cache")):
        patch.setattr(shard_job, "SHARD", shard)
        embeddings = corpus_of(texts).embed_sparse(model, fingerprint="any-1")
        np.testing.assert_array_equal(matrix_of(embeddings, 30), answer(texts))
        assert sorted(seen) == sorted(set(texts))


def test_names(corpus, model, make_sparse_model, tmp_path):
    plain = corpus.embed_sparse(model)
    others = [
        corpus.embed_sparse(model, prompt="plate "),
        corpus.embed_sparse(model, max_active_dims=2),
        corpus.embed_sparse(make_sparse_model(WORDS, np.ones(len(WORDS)))),
        corpus.embed_sparse(make_sparse_model(WORDS, similarity_fn_name="cosine")),
        corpus_of([*TEXTS, "more"]).embed_sparse(model),
    ]
    assert len({plain, *others}) == 6
    model.save(str(tmp_path / "model"))
    by_path = corpus.embed_sparse(str(tmp_path / "model"), batch_size=3)
    assert by_path == corpus.embed_sparse(SparseEncoder(str(tmp_path / "model"), device="cpu"))
    again = pickle.loads(pickle.dumps(plain))
    assert (again, hash(again)) == (plain, hash(plain))
    with torch.no_grad():
        model[0].weight[3] += 1
    assert corpus.embed_sparse(model) not in {plain, *others}


def test_query_vectors_are_kept(model):
    seen = []

    def function(texts):
        seen.extend(texts)
        return answer(texts)

    for asked in (TEXTS[:9], TEXTS[5:12], [*TEXTS[2:4], *TEXTS[2:4]], []):
        found = SparseTextEncoder(function, "query", fingerprint="kept-1").vectors(asked)
        np.testing.assert_array_equal(dense(found, 30), answer(asked))
    assert sorted(seen) == sorted(set(TEXTS[:12]))
    encoder = SparseTextEncoder(function, "query", fingerprint="kept-1")
    encoder.discard()
    encoder.vectors(TEXTS[:1])
    assert len(seen) == len(set(TEXTS[:12])) + 1


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e16])
def test_weights_that_cannot_be_added_up_are_refused(corpus, value):
    def function(texts):
        return np.array([[value if "12" in text else 1] for text in texts])

    with pytest.raises(ValueError, match=r"NaN, infinite or huge weight for the passage 'p12'.*'plate 12 moves"):
        corpus.embed_sparse(function, fingerprint="bad-1")
    with pytest.raises(ValueError, match=r"NaN, infinite or huge weight for the text 'plate 12 '"):
        SparseTextEncoder(function, "query", fingerprint="bad-1").vectors(["plate", "plate 12 "])


def test_models_of_other_kinds_are_refused(corpus, model, static_model, save_bert, tmp_path):
    static_model.save(str(tmp_path / "static"))
    model.save(str(tmp_path / "sparse"))
    plain = save_bert(tmp_path / "plain")
    with pytest.raises(TypeError, match=r"must be a SparseEncoder.*got SentenceTransformer\. Use Dense"):
        corpus.embed_sparse(static_model)
    with pytest.raises(TypeError, match=r"is a SentenceTransformer, but a SparseEncoder is needed\. Use"):
        corpus.embed_sparse(str(tmp_path / "static"))
    with pytest.raises(TypeError, match=r"is a SparseEncoder, but a SentenceTransformer is needed\. Use"):
        corpus.embed(str(tmp_path / "sparse"))
    with pytest.raises(ValueError, match="no weights for sparse vectors; SparseEncoder would initialize them"):
        corpus.embed_sparse(plain)
    with pytest.raises(ValueError, match="Name it with fingerprint"):
        corpus.embed_sparse(answer)
    with pytest.raises(ValueError, match="must return a matrix of shape"):
        corpus.embed_sparse(lambda texts: answer(texts)[1:], fingerprint="short-1")


@pytest.mark.parametrize("similarity", ["euclidean", "manhattan"])
def test_distances_are_refused_by_name(corpus, make_sparse_model, similarity):
    model = make_sparse_model(WORDS, similarity_fn_name=similarity)
    with pytest.raises(ValueError, match=rf"similarity '{similarity}'.*model\.similarity_fn_name = 'dot'"):
        corpus.embed_sparse(model)


@pytest.mark.parametrize(
    "options", [{"max_active_dims": 0}, {"max_active_dims": 2.5}, {"batch_size": 0}, {"prompt": 5}]
)
def test_bad_options_are_named(corpus, model, options):
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        corpus.embed_sparse(model, **options)


# ---- runs that do not come to their end ------------------------------------------------------------------------------


def slow(pause):
    def function(texts):
        time.sleep(pause)
        return answer(texts)

    return function


def embed(corpus, pause=0.0):
    return corpus.embed_sparse(slow(pause), fingerprint="slow-1", batch_size=1)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.csr")}


def folder_of(embeddings):
    return cache_root() / "embeddings" / embeddings.fingerprint


def test_a_killed_run_goes_on_with_the_same_bytes(corpus, tmp_path):
    with cache_root_at(tmp_path / "uninterrupted"):
        expected = bytes_of(folder_of(embed(corpus_of(TEXTS))))
    rng, kills = np.random.default_rng(0), 0
    for _ in range(20):
        worker = multiprocessing.get_context("fork").Process(target=embed, args=(corpus, 0.03))
        worker.start()
        worker.join(timeout=rng.uniform(0.03, 0.1))
        if not worker.is_alive():
            break
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        kills += 1
    assert kills > 0
    assert bytes_of(folder_of(embed(corpus))) == expected


def test_processes_share_the_work(corpus, tmp_path):
    def rank():
        np.testing.assert_array_equal(matrix_of(embed(corpus, 0.03), 30), answer(TEXTS))

    workers = [multiprocessing.get_context("fork").Process(target=rank) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_shard_is_encoded_again(corpus, damage, caplog):
    embeddings = embed(corpus)
    path = folder_of(embeddings) / "000003.csr"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-5])
    else:
        path.unlink()
    embeddings.close()
    with pytest.raises(DamagedFolderError, match=r"000003\.csr.*Call corpus\.embed_sparse again"):
        len(SparseEmbeddings(embeddings.fingerprint))
    np.testing.assert_array_equal(matrix_of(embed(corpus), 30), answer(TEXTS))
    assert "damaged" in caplog.text


def test_what_is_not_made_or_deleted_says_so(corpus):
    with pytest.raises(FileNotFoundError, match=r"no complete folder.*Call corpus\.embed_sparse again"):
        len(SparseEmbeddings("0" * 32))
    embeddings = embed(corpus)
    embeddings.discard()
    assert not folder_of(embeddings).exists()
    assert "not computed yet" in repr(embeddings)
    with pytest.raises(FileNotFoundError):
        embeddings.take(np.array([1]))


def test_a_saved_sparse_model_is_not_read_as_a_dense_one(model, tmp_path):
    model.save(str(tmp_path / "sparse"))
    loaded = load_model(str(tmp_path / "sparse"), None, kind="SparseEncoder")
    assert isinstance(loaded.model, SparseEncoder)
    assert not isinstance(loaded.model, SentenceTransformer)
