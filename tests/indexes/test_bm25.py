"""BM25: the scores of bm25s, deeper searches that begin with shallower ones, and an index that is built once."""

import itertools
import pickle

import bm25s
import datasets
import numpy as np
import pytest
import Stemmer
from datasets import Dataset
from exhaustive import usually
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import BM25Index, Corpus, load_sample
from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.indexes import bm25 as bm25_module
from hnm_datasets.indexes import bm25_kernels
from hnm_datasets.indexes.keys import hits_of
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.storage.manifest import is_complete
from hnm_datasets.storage.opened import Opened

METHODS = ["lucene", "robertson", "atire", "bm25l", "bm25+"]


def corpus_of(texts):
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{i}" for i in range(len(texts))], "text": texts}))


LANGUAGES = [None, "english"]


@pytest.mark.parametrize(
    ("method", "stemmer", "stopwords"),
    usually(
        [
            *((method, "english", "english") for method in METHODS),
            ("lucene", None, None),
            ("atire", "english", None),
            ("bm25+", None, "english"),
        ],
        every=list(itertools.product(METHODS, LANGUAGES, LANGUAGES)),
    ),
)
def test_scores_are_those_of_bm25s(method, stemmer, stopwords):
    corpus, rows = load_sample()
    queries = rows["query"][:][::12] + ["the the disease disease disease"]
    options = {
        "stopwords": stopwords or [],
        "stemmer": Stemmer.Stemmer(stemmer) if stemmer else None,
        "show_progress": False,
        "return_ids": False,
    }
    texts = [text for chunk in corpus.iter_texts() for text in chunk.to_pylist()]
    reference = bm25s.BM25(method=method, k1=1.2, b=0.6, delta=0.7)
    reference.index(bm25s.tokenize(texts, **options), show_progress=False)
    index = BM25Index(corpus, method=method, k1=1.2, b=0.6, delta=0.7, stemmer=stemmer, stopwords=stopwords)
    hits = index.search(queries, len(corpus))
    for query, found, scores in zip(queries, hits.rows, hits.scores, strict=True):
        tokens = [token for token in bm25s.tokenize([query], **options)[0] if token in reference.vocab_dict]
        assert tokens
        expected = reference.get_scores(tokens)
        size = int((found >= 0).sum())
        assert (found[size:] == -1).all()
        np.testing.assert_allclose(scores[:size], expected[found[:size]], rtol=1e-5, atol=1e-5)
        # Whatever is not found shares no token that counts: it has the score of an empty passage.
        rest = np.setdiff1d(np.arange(len(corpus)), found[:size])
        if len(rest):
            assert expected[rest].max() <= scores[:size].min() + 1e-5
            np.testing.assert_allclose(expected[rest], expected[rest].min(), atol=1e-5)


WORDS = st.sampled_from(["wave", "waves", "plate", "Plate", "quake", "fault", "the", "of", "slip"])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), min_size=1, max_size=30)
QUERIES = st.lists(st.lists(WORDS | st.just("unknown"), max_size=5).map(" ".join), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(TEXTS, QUERIES, st.integers(1, 12), st.sampled_from(METHODS))
def test_deeper_searches_begin_with_shallower_ones_and_scores_agree(texts, queries, k, method):
    corpus = corpus_of(texts)
    index = BM25Index(corpus, method=method)
    shallow, deep, full = index.search(queries, k), index.search(queries, 2 * k), index.search(queries, len(texts))
    np.testing.assert_array_equal(shallow.rows, deep.rows[:, :k])
    np.testing.assert_array_equal(shallow.scores, deep.scores[:, :k])
    for rows, scores in zip(full.rows, full.scores, strict=True):
        found = rows[rows >= 0]
        assert len(set(found.tolist())) == len(found)
        assert (rows[len(found) :] == -1).all()
        assert (scores[len(found) :] == -np.inf).all()
        assert (np.diff(scores[: len(found)]) <= 0).all()
    if method not in ("bm25l", "bm25+"):  # their constant on top can make unequal sums equal
        for rows, scores in zip(full.rows, full.scores, strict=True):
            size = int((rows >= 0).sum())
            ties = np.diff(scores[:size]) == 0
            assert (np.diff(rows[:size])[ties] > 0).all()
    lengths = (full.rows >= 0).sum(axis=1)
    flat = full.rows[full.rows >= 0]
    np.testing.assert_array_equal(
        index.score(queries, Ragged(offsets_of(lengths), flat)), full.scores[full.rows >= 0], strict=True
    )


def test_ties_come_in_the_order_of_the_corpus():
    index = BM25Index(corpus_of(["plate wave", "other thing", "plate wave", "plate wave"] + ["x y"] * 20))
    assert index.search(["wave"], 2).rows.tolist() == [[0, 2]]
    assert index.search(["wave"], 5).rows.tolist() == [[0, 2, 3, -1, -1]]


@pytest.mark.parametrize("method", METHODS)
def test_a_query_without_known_tokens_finds_nothing(method):
    index = BM25Index(corpus_of(["plates move", "waves break"]), method=method)
    hits = index.search(["unknown words", "", "the of"], 3)
    assert hits.rows.tolist() == [[-1] * 3] * 3
    assert (hits.scores == -np.inf).all()
    assert hits.rows.dtype == np.int64
    assert hits.scores.dtype == np.float32


def test_no_queries():
    hits = BM25Index(corpus_of(["plates move"])).search([], 3)
    assert hits.rows.shape == hits.scores.shape == (0, 3)


def test_a_corpus_of_stop_words_alone():
    index = BM25Index(corpus_of(["the of and", "of the"]))
    assert index.search(["the quake"], 2).rows.tolist() == [[-1, -1]]


def test_stemmer_stop_words_and_pattern_do_what_they_say():
    corpus = corpus_of(["running dogs", "the cat", "x1 y-2", "Häuser"])
    plain = BM25Index(corpus, stemmer=None, stopwords=None)
    assert plain.search(["run", "the"], 1).rows.tolist() == [[-1], [1]]
    assert BM25Index(corpus).search(["run", "the"], 1).rows.tolist() == [[0], [-1]]
    assert BM25Index(corpus, stopwords=["cat"]).search(["cat", "the"], 1).rows.tolist() == [[-1], [1]]
    assert BM25Index(corpus, stemmer="german", stopwords="german").search(["Haus"], 1).rows.tolist() == [[3]]
    letters = BM25Index(corpus, token_pattern=r"[a-z]")
    assert letters.search(["y"], 1).rows.tolist() == [[2]]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"method": "bm42"}, ValueError, r"method must be one of 'lucene', .*'bm25\+', got 'bm42'"),
        ({"stemmer": "klingon"}, ValueError, r"stemmer must be one of .*'english'.*got 'klingon'"),
        ({"stopwords": "klingon"}, ValueError, r"stopwords must be one of .*'english'.*got 'klingon'"),
        ({"token_pattern": "["}, ValueError, "token_pattern is not a regular expression"),
        ({"token_pattern": 3}, ValueError, "token_pattern is not a regular expression"),
        ({"k1": -0.1}, ValueError, r"k1 and delta must not be negative.*-0\.1"),
        ({"delta": -1}, ValueError, "k1 and delta must not be negative"),
        ({"b": 1.01}, ValueError, r"b must be from 0 to 1.*1\.01"),
        ({"b": -0.5}, ValueError, "b must be from 0 to 1"),
        ({"k1": float("nan")}, ValueError, "k1 must be a finite number"),
        ({"k1": "high"}, TypeError, "k1 must be a number, got 'high'"),
        ({"method": "bm25l", "k1": 0, "delta": 0}, ValueError, "bm25l is undefined"),
    ],
)
def test_options_are_checked(options, error, match):
    with pytest.raises(error, match=match):
        BM25Index(corpus_of(["plates move"]), **options)


def test_one_text_is_not_taken_for_its_letters():
    with pytest.raises(TypeError, match=r"BM25Index: queries must be a list of texts, got one text: pass \['plates'\]"):
        BM25Index(corpus_of(["plates move"])).search("plates", 1)


def test_the_corpus_is_checked():
    with pytest.raises(TypeError, match=r"corpus must be a Corpus, got list.*Corpus\.from_dataset"):
        BM25Index(["plates move"])


def test_k1_of_zero_counts_each_token_once():
    index = BM25Index(corpus_of(["wave wave wave", "wave", "plate"]), k1=0)
    hits = index.search(["wave"], 2)
    assert hits.rows.tolist() == [[0, 1]]
    assert hits.scores[0, 0] == hits.scores[0, 1]


def test_the_index_is_a_folder_by_fingerprint_and_is_reused(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    forget_what_is_open(monkeypatch)
    corpus = corpus_of(["plates move", "waves break on reused shores"])
    index = BM25Index(corpus)
    folder = cache_root() / "bm25" / index.fingerprint
    assert not folder.parent.exists(), "it is built when it is needed"
    index.prepare()
    assert is_complete(folder)
    before = index.search(["waves"], 2)

    def fail(*_):
        raise RuntimeError("built again")

    forget_what_is_open(monkeypatch)
    monkeypatch.setattr(BM25Index, "_build", fail)
    index.prepare()
    again = BM25Index(corpus, k1=np.float64(1.5))
    again.prepare()
    assert again.fingerprint == index.fingerprint
    np.testing.assert_array_equal(again.search(["waves"], 2).scores, before.scores)
    reopened = pickle.loads(pickle.dumps(index))
    assert reopened == index
    assert reopened.search(["waves"], 1).rows.tolist() == [[1]]
    other = BM25Index(corpus, k1=1.4)
    lists = Ragged(np.array([0, 1]), np.array([0]))
    for use in (other.prepare, lambda: other.search(["waves"], 1), lambda: other.score(["waves"], lists)):
        with pytest.raises(RuntimeError, match="built again"):
            use()


def forget_what_is_open(monkeypatch):
    for name in ("_OPENED", "_VOCABULARIES"):
        monkeypatch.setattr(bm25_module, name, Opened())


@pytest.mark.parametrize("method", METHODS)
def test_tokens_are_searched_like_their_texts(method):
    corpus, rows = load_sample()
    queries = [*rows["query"][::20], "zyxwv unheard disease", "the of and", ""]
    index = BM25Index(corpus, method=method, delta=0.7)
    tokens = index.encode(queries)
    assert len(tokens) == len(queries)
    expected = index.search(queries, 20)
    hits = index.search(tokens, 20)
    np.testing.assert_array_equal(hits.rows, expected.rows, strict=True)
    np.testing.assert_array_equal(hits.scores, expected.scores, strict=True)
    lists = Ragged(np.arange(len(queries) + 1) * 2, np.tile([3, 0], len(queries)))
    np.testing.assert_array_equal(index.score(tokens, lists), index.score(queries, lists), strict=True)
    # Some of the queries, in any order and repeated.
    which = np.array([len(queries) - 1, 2, 0, 2])
    some = index.search(tokens.take(which), 20)
    np.testing.assert_array_equal(some.rows, expected.rows[which], strict=True)
    np.testing.assert_array_equal(some.scores, expected.scores[which], strict=True)
    sums, constants = index.search_shard(tokens, 20)
    np.testing.assert_array_equal(sums.rows, expected.rows, strict=True)
    np.testing.assert_array_equal(sums.scores + constants[:, None], expected.scores, strict=True)
    assert constants.any() == (method in ("bm25l", "bm25+"))
    assert len(index.encode([])) == 0
    with pytest.raises(TypeError, match=r"BM25Index: queries must be a list of texts, got one text: pass \['plates'\]"):
        index.encode("plates")


def test_every_option_is_in_the_fingerprint():
    corpus = corpus_of(["plates move", "waves break"])
    options = [
        {},
        {"method": "atire"},
        {"k1": 1.0},
        {"b": 0.5},
        {"delta": 1.0},
        {"stemmer": None},
        {"stopwords": None},
        {"stopwords": ["plates"]},
        {"token_pattern": r"\w+"},
    ]
    assert len({BM25Index(corpus, **given).fingerprint for given in options}) == len(options)
    assert (
        BM25Index(corpus, stopwords=["b", "a"]).fingerprint == BM25Index(corpus, stopwords=("a", "b", "a")).fingerprint
    )
    assert BM25Index(corpus_of(["plates move", "waves"])).fingerprint != BM25Index(corpus).fingerprint


@pytest.mark.parametrize("other", [3, None, b"plates", ["plates"]])
def test_what_is_no_text_is_refused_by_its_place(other):
    index = BM25Index(load_sample("earthquakes")[0])
    with pytest.raises(TypeError, match=r"BM25Index: queries\[1\] must be a text, got "):
        index.encode(["plates", other])
    with pytest.raises(TypeError, match=r"BM25Index: queries\[1\] must be a text, got "):
        index.search(["plates", other], 2)
    with pytest.raises(TypeError, match=r"BM25Index: texts\[0\] must be a text, got "):
        index.tokenize([other, "plates"])


@pytest.mark.parametrize("passages", [1, 63, 4096, 4097, 30_000])
@pytest.mark.parametrize("k", [1, 7, 300, 5000])
def test_the_best_of_large_corpora_are_those_of_a_stable_sort(passages, k):
    rng = np.random.default_rng(passages + k)
    # Tokens of all passages, of some and of few; few distinct weights make many ties.
    sizes = [passages, -(-passages // 3), min(passages, 9), 0]
    postings = [np.sort(rng.choice(passages, size, replace=False)).astype(np.int32) for size in sizes]
    weights = [
        rng.integers(1, values, size).astype(np.float32) for size, values in zip(sizes, [2, 4, 9, 2], strict=True)
    ]
    queries = [[0], [1], [2], [3], [0, 1, 2], [2, 2, 3], []]
    keys = np.empty((len(queries), k), dtype=np.uint64)
    offsets, tokens = offsets_of([len(query) for query in queries]), np.concatenate(queries).astype(np.int64)
    bm25_kernels.search(
        offsets_of(sizes), np.concatenate(postings), np.concatenate(weights), offsets, tokens, None, passages, keys
    )
    rows, scores = hits_of(keys, k)
    for number, query in enumerate(queries):
        sums = np.zeros(passages, dtype=np.float32)
        for token in query:
            sums[postings[token]] += weights[token]
        order = np.argsort(-sums, kind="stable")[:k]
        order = order[sums[order] > 0]
        assert rows[number].tolist() == [*order, *[-1] * (k - len(order))]
        assert scores[number].tolist() == [*sums[order], *[-np.inf] * (k - len(order))]
