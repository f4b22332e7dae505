"""The folder of an index is one of bm25s: bm25s opens it, memory-mapped, and gives the same scores."""

import json

import bm25s
import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import BM25Index, Corpus, load_sample
from hnm_datasets.arrays.ragged import Ragged

METHODS = ["lucene", "robertson", "atire", "bm25l", "bm25+"]
#: bm25s adds up the constants of a query's tokens in float32 and we in float64.
CONSTANTS = {"rtol": 2e-6}


def corpus_of(texts):
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{i}" for i in range(len(texts))], "text": texts}))


def all_scores(index, queries):
    """Return the scores of all passages. Shape (B, N)."""
    size = len(index.rows)
    rows = Ragged(np.arange(len(queries) + 1) * size, np.tile(np.array(index.rows), len(queries)))
    return index.score(queries, rows).reshape(len(queries), size)


def scores_of_bm25s(retriever, index, queries):
    ids = [retriever.get_tokens_ids(tokens) for tokens in index.tokenize(queries)]
    return np.stack([retriever.get_scores_from_ids(one) for one in ids])


def check_same_scores(index, queries):
    retriever = bm25s.BM25.load(index.folder, mmap=True)
    found, expected = all_scores(index, queries), scores_of_bm25s(retriever, index, queries)
    if index.method in ("bm25l", "bm25+"):
        np.testing.assert_allclose(found, expected, **CONSTANTS)
    else:
        np.testing.assert_array_equal(found, expected, strict=True)
    return retriever


@pytest.mark.parametrize("method", METHODS)
def test_bm25s_opens_the_folder_and_gives_the_same_scores(method):
    corpus, rows = load_sample()
    queries = [*rows["query"][:][::12], "the the disease disease disease", "zyxwv unheard", "the of and", ""]
    index = BM25Index(corpus, method=method, k1=1.2, b=0.6, delta=0.7)
    retriever = check_same_scores(index, queries)
    assert isinstance(retriever.scores["data"], np.memmap)
    options = (method, method, 1.2, 0.6, 0.7, "float32", "int32", len(corpus))
    own = (retriever.method, retriever.idf_method, retriever.k1, retriever.b, retriever.delta)
    assert (*own, retriever.dtype, retriever.int_dtype, retriever.scores["num_docs"]) == options
    # All of bm25s: by texts, by numbers, and what it does where no token is known.
    tokens, hits = index.tokenize(queries), index.search(queries, 10)
    by_number = [retriever.get_tokens_ids(one) or [retriever.vocab_dict[""]] for one in tokens]
    for asked in (tokens, by_number):
        found, scores = retriever.retrieve(asked, k=10, show_progress=False)
        assert found.shape == (len(queries), 10)
        several = hits.rows[:, -1] >= 0
        np.testing.assert_allclose(scores[several], hits.scores[several], **CONSTANTS)
        assert not scores[-3:].any()


def test_what_bm25s_saves_of_the_folder_is_the_folder(tmp_path):
    corpus, _ = load_sample("earthquakes")
    index = BM25Index(corpus, method="bm25+")
    bm25s.BM25.load(index.folder).save(tmp_path, show_progress=False)
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 6
    for name in names:
        own, saved = index.folder / name, tmp_path / name
        if name.endswith(".npy"):
            np.testing.assert_array_equal(np.load(own), np.load(saved), strict=True)
        else:
            assert json.loads(own.read_text("utf-8")) == json.loads(saved.read_text("utf-8"))


def test_the_arrays_have_the_types_that_bm25s_writes(tmp_path):
    corpus, _ = load_sample("earthquakes")
    texts = corpus.columns["text"].to_pylist()
    theirs = bm25s.BM25(method="bm25l")
    theirs.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    theirs.save(tmp_path, show_progress=False)
    own = BM25Index(corpus, method="bm25l").folder
    for path in tmp_path.glob("*.npy"):
        assert np.load(own / path.name).dtype == np.load(path).dtype
    assert {path.name for path in tmp_path.iterdir()} < {path.name for path in own.iterdir()}


@pytest.mark.parametrize("method", ["lucene", "bm25+"])
def test_a_corpus_without_tokens(method):
    index = BM25Index(corpus_of(["the of and", "of the"]), method=method)
    retriever = bm25s.BM25.load(index.folder, mmap=True)
    assert retriever.vocab_dict == {"": 0}
    _, scores = retriever.retrieve([["quake"], []], k=2, show_progress=False)
    assert not scores.any()


def test_tokens_are_strings_without_stop_words():
    index = BM25Index(corpus_of(["Running dogs", "日本"]))
    assert index.tokenize(["The running of the Dogs, unknown", "", "日本語"]) == [
        ["run", "dog", "unknown"],
        [],
        ["日本", "本語", "日", "本", "語"],
    ]
    assert index.tokenize([]) == []
    with pytest.raises(TypeError, match=r"BM25Index: texts must be a list of texts, got one text: pass \['plates'\]"):
        index.tokenize("plates")


@pytest.mark.parametrize("method", METHODS)
def test_bm25s_opens_a_shard_with_the_vocabulary_of_all(method):
    corpus = corpus_of(["plates move plates", "waves break", "plates and waves", "a quake", "waves of quakes"])
    whole = BM25Index(corpus, method=method)
    vocabulary = bm25s.BM25.load(whole.folder).vocab_dict
    expected = all_scores(whole, ["plates waves quake"])
    for number in range(2):
        index = BM25Index(corpus, method=method, shard=(number, 2))
        retriever = bm25s.BM25.load(index.folder, mmap=True, load_vocab=False)
        retriever.vocab_dict = vocabulary
        scores = scores_of_bm25s(retriever, index, ["plates waves quake"])
        np.testing.assert_allclose(scores, expected[:, index.rows], **CONSTANTS)


WORDS = st.sampled_from(
    ["wave", "waves", "plate", "Plate", "quake", "fault", "the", "of", "slip", "größe", '"\\', "海"]
)
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), min_size=1, max_size=30)
QUERIES = st.lists(st.lists(WORDS | st.just("unknown"), max_size=5).map(" ".join), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(TEXTS, QUERIES, st.sampled_from(METHODS), st.booleans())
def test_bm25s_gives_the_same_scores_whatever_the_corpus(texts, queries, method, whole_words):
    options = {"tokenizer": str.split, "tokenizer_fingerprint": "spaces-1"} if whole_words else {}
    check_same_scores(BM25Index(corpus_of(texts), method=method, **options), queries)
