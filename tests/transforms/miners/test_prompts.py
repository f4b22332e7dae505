"""The prompts of dense negatives: those of passages and of queries, given to the step or with its index."""

import dataclasses
import pickle

import datasets
import numpy as np
import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher

from hnm_datasets import Corpus, DenseIndex, DenseNegatives
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.folders import cache_root

TEXTS = [f"passage {i} of plate {i % 7}" for i in range(40)]
ROWS = {"query": [f"question {i}" for i in range(12)], "positive_ids": [["p1"]] * 12}


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def corpus():
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{i}" for i in range(40)], "text": TEXTS}))


class Noted:
    """A function model that notes what it was given."""

    def __init__(self):
        self.texts = []

    def __call__(self, texts):
        self.texts += texts
        return digest_strings(texts).astype(np.float64) / 2**64 - 0.5


def dense(corpus, model, **options):
    return DenseNegatives(corpus, model, **{"k": 9, "fingerprint": "noted-1"} | options)


def embed(corpus, model, **options):
    return corpus.embed(model, fingerprint="noted-1", **options)


def test_the_prompt_of_passages_is_that_of_their_embeddings(corpus):
    model, rows = Noted(), Dataset.from_dict(ROWS)
    step = dense(corpus, model, prompt="passage: ")
    before = Hasher.hash(step)
    assert (step.prompt, step.query_prompt) == ("passage: ", "")
    assert model.texts == []
    with_index = dense(corpus, model, index=DenseIndex(embed(corpus, model, prompt="passage: ")))
    assert sorted(model.texts) == sorted("passage: " + text for text in TEXTS)
    with_both = dense(corpus, model, index=with_index.index, prompt="passage: ")
    assert step == with_index == with_both
    assert Hasher.hash(step) == Hasher.hash(with_index) == Hasher.hash(with_both) == before
    assert pickle.dumps(step) == pickle.dumps(with_index)
    answers = [rows.map(one, batched=True, load_from_cache_file=False).to_dict() for one in (step, with_index)]
    assert answers[0] == answers[1]
    assert sorted(model.texts[40:]) == sorted(ROWS["query"]), "the passages were not encoded again"
    plain = dense(corpus, model)
    assert plain != step
    assert Hasher.hash(plain) != before
    assert rows.map(plain, batched=True)["negative_ids"][:] != answers[0]["negative_ids"]
    assert dense(corpus, model, prompt="") == plain, "a function has no prompt of its own"


def test_passages_are_embedded_with_the_prompt_when_they_are_needed(corpus):
    model = Noted()
    step = dense(corpus, model, prompt="passage: ", query_prompt="query: ")
    step(ROWS)
    assert sorted(model.texts[:40]) == sorted("passage: " + text for text in TEXTS)
    assert sorted(model.texts[40:]) == sorted("query: " + text for text in ROWS["query"])
    assert step.index.embeddings == embed(corpus, model, prompt="passage: ")
    assert len(model.texts) == 52


@pytest.mark.parametrize("factory", ["Flat", "HNSW8"])
def test_an_index_of_another_prompt_is_refused(corpus, factory):
    model = Noted()
    index = DenseIndex(embed(corpus, model, prompt="read: "), factory)
    for prompt in ("passage: ", ""):
        with pytest.raises(
            ValueError, match=rf"^DenseNegatives: the passages of the index .* the prompt 'read: ', not '{prompt}'\."
        ):
            dense(corpus, model, index=index, prompt=prompt)
    assert dense(corpus, model, index=index).prompt == "read: "
    assert dense(corpus, model, index=index, prompt="read: ") == dense(corpus, model, index=index)


@pytest.mark.parametrize("prompt", [3, b"passage: "])
def test_the_prompt_is_checked(corpus, prompt):
    with pytest.raises(TypeError, match="prompt must be a string or None, got"):
        dense(corpus, Noted(), prompt=prompt)


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("prompt", [None, "passage: "])
def test_a_step_can_be_replaced_in_part_before_and_after_embedding(corpus, prompt, embedded):
    model = Noted()
    step = dense(corpus, model, prompt=prompt)
    if embedded:
        step.prepare()
    count = len(model.texts)
    three = dataclasses.replace(step, k=3)
    assert three == dense(corpus, model, prompt=prompt, k=3)
    assert Hasher.hash(three) == Hasher.hash(dense(corpus, model, prompt=prompt, k=3))
    asked = dataclasses.replace(step, query_prompt="query: ", batch_size=7)
    assert asked == dense(corpus, model, prompt=prompt, query_prompt="query: ", batch_size=7)
    assert dataclasses.replace(three, k=9) == step
    assert len(model.texts) == count
    assert (cache_root() / "embeddings").exists() == embedded
    found = step(ROWS)
    assert [ids[:3] for ids in found["negative_ids"]] == three(ROWS)["negative_ids"]
    assert asked(ROWS)["negative_ids"] != found["negative_ids"]
    assert len(model.texts) == 40 + 12 + 12


def test_a_replaced_prompt_of_passages_is_refused_as_the_index_has_another(corpus):
    model = Noted()
    step = dense(corpus, model, prompt="passage: ")
    step.prepare()
    with pytest.raises(ValueError, match="the passages of the index were encoded with the prompt 'passage: '"):
        dataclasses.replace(step, prompt="read: ")
    other = dataclasses.replace(step, prompt="read: ", index=None)
    assert other == dense(corpus, model, prompt="read: ")


def test_a_models_own_prompts_are_the_default(corpus, make_static_model):
    model = make_static_model(32)
    model.prompts = {"query": "q: ", "document": "d: "}
    step = DenseNegatives(corpus, model, k=5)
    assert (step.prompt, step.query_prompt) == ("d: ", "q: ")
    assert step == DenseNegatives(corpus, model, k=5, prompt="d: ", query_prompt="q: ")
    assert step.index == DenseIndex(corpus.embed(model))
    without = DenseNegatives(corpus, model, k=5, prompt="", query_prompt="")
    assert without.index == DenseIndex(corpus.embed(model, prompt=""))
    assert without(ROWS)["negative_scores"] != step(ROWS)["negative_scores"]
