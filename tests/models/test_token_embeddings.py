"""Token embeddings: those of the model in half precision, each passage once, whatever happens in between."""

import multiprocessing
import os
import pickle
import signal
import time

import datasets
import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from hnm_datasets import Corpus, TokenEmbeddings
from hnm_datasets.models import shard_job
from hnm_datasets.models.token_encoders import TokenEncoder
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.folders import cache_root, cache_root_at
from hnm_datasets.storage.manifest import DamagedFolderError

SHARD = 8


@pytest.fixture(autouse=True)
def _own_cache_and_small_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(shard_job, "SHARD", SHARD)


def corpus_of(texts):
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{row}" for row in range(len(texts))], "text": texts}))


TEXTS = [f"plate {row if row % 5 else row // 2 + 1} moves " + "on . " * (row % 4) for row in range(50)]
TEXTS[24:32] = TEXTS[:8]


@pytest.fixture
def corpus():
    """Seven shards, of which the fourth repeats the first."""
    return corpus_of(TEXTS)


def answer(texts):
    """From one to five vectors, which depend on the text alone."""
    digests = digest_strings(texts)
    counts = (digests[:, 0] % 5 + 1).astype(int)
    values = (digests[:, :1] >> np.arange(30, dtype=np.uint64)) % 7 / np.float32(4) - 1
    return [line[: 6 * count].reshape(count, 6) for line, count in zip(values, counts, strict=True)]


def assert_lists_equal(found, expected):
    assert found.lengths.tolist() == [len(array) for array in expected]
    np.testing.assert_array_equal(found.vectors, np.concatenate(expected).astype(np.float16))


def test_vectors_are_those_of_the_model_in_corpus_order(corpus, make_token_model):
    model = make_token_model()
    embeddings = corpus.embed_tokens(model, batch_size=4)
    expected = [array.astype(np.float16) for array in model.encode_document(TEXTS, convert_to_numpy=True)]
    found = embeddings.take(np.arange(50))
    assert found.lengths.tolist() == [len(array) for array in expected]
    np.testing.assert_allclose(found.vectors, np.concatenate(expected), atol=1e-3)
    # The mask skips full stops.
    assert found.lengths[3] < len(model.tokenizer(TEXTS[3])["input_ids"])
    assert (len(embeddings), embeddings.dimension, embeddings.tokens) == (50, 8, found.offsets[-1])
    assert embeddings.offsets.tolist() == found.offsets.tolist()
    assert (embeddings.similarity, embeddings.corpus_fingerprint) == ("maxsim", corpus.fingerprint)
    assert repr(embeddings).startswith("TokenEmbeddings(50 passages of ")
    assert pickle.loads(pickle.dumps(embeddings)) == embeddings
    picked = np.array([40, 3, 27, 3])
    assert_lists_equal(embeddings.take(picked), [expected[row] for row in [40, 3, 3, 3]])


@settings(max_examples=12)
@given(texts=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=30), shard=st.integers(1, 9))
def test_vectors_do_not_depend_on_shards_and_repetitions(tmp_path_factory, texts, shard):
    with cache_root_at(tmp_path_factory.mktemp("cache")), pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_job, "SHARD", shard)
        embeddings = corpus_of(texts).embed_tokens(answer, fingerprint="answer-1")
        assert_lists_equal(embeddings.take(np.arange(len(texts))), answer(texts))
        lengths = [block.lengths for block in embeddings.blocks()]
        assert np.concatenate(lengths).tolist() == np.diff(embeddings.offsets).tolist()


def test_names(corpus, make_token_model):
    model = make_token_model(prompts={"query": "q ", "document": "d "})
    pooling = HierarchicalTokenPooling(pool_factor=2)
    found = [
        corpus.embed_tokens(model),
        corpus.embed_tokens(model, prompt=""),
        corpus.embed_tokens(model, token_pooling=pooling),
        corpus.embed_tokens(model, token_pooling=HierarchicalTokenPooling(pool_factor=3)),
        corpus.embed_tokens(make_token_model(dimension=4)),
        corpus.embed_tokens(make_token_model(similarity_fn_name="meanmaxsim")),
        corpus_of(TEXTS[:8]).embed_tokens(model),
    ]
    assert len({one.fingerprint for one in found}) == 7
    assert corpus.embed_tokens(make_token_model(), prompt="d ") == found[0] == corpus.embed_tokens(model, batch_size=2)
    assert corpus.embed_tokens(model, token_pooling=HierarchicalTokenPooling(pool_factor=2)) == found[2]
    assert found[0].prompt == "d "
    assert found[2].tokens < found[0].tokens


def test_a_pooling_of_the_model_is_its_own(corpus, make_token_model):
    pooled = make_token_model(8, HierarchicalTokenPooling(pool_factor=2))
    own = corpus.embed_tokens(pooled)
    assert own != corpus.embed_tokens(make_token_model())
    expected = pooled.encode_document(TEXTS, convert_to_numpy=True)
    assert np.diff(own.offsets).tolist() == [len(array) for array in expected]


def test_queries_are_those_of_the_model_and_kept(make_token_model):
    expansion = {"strategy": "fixed", "length": 12}
    model = make_token_model(transformer={"query_expansion": expansion}, prompts={"query": "q "})
    texts = ["plate moves", "wave", "plate moves"]
    expected = model.encode_query(texts, convert_to_numpy=True)
    encoder = TokenEncoder(model, "query")
    found = encoder.vectors(texts)
    assert found.lengths.tolist() == [len(array) for array in expected]
    assert min(found.lengths) >= 12
    np.testing.assert_allclose(found.vectors, np.concatenate(expected), atol=1e-3)
    again = TokenEncoder(make_token_model(transformer={"query_expansion": expansion}), "query", prompt="q ")
    again.encode = None  # nothing is encoded again
    np.testing.assert_array_equal(again.vectors(texts[1:]).vectors, found.take(np.array([1, 2])).vectors)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.full((2, 6), np.nan), "a NaN or infinite token vector"),
        (np.full((2, 6), 70_000.0), "beyond 65,504"),
        (np.empty((0, 6)), "no token vector"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused(corpus, vectors, message):
    def bad(texts):
        return [vectors if text == TEXTS[37] else array for text, array in zip(texts, answer(texts), strict=True)]

    with pytest.raises(ValueError, match=rf"{message}.*passage 'p37' with the text 'plate 37.*(Remove|Normalize)"):
        corpus.embed_tokens(bad, fingerprint="bad-1")
    with pytest.raises(ValueError, match=rf"{message}.*text 'plate 37"):
        TokenEncoder(bad, "query", fingerprint="bad-1").vectors(TEXTS)


def test_models_of_other_kinds_are_refused(corpus, make_token_model, static_model, save_bert, tmp_path):
    make_token_model().save(str(tmp_path / "tokens"))
    static_model.save(str(tmp_path / "static"))
    with pytest.raises(TypeError, match=r"must be a MultiVectorEncoder.*got SentenceTransformer\. Use D"):
        corpus.embed_tokens(static_model)
    with pytest.raises(TypeError, match=r"must be a SentenceTransformer.*Use LateInteractionNegatives to mine"):
        corpus.embed(make_token_model())
    with pytest.raises(TypeError, match=r"is a SentenceTransformer, but a MultiVectorEncoder is needed\. Use"):
        corpus.embed_tokens(str(tmp_path / "static"))
    with pytest.raises(ValueError, match="no weights for token vectors; MultiVectorEncoder would initialize"):
        corpus.embed_tokens(save_bert(tmp_path / "plain"))
    assert corpus.embed_tokens(str(tmp_path / "tokens")) == corpus.embed_tokens(make_token_model())
    with pytest.raises(ValueError, match="Name it with fingerprint"):
        corpus.embed_tokens(answer)
    with pytest.raises(ValueError, match=r"for each of \d+ texts, got \d+ arrays"):
        corpus.embed_tokens(lambda texts: answer(texts)[1:], fingerprint="short-1")
    with pytest.raises(ValueError, match=r"with the same D for all texts, got the shapes"):
        corpus.embed_tokens(lambda texts: np.ones((len(texts), 3)), fingerprint="flat-1")
    with pytest.raises(ValueError, match=r"dimensions with the same fingerprint"):
        corpus.embed_tokens(lambda texts: [np.ones((1, len(texts)))] * len(texts), fingerprint="wide-1", batch_size=5)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"prompt": 5}, {"token_pooling": 2}])
def test_bad_options_are_named(corpus, make_token_model, options):
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        corpus.embed_tokens(make_token_model(), **options)


@pytest.mark.parametrize("asked", [["a"], ["b"], ["a", "b"]])
def test_queries_of_two_widths_under_one_name_are_refused(asked):
    def encoder(width):
        return TokenEncoder(lambda texts: [np.ones((2, width)) for _ in texts], "query", fingerprint="widths")

    encoder(3).vectors(["a"])
    assert encoder(3).vectors(["a", "c"]).vectors.shape == (4, 3)
    if asked == ["a"]:
        assert encoder(2).vectors(asked).vectors.shape == (2, 3)
    else:
        with pytest.raises(ValueError, match=r"vectors of 2 and of 3 dimensions with the same fingerprint"):
            encoder(2).vectors(asked)


def test_a_function_pools_itself(corpus):
    with pytest.raises(ValueError, match="token_pooling applies only to models"):
        corpus.embed_tokens(answer, fingerprint="answer-1", token_pooling=HierarchicalTokenPooling(pool_factor=2))


# ---- runs that do not come to their end ------------------------------------------------------------------------------


def embed(corpus, pause=0.0):
    def slow(texts):
        time.sleep(pause)
        return answer(texts)

    return corpus.embed_tokens(slow, fingerprint="slow-1", batch_size=1)


def folder_of(embeddings):
    return cache_root() / "embeddings" / embeddings.fingerprint


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.csr")}


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


def test_a_damaged_shard_is_encoded_again(corpus, caplog):
    embeddings = embed(corpus)
    path = folder_of(embeddings) / "000003.csr"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    embeddings.close()
    with pytest.raises(DamagedFolderError, match=r"000003\.csr.*Call corpus\.embed_tokens again"):
        len(TokenEmbeddings(embeddings.fingerprint))
    assert_lists_equal(embed(corpus).take(np.arange(50)), answer(TEXTS))
    assert "damaged" in caplog.text


def test_what_is_deleted_says_so(corpus):
    embeddings = embed(corpus)
    embeddings.discard()
    assert not embeddings.are_made
    assert "not computed yet" in repr(embeddings)
    with pytest.raises(FileNotFoundError, match=r"no complete folder.*Call corpus\.embed_tokens again"):
        embeddings.offsets  # noqa: B018
