"""Negatives by late interaction: the best by MaxSim among the candidates, and never what is known to be relevant."""

import pickle

import numpy as np
import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import (
    BM25Negatives,
    Corpus,
    DenseIndex,
    FuseNegatives,
    JudgedNegatives,
    LateInteractionNegatives,
    RandomNegatives,
    TokenIndex,
)
from hnm_datasets.indexes import tokens
from hnm_datasets.models.token_vectors import token_vectors
from hnm_datasets.storage.digests import digest_strings

WORDS = ["plate", "wave", "rock", "moves", "sea", "fire", "stone", "lava"]
RNG = np.random.default_rng(7)
TEXTS = [" ".join(RNG.choice(WORDS, RNG.integers(1, 7))) + f" {number}" for number in range(150)]
TEXTS[70:80] = [text.upper() for text in TEXTS[:10]]


def vectors_of(texts):
    """Give each word a vector of length 1 that depends on the word alone, in whatever case."""
    found = []
    for text in texts:
        digests = digest_strings(text.lower().split())
        vectors = (digests[:, :1] >> np.arange(0, 48, 6, dtype=np.uint64)) % 61 / np.float32(30) - 1.01
        found.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return found


def slow_scores(query, texts):
    """The plain definition, from vectors in half precision."""
    asked = vectors_of([query])[0].astype(np.float16).astype(np.float64)
    passages = [array.astype(np.float16).astype(np.float64) for array in vectors_of(texts)]
    return np.array([sum((passage @ token).max() for token in asked) for passage in passages])


@pytest.fixture(scope="module")
def corpus():
    ids = [f"p{number}" for number in range(len(TEXTS))]
    groups = [f"g{number // 5}" for number in range(len(TEXTS))]
    rows = Dataset.from_dict({"id": ids, "text": TEXTS, "document": groups})
    return Corpus.from_dataset(rows, group_column="document")


@pytest.fixture(scope="module")
def embeddings(corpus):
    return corpus.embed_tokens(vectors_of, fingerprint="words-1")


def step_of(corpus, **options):
    return LateInteractionNegatives(corpus, vectors_of, fingerprint="words-1", **options)


def row_of(query, positives):
    return {"query": [query], "positive_ids": [positives]}


INDEXES = {
    "all": lambda embeddings: None,
    "every-list": lambda embeddings: TokenIndex(embeddings, "IVF4,Flat", nprobe=4),
    "few": lambda embeddings: TokenIndex(embeddings, "IVF4,SQ8", nprobe=2, candidates=30),
}


@pytest.mark.parametrize("kind", INDEXES)
@settings(max_examples=15)
@given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=5),
    positives=st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=4, unique=True),
    k=st.sampled_from([1, 5, 40]),
    group=st.booleans(),
)
def test_negatives_are_the_best_that_are_not_known(corpus, embeddings, kind, words, positives, k, group):
    query, ids = " ".join(words), [f"p{row}" for row in positives]
    step = step_of(corpus, k=k, exclude_group=group, index=INDEXES[kind](embeddings))
    found = step(row_of(query, ids))
    scores = slow_scores(query, TEXTS)
    known = {TEXTS[row].lower() for row in positives} | {query}
    groups = {row // 5 for row in positives} if group else set()
    allowed, seen = [], set()
    for row in np.lexsort((np.arange(len(TEXTS)), -np.round(scores, 4))):
        if TEXTS[row].lower() not in known | seen and row // 5 not in groups:
            allowed.append(scores[row])
            seen.add(TEXTS[row].lower())
    rows = corpus.rows(found["negative_ids"][0])
    assert len(rows) == k
    assert not known & {TEXTS[row].lower() for row in rows}
    assert len({TEXTS[row].lower() for row in rows}) == k
    assert not groups & {row // 5 for row in rows}
    np.testing.assert_allclose(found["negative_scores"][0], scores[rows], atol=1e-4)
    np.testing.assert_allclose(found["positive_scores"][0], scores[positives], atol=1e-4)
    assert (np.diff(found["negative_scores"][0]) <= 0).all()
    if kind != "few":
        np.testing.assert_allclose(found["negative_scores"][0], allowed[:k], atol=1e-4)


@given(query=st.integers(0, 40), candidates=st.integers(5, 60))
def test_candidates_of_another_miner_are_scored(corpus, query, candidates):
    other = BM25Negatives(corpus, k=candidates)
    found = step_of(corpus, k=5, candidates=other)(row_of("rock " + TEXTS[query], [f"p{query}"]))
    theirs = other._search(other._encode(["rock " + TEXTS[query]], None), np.array([0]), candidates).rows[0]
    assert {*corpus.rows(found["negative_ids"][0])} <= {*theirs}
    scores = slow_scores("rock " + TEXTS[query], [TEXTS[row] for row in theirs if row >= 0])
    assert max(found["negative_ranks"][0], default=0) <= len(scores)
    np.testing.assert_allclose(
        found["negative_scores"][0],
        np.sort(scores)[::-1][np.array(found["negative_ranks"][0], dtype=int) - 1],
        atol=1e-4,
    )


@pytest.mark.parametrize("kind", INDEXES)
def test_a_deeper_search_goes_on_with_a_shallower_one(corpus, embeddings, kind):
    index = INDEXES[kind](embeddings) or TokenIndex(embeddings)
    queries = token_vectors(vectors_of(["plate moves", "sea", "lava stone fire rock"]))
    deep = index.search(queries, 60)
    for k in (1, 7, 30):
        assert index.search(queries, k).rows.tolist() == deep.rows[:, :k].tolist()
    places = np.flatnonzero(deep.rows[0] >= 0)
    assert len(places) == (30 if kind == "few" else 60)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 3}, {"num_proc": 2}])
@pytest.mark.parametrize("kind", ["all", "few"])
def test_answers_do_not_depend_on_the_batch(corpus, embeddings, options, kind):
    rows = Dataset.from_dict({"query": TEXTS[:8], "positive_ids": [[f"p{row}"] for row in range(8)]})
    step = step_of(corpus, k=6, index=INDEXES[kind](embeddings))
    assert rows.map(step, batched=True).to_dict() == rows.map(step, batched=True, **options).to_dict()


def test_few_tokens_that_are_near_to_all_are_looked_beyond(monkeypatch):
    """One passage has all the nearest tokens of the query."""
    monkeypatch.setattr(tokens, "_NEAREST", 4)
    texts = ["sea " * 10, *(f"{word} {number}" for word in WORDS for number in range(5))]
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": texts, "text": texts}))
    embeddings = corpus.embed_tokens(vectors_of, fingerprint="words-1")
    step = step_of(corpus, k=8, index=TokenIndex(embeddings, "IVF2,Flat", nprobe=2))
    assert len(step(row_of("sea", [texts[3]]))["negative_ids"][0]) == 8


def test_recall(corpus, embeddings):
    assert step_of(corpus, k=10).recall(TEXTS[:5]) == 1
    assert step_of(corpus, k=10, index=INDEXES["every-list"](embeddings)).recall(TEXTS, k=20) == 1
    poor = step_of(corpus, k=10, candidates=RandomNegatives(corpus, k=30)).recall(TEXTS[:30])
    assert 0.1 < poor < 0.4


def test_the_default_index_depends_on_the_number_of_tokens(embeddings, monkeypatch):
    assert TokenIndex(embeddings).is_exact
    monkeypatch.setattr(tokens, "_SMALL", 100)
    found = TokenIndex(embeddings)
    assert not found.is_exact
    assert found._factory == "IVF64,SQ8"
    assert found.search(token_vectors(vectors_of(["sea"])), 3).rows.min() >= 0


def test_a_step_is_named_by_what_it_means(corpus, embeddings):
    steps = [
        step_of(corpus, k=5),
        step_of(corpus, k=6),
        step_of(corpus, k=5, index=TokenIndex(embeddings, candidates=200)),
        step_of(corpus, k=5, candidates=BM25Negatives(corpus, k=50)),
        step_of(corpus, k=5, candidates=BM25Negatives(corpus, k=60)),
    ]
    assert len({Hasher.hash(step) for step in steps}) == 5
    assert Hasher.hash(pickle.loads(pickle.dumps(steps[3]))) == Hasher.hash(steps[3])


def test_bad_input_is_named(corpus, embeddings):
    other = Corpus.from_dataset(Dataset.from_dict({"id": ["a", "b"], "text": ["sea", "b"]}))
    bm25 = BM25Negatives(corpus)
    fused = FuseNegatives({"bm25": bm25, "random": RandomNegatives(corpus)})
    dense = corpus.embed(lambda texts: np.ones((len(texts), 2)), fingerprint="ones-1")
    for kind, message, options in [
        (TypeError, "candidates must be a miner .* got int", {"candidates": 3}),
        (TypeError, "candidates must be a miner .* got FuseNegatives", {"candidates": fused}),
        (TypeError, "candidates must be a miner .* got JudgedN", {"candidates": JudgedNegatives(corpus, bm25)}),
        (ValueError, "the miner in candidates belongs to another corpus", {"candidates": BM25Negatives(other)}),
        (ValueError, "k is 50, but candidates finds only 40", {"candidates": BM25Negatives(corpus, k=40), "k": 50}),
        (TypeError, r"index must be a TokenIndex, got DenseIndex", {"index": DenseIndex(dense)}),
        (ValueError, "another corpus", {"index": TokenIndex(other.embed_tokens(vectors_of, fingerprint="words-1"))}),
        (ValueError, "another model", {"index": TokenIndex(corpus.embed_tokens(vectors_of, fingerprint="w-2"))}),
        (ValueError, "k", {"k": 0}),
    ]:
        with pytest.raises(kind, match=message):
            step_of(corpus, **options)
    for kind, message, arguments in [
        (TypeError, "embeddings must be TokenEmbeddings, got Emb", {"embeddings": dense}),
        (TypeError, "factory", {"factory": 3}),
        (ValueError, "nprobe", {"nprobe": 0}),
        (ValueError, "candidates", {"candidates": 0}),
    ]:
        with pytest.raises(kind, match=message):
            TokenIndex(**{"embeddings": embeddings} | arguments)
    with pytest.raises(ValueError, match=r"cannot create the index 'IVF4,PQ5' for vectors of dimension 8"):
        TokenIndex(embeddings, "IVF4,PQ5").prepare()
    with pytest.raises(ValueError, match=r"has 4096 inverted lists, but there are only \d+ tokens"):
        TokenIndex(embeddings, "IVF4096,Flat").prepare()
