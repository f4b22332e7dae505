"""A reranker scores each distinct pair once, keeps the scores, and is named by what determines them."""

import pickle

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import BertForSequenceClassification

from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.models import rerankers as rerankers_module
from hnm_datasets.models.handles import load_model
from hnm_datasets.models.rerankers import Reranker
from hnm_datasets.storage.opened import Opened

QUERIES = ["a b", "c", "a b"]
PASSAGES = pa.array(["b c", "d", "a b c d e", "b c"])
# "b c" is there twice, and so is the query "a b".
LISTS = Ragged(np.array([0, 3, 4, 7]), np.array([0, 1, 3, 2, 0, 1, 2]))
PAIRS = [("a b", "b c"), ("a b", "d"), ("a b", "b c"), ("c", "a b c d e"), ("a b", "b c"), ("a b", "d")]
PAIRS.append(("a b", "a b c d e"))


@pytest.fixture(autouse=True)
def _own_store(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def score_of(query, passage):
    # The order of the two counts.
    return len(query) * 10 + len(passage) / 4


class Teacher:
    """A function model that notes what it was given, and breaks after so many calls."""

    def __init__(self, calls=100):
        self.calls, self.left = [], calls

    def __call__(self, pairs):
        if not self.left:
            raise RuntimeError("out of calls")
        self.left -= 1
        self.calls.append(list(pairs))
        return [score_of(*pair) for pair in pairs]

    @property
    def pairs(self):
        return [pair for call in self.calls for pair in call]


def named(function, **options):
    return Reranker(function, **{"fingerprint": "teacher-1"} | options)


def score(reranker):
    return reranker.scores(QUERIES, PASSAGES, LISTS)


@pytest.fixture
def model(tmp_path, make_cross_encoder):
    return CrossEncoder(str(make_cross_encoder(tmp_path / "cross")), device="cpu")


# ---- scores ----------------------------------------------------------------------------------------------------------


def test_scores_stand_where_their_pairs_do():
    found = score(named(Teacher()))
    assert found.dtype == np.float32
    assert found.tolist() == [score_of(*pair) for pair in PAIRS]


def test_each_distinct_pair_is_scored_once():
    teacher = Teacher()
    score(named(teacher))
    assert sorted(teacher.pairs) == sorted(set(PAIRS))
    assert len(teacher.calls) == 1


def test_scores_are_kept():
    reranker, teacher = named(Teacher()), Teacher()
    first = score(reranker)
    assert score(named(teacher)).tolist() == first.tolist()
    assert teacher.pairs == []
    # Only what is new is asked.
    more = named(teacher).scores(["a b", "new"], pa.array(["d", "e"]), Ragged(np.array([0, 2, 3]), np.array([0, 1, 0])))
    assert more.tolist() == [score_of(*pair) for pair in (("a b", "d"), ("a b", "e"), ("new", "d"))]
    assert sorted(teacher.pairs) == [("a b", "e"), ("new", "d")]


def test_scores_are_kept_on_disk(monkeypatch):
    first, teacher = score(named(Teacher())), Teacher()
    # As in a new process.
    monkeypatch.setattr(rerankers_module, "_RESULTS", Opened())
    assert score(named(teacher)).tolist() == first.tolist()
    assert teacher.pairs == []


def test_another_name_has_its_own_scores():
    teacher = Teacher()
    score(named(Teacher()))
    score(named(teacher, fingerprint="teacher-2"))
    assert len(teacher.pairs) == len(set(PAIRS))


def test_a_query_and_a_passage_that_change_places_are_another_pair():
    teacher = Teacher()
    texts, lists = ["x", "longer"], Ragged(np.array([0, 2, 4]), np.array([0, 1, 0, 1]))
    found = named(teacher).scores(texts, pa.array(texts), lists)
    assert found.tolist() == [score_of(query, passage) for query in texts for passage in texts]
    assert len(teacher.pairs) == 4


def test_longest_pairs_come_first_in_groups_of_batches(monkeypatch):
    monkeypatch.setattr(rerankers_module, "_GROUP", 2)
    teacher = Teacher()
    passages = pa.array(["x" * length for length in (3, 9, 1, 7, 5, 2)])
    named(teacher, batch_size=2).scores(["q"], passages, Ragged(np.array([0, 6]), np.arange(6)))
    assert [len(passage) for _, passage in teacher.pairs] == [9, 7, 5, 3, 2, 1]
    assert [len(call) for call in teacher.calls] == [4, 2]


def test_what_was_scored_before_an_error_is_kept(monkeypatch):
    monkeypatch.setattr(rerankers_module, "_GROUP", 1)
    stopped, teacher = Teacher(calls=2), Teacher()
    with pytest.raises(RuntimeError, match="out of calls"):
        score(named(stopped, batch_size=1))
    assert score(named(teacher)).tolist() == [score_of(*pair) for pair in PAIRS]
    assert len(stopped.pairs) == 2
    assert sorted(stopped.pairs + teacher.pairs) == sorted(set(PAIRS))


def test_no_pairs():
    teacher = Teacher()
    found = named(teacher).scores(["a", "b"], PASSAGES, Ragged(np.array([0, 0, 0]), np.array([], dtype=np.int64)))
    assert found.shape == (0,)
    assert found.dtype == np.float32
    assert teacher.calls == []
    found = named(teacher).scores([], pa.array([], pa.string()), Ragged(np.array([0]), np.array([], dtype=np.int64)))
    assert found.shape == (0,)


# ---- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_scores_are_those_of_the_model(model, batch_size):
    np.testing.assert_allclose(score(Reranker(model, batch_size=batch_size)), model.predict(PAIRS), atol=1e-6)


def test_activations(model):
    logits, sigmoids = (score(Reranker(model, activation=one)).astype(np.float64) for one in ("none", "sigmoid"))
    assert not np.allclose(logits, sigmoids)
    np.testing.assert_allclose(sigmoids, 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_half_precision_is_near_and_another_name(model):
    whole, half = Reranker(model), Reranker(model, dtype="bfloat16")
    np.testing.assert_allclose(score(half), score(whole), atol=0.02)
    assert not np.array_equal(score(half), score(whole))
    assert half.fingerprint != whole.fingerprint


def test_the_name_is_of_all_that_determines_the_scores(model):
    reranker = Reranker(model)
    others = [{"activation": "none"}, {"activation": "sigmoid"}, {"dtype": "bfloat16"}, {"dtype": "float16"}]
    names = {Reranker(model, **options).fingerprint for options in others} | {reranker.fingerprint}
    assert len(names) == 5
    assert Reranker(model, batch_size=7) == reranker
    assert hash(Reranker(model, batch_size=7)) == hash(reranker)
    assert Reranker(model, activation="none") != reranker
    assert reranker != "reranker"


def test_it_pickles_without_the_model(model):
    reranker = Reranker(model, batch_size=3, activation="none")
    pickled = pickle.dumps(reranker)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert again == reranker
    assert (again.batch_size, again.activation, again.loaded.model) == (3, "none", model)
    assert score(again).tolist() == score(reranker).tolist()


def test_it_shows_its_model(tmp_path, make_cross_encoder):
    path = str(make_cross_encoder(tmp_path / "shown"))
    assert repr(Reranker(path)) == f"Reranker({path!r})"
    own = named(Teacher())
    assert repr(own) == f"Reranker(model {own.model_fingerprint})"


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_a_changed_model_is_refused(model):
    reranker = Reranker(model)
    # Also where all scores are kept already.
    score(reranker)
    next(model.parameters()).data.add_(1)
    with pytest.raises(RuntimeError, match="The model has changed since the step was created"):
        score(reranker)


@pytest.mark.parametrize(
    ("options", "error", "wanted"),
    [
        ({"batch_size": 0}, ValueError, "Reranker: batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 1.5}, TypeError, "Reranker: batch_size must be a whole number"),
        ({"activation": "tanh"}, ValueError, "Reranker: activation must be one of 'model', 'sigmoid', 'none'"),
        ({"dtype": "float32"}, ValueError, "Reranker: dtype must be one of 'bfloat16', 'float16'"),
        ({"activation": "none"}, ValueError, "activation and dtype apply only to models"),
        ({"dtype": "float16"}, ValueError, "activation and dtype apply only to models"),
        ({"fingerprint": None}, ValueError, "A function cannot be fingerprinted from its code"),
    ],
)
def test_options_are_checked(options, error, wanted):
    with pytest.raises(error, match=wanted):
        named(Teacher(), **options)


def test_what_is_no_model_of_pairs_is_refused(static_model):
    with pytest.raises(TypeError, match="model must be a CrossEncoder"):
        Reranker(5)
    with pytest.raises(TypeError, match=r"model must be a CrossEncoder.*got SentenceTransformer"):
        Reranker(static_model)


def test_a_model_of_several_outputs_is_refused(model):
    model.model.config.num_labels = 3
    assert model.num_labels == 3
    with pytest.raises(ValueError, match="The cross-encoder has 3 outputs per pair, but a teacher must have one"):
        Reranker(load_model(model, None, kind="CrossEncoder"))


@pytest.mark.parametrize("answer", [lambda pairs: [1.0], lambda pairs: [[1.0, 2.0]] * len(pairs), lambda pairs: 1.0])
def test_an_answer_of_another_shape_is_refused(answer):
    with pytest.raises(ValueError, match="The model must return one score for each of 4 pairs, got an array of shape"):
        score(named(answer))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_none_is_refused_with_its_pair_and_not_kept(bad):
    def answer(pairs):
        return [bad if pair == ("c", "a b c d e") else 1.0 for pair in pairs]

    with pytest.raises(ValueError, match="NaN or infinite for the query 'c' and the passage 'a b c d e'"):
        score(named(answer))
    teacher = Teacher()
    assert np.isfinite(score(named(teacher))).all()
    assert ("c", "a b c d e") in teacher.pairs


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "activation_fn", torch.tanh),
        lambda model: setattr(model, "activation_fn", torch.nn.LeakyReLU(0.5)),
        lambda model: setattr(model, "activation_fn", lambda logits: logits * 7),
        lambda model: setattr(model, "default_prompt_name", "long"),
        lambda model: setattr(model.tokenizer, "truncation_side", "left"),
        lambda model: setattr(model, "max_seq_length", 5),
        lambda model: model[0].model.classifier.register_forward_hook(lambda module, inputs, output: output + 1),
    ],
)
def test_scores_of_earlier_settings_are_not_used(save_bert, tmp_path, change):
    # Weights large enough for scores that differ.
    path = save_bert(tmp_path / "model", BertForSequenceClassification, num_labels=1, initializer_range=0.5)
    passages = ["b c", "a b c d e " * 20 + "j i h"]

    def made():
        return CrossEncoder(path, device="cpu", max_length=24, prompts={"long": "e d c b a " * 2})

    def scored(model):
        lists = Ragged(np.array([0, 2]), np.array([0, 1]))
        return Reranker(model).scores(["a b"], pa.array(passages), lists)

    before, model = scored(made()), made()
    change(model)
    found = scored(model)
    wanted = model.predict([("a b", passage) for passage in passages], show_progress_bar=False)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - before).max() > 0.01
