"""The student: made of the words of any corpus, or a copy of a user's model that gives the same vectors."""

import copy

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

from hnm_datasets import Corpus
from hnm_datasets.models.fingerprint import model_fingerprint
from hnm_datasets.piloting import student as module
from hnm_datasets.piloting.student import MeanOfTokens, Tokens, is_static, make_student, word_student

TEXTS = ["Plates move slowly.", "A plate is large.", "Waves roll over the beach.", "Bread rises in an oven."]


def corpus_of(texts):
    return Corpus.from_dataset({"id": [f"p{at}" for at in range(len(texts))], "text": texts})


def test_words_that_passages_have_in_common_bring_them_together():
    model = word_student(corpus_of(TEXTS), 0)
    scores = model.similarity(model.encode(["plates"]), model.encode(TEXTS))[0]
    assert scores[0] > 0.5
    assert scores[2:].abs().max() < 0.01


@pytest.mark.parametrize(
    "texts",
    [
        ["plates"],
        ["plates", "waves"],
        ["!!! ???", "plates move"],
        ["地震是什么原因造成的", "板块构造"],
        ["ما الذي يسبب الزلازل", "الصفائح التكتونية"],
        ["землетрясения", "भूकंप क्यों आते हैं", "plates"],
    ],
    ids=["one", "two", "symbols and words", "Chinese", "Arabic", "several scripts"],
)
def test_any_script_and_few_words_will_do(texts):
    model = word_student(corpus_of(texts), 0)
    vectors = model.encode([*texts, "unheard-of zzz", "", "?!"])
    assert np.isfinite(vectors).all()
    assert (np.linalg.norm(vectors, axis=1) > 0).all()
    scores = model.similarity(vectors, vectors)
    assert scores.diagonal() == pytest.approx(1, abs=1e-5)


def test_without_words_it_says_what_to_do():
    with pytest.raises(ValueError, match=r"no words to make a student from.*student="):
        word_student(corpus_of(["!!!", "??? ..."]), 0)


def test_a_static_model_is_copied_with_all_its_settings(make_static_model):
    model = SentenceTransformer(
        modules=[make_static_model(16)[0], Dense(16, 8)], device="cpu", prompts={"query": "find: ", "document": ""},
        default_prompt_name="query", truncate_dim=6, similarity_fn_name="dot",
    )  # fmt: skip
    before = model_fingerprint(model)
    student, what = make_student(corpus_of(TEXTS), model, 0)
    assert "static" in what
    assert is_static(student)
    texts = [*TEXTS, "Ünïcode 地震", "a" * 500]
    for encode in ("encode", "encode_query", "encode_document"):
        assert getattr(student, encode)(texts) == pytest.approx(getattr(model, encode)(texts), abs=1e-6)
    assert student.similarity_fn_name == "dot"
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 1
    assert model_fingerprint(model) == before


def test_another_model_is_copied_as_it_is():
    model = SentenceTransformer(modules=[Dense(4, 4)], device="cpu")
    student, what = make_student(corpus_of(TEXTS), model, 0)
    assert what == "the model itself"
    assert not is_static(student)
    assert student[0].linear.weight is not model[0].linear.weight


def test_each_text_is_tokenized_once_and_copies_share_that():
    asked = []

    def tokenize(texts):
        asked.extend(texts)
        return [[len(text)] * len(text.split()) for text in texts]

    student = SentenceTransformer(modules=[MeanOfTokens(torch.eye(9), Tokens(tokenize))], device="cpu")
    first = student.encode(["a b", "cc", "a b"])
    assert np.array_equal(copy.deepcopy(student).encode(["a b", "cc"]), first[:2])
    assert sorted(asked) == ["a b", "cc"]
    # Halves of characters, which no UTF-8 holds, are texts too.
    assert len(student.encode(["\ud800"])) == 1


def test_no_more_tokens_are_remembered_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(module, "_REMEMBERED", 1000)
    tokens = Tokens(lambda texts: [[1, 2, 3] for _ in texts])
    for start in range(0, 500, 5):
        found = tokens.of([f"text {number}" for number in range(start, start + 5)])
        assert [one.tolist() for one in found] == [[1, 2, 3]] * 5
    assert len(tokens._known) <= 20


def test_it_is_not_saved(tmp_path):
    with pytest.raises(NotImplementedError, match="cannot be saved"):
        word_student(corpus_of(TEXTS), 0).save(str(tmp_path / "model"))
