"""What a pilot takes, and the errors that lead out of what it does not."""

from functools import partial

import numpy as np
import pytest
from datasets import Dataset
from pilot_helpers import QUICK, answer

from hnm_datasets import (
    BM25Negatives,
    Corpus,
    DenseNegatives,
    RandomNegatives,
    RankWindow,
    ToNTuples,
    ToTriplets,
    pilot,
)
from hnm_datasets.piloting.run import _Run
from hnm_datasets.piloting.strategies import checked, usual


@pytest.fixture
def call(tiny):
    """Call a pilot that is not to begin, because what it is given is refused before."""

    def begin(strategies=None, **options):
        corpus, rows = options.pop("corpus", tiny[0]), options.pop("rows", tiny[1])
        return pilot(rows, corpus, strategies, **QUICK | options)

    return begin


@pytest.fixture(autouse=True)
def _not_begun(request, monkeypatch):
    if "call" in request.fixturenames:
        monkeypatch.setattr(_Run, "all", lambda self: pytest.fail("it began"))


@pytest.mark.parametrize(
    ("strategies", "error", "message"),
    [
        ([RankWindow()], TypeError, "strategies must be a dict from names to lists of steps, .*got list"),
        ({}, ValueError, "strategies is empty. Pass at least one strategy, or None"),
        ({3: []}, TypeError, "name of a strategy must be a non-empty string, got 3"),
        ({"": []}, TypeError, "name of a strategy must be a non-empty string, got ''"),
        ({"a": RankWindow()}, TypeError, "'a' must be a list of steps, got RankWindow"),
        ({"a": "BM25"}, TypeError, "'a' must be a list of steps, got str"),
        ({"a": None}, TypeError, "'a' must be a list of steps, got NoneType"),
        ({"a": [RankWindow(), 3]}, TypeError, "the steps of the strategy 'a' must be steps .*, got int"),
    ],
)
def test_strategies_that_are_none(call, strategies, error, message):
    with pytest.raises(error, match=f"^pilot: .*{message}"):
        call(strategies)


def test_a_shape_may_end_a_chain_and_nothing_else(call, tiny):
    corpus, _ = tiny
    with pytest.raises(ValueError, match="'a' has a shape before its last step"):
        call({"a": [BM25Negatives(corpus), ToTriplets(corpus), RankWindow()]})
    (found,) = checked({"a": [BM25Negatives(corpus), ToNTuples(corpus, n=4)]})
    assert [type(step).__name__ for step in found.steps] == ["BM25Negatives"]


def test_steps_that_wait_for_a_model_make_a_strategy_dynamic(tiny):
    corpus, _ = tiny
    steps = {
        "partial": [partial(DenseNegatives, corpus)],
        "function": [lambda model: DenseNegatives(corpus, model)],
        "class": [DenseNegatives],
        "step": [BM25Negatives(corpus)],
        "function of a batch": [BM25Negatives(corpus), lambda batch: batch],
        "built-in": [BM25Negatives(corpus), dict],
    }
    dynamic = {one.name for one in checked(steps) if one.dynamic}
    assert dynamic == {"partial", "function", "class", "built-in"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sample": 19}, ValueError, "sample must be a whole number of at least 20, got 19"),
        ({"held_out": 1}, ValueError, "held_out must be a whole number of at least 20, got 1"),
        ({"sample": 60.0}, TypeError, "sample must be a whole number, got 60.0"),
        ({"steps": 0}, ValueError, "steps must be a whole number of at least 1"),
        ({"seeds": 0}, ValueError, "seeds must be a whole number of at least 1"),
        ({"seed": -1}, ValueError, "seed must be a whole number of at least 0"),
        ({"measure": "ndcg"}, ValueError, "measure.*'nDCG@10', 'recall@10'.*got 'ndcg'"),
        ({"train": 1}, TypeError, "train"),
        ({"corpus": ["text"]}, TypeError, "corpus"),
        ({"rows": 3}, TypeError, "rows must be a Dataset, a data frame.*got int"),
        ({"rows": []}, KeyError, "'query'"),
        ({"teacher": "a name"}, TypeError, "teacher must be a step that scores.*got str"),
        ({"teacher": RankWindow()}, TypeError, "teacher must be a step that scores.*got RankWindow"),
        ({"judgments": 3}, TypeError, "judgments must be a Dataset.*got int"),
        ({"judgments": {"query_id": ["q1"], "score": [1]}}, KeyError, "corpus_id"),
        ({"judgments": {"query_id": ["x"], "positive_ids": [["p1"]]}}, ValueError, "none of the 30 queries.*leave"),
        ({"model": len}, TypeError, "model must be a SentenceTransformer.*DenseNegatives.corpus, function"),
        ({"model": partial(len)}, TypeError, "model must be a SentenceTransformer, .*got partial"),
        ({"model": 3}, TypeError, "model must be a SentenceTransformer.*got int"),
        ({"student": "path"}, TypeError, "student must be a SentenceTransformer, which can be trained, got str"),
    ],
)  # fmt: skip
def test_options_that_are_out_of_range(call, options, error, message):
    with pytest.raises(error, match=message) as caught:
        call(**options)
    assert str(caught.value.args[0]).startswith("pilot")


def test_models_of_another_kind_are_refused_with_their_use(call, make_sparse_model, make_cross_encoder, tmp_path):
    from sentence_transformers import CrossEncoder

    sparse, cross = make_sparse_model(["plate"]), CrossEncoder(str(make_cross_encoder(tmp_path / "cross")))
    with pytest.raises(TypeError, match=r"^pilot: .*got SparseEncoder.*SparseNegatives"):
        call(model=sparse)
    with pytest.raises(TypeError, match=r"^pilot: .*got CrossEncoder.*CrossEncoderScores"):
        call(model=cross)
    for model in (sparse, cross):
        with pytest.raises(TypeError, match="student must be a SentenceTransformer"):
            call(student=model)
    with pytest.raises((OSError, ValueError), match="no-such-model"):
        call(model=str(tmp_path / "no-such-model"))


def test_a_student_without_weights_to_train_is_refused(call):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    model = SentenceTransformer(modules=[Dense(4, 4)], device="cpu")
    for parameter in model.parameters():
        parameter.requires_grad = False
    with pytest.raises(ValueError, match="no weights that require a gradient"):
        call(student=model)


def test_the_usual_strategies_are_made_of_what_there_is(tiny, static_model, sample):
    from hnm_datasets import BiEncoderScores

    corpus, _ = tiny
    teacher = BiEncoderScores(corpus, static_model, name="big")

    def names(model, scorer, train):
        return [one.name for one in usual(corpus, model, scorer, {}, train=train)]

    plain = ["random", "BM25", "BM25 below rank 10"]
    dense = ["dense", "BM25 and dense", "dense, margin"]
    assert names(None, None, True) == ["in-batch", *plain, "dynamic"]
    assert names(None, None, False) == plain
    assert names(static_model, None, True) == ["in-batch", *plain, *dense, "dynamic"]
    assert names(static_model, teacher, True) == ["in-batch", *plain, *dense, "dense, denoised", "dynamic"]
    assert names(None, teacher, False) == [*plain, "BM25, denoised"]
    margins = {"score": 0.2, "big": 0.3}
    steps = {one.name: one.steps for one in usual(corpus, static_model, teacher, margins, train=False)}
    assert [step.margin for step in steps["dense, margin"] if hasattr(step, "margin")] == [0.2]
    assert [(step.margin, step.by) for step in steps["dense, denoised"] if hasattr(step, "margin")] == [(0.3, "big")]


# ---- strategies that fail ------------------------------------------------------------------------------------------


def empty_lists(batch):
    return {"negative_ids": [[] for _ in batch["query"]]}


def fewer(batch):
    return {name: values[:1] for name, values in batch.items()}


def test_a_strategy_that_fails_is_named_and_the_others_go_on(tiny, monkeypatch, caplog):
    from hnm_datasets import RelativeMargin
    from hnm_datasets.piloting.trainings import Course

    corpus, rows = tiny
    strategies = {
        "good": [RandomNegatives(corpus, k=4)],
        "no column": [BM25Negatives(corpus, k=4), RelativeMargin(0.05, by="teacher")],
        "nothing left": [BM25Negatives(corpus, k=4), empty_lists],
        "no miner": [dict],
        "fewer rows": [fewer],
        "untrainable": [BM25Negatives(corpus, k=3)],
    }
    run = Course._run

    def fail(self, student, rows, *others):
        if len(rows[0].get("negative_ids", [])) == 3:
            raise RuntimeError("out of luck")
        return run(self, student, rows, *others)

    monkeypatch.setattr(Course, "_run", fail)
    found = pilot(rows, corpus, strategies, **QUICK)
    errors = {trial.name: trial.error for trial in found.trials}
    assert errors["good"] is None
    assert "teacher" in errors["no column"]
    assert "leave no negatives for any row" in errors["nothing left"]
    assert errors["no miner"]
    assert "rows for 30" in errors["fewer rows"]
    assert errors["untrainable"] == "out of luck"
    assert found.recommended == "good"
    assert list(found.overlap) == ["good"]
    for name, error in errors.items():
        if error:
            assert f"the strategy {name!r} failed" in caplog.text
            assert error.split("\n")[0][:60] in repr(found)
    with pytest.raises(ValueError, match=r"all strategies failed\. nothing left: .*; untrainable: out of luck"):
        pilot(rows, corpus, {name: strategies[name] for name in ("nothing left", "untrainable")}, **QUICK)


# ---- forms of rows and judgments -----------------------------------------------------------------------------------


def test_rows_and_judgments_in_any_form(tiny):
    import pandas as pd
    import pyarrow as pa

    corpus, rows = tiny
    strategies = {"BM25": [BM25Negatives(corpus, k=4)]}
    judgments = {"query-id": [f"q{at}" for at in range(60)], "corpus-id": [f"p{at}" for at in range(60)]}
    judgments["score"] = [1] * 60
    lists = {"query_id": judgments["query-id"], "positive_ids": [[one] for one in judgments["corpus-id"]]}

    def rate(some, judged):
        found = pilot(some, corpus, strategies, judgments=judged, train=False, sample=60)
        assert found.false_by == "by the judgments"
        return {trial.name: trial.false_negatives.rate for trial in found.trials}

    wanted = rate(rows, Dataset.from_dict(judgments))
    forms = (pd.DataFrame, pa.table, lambda columns: Dataset.from_dict(columns).to_list(), dict)
    for form in forms:
        assert rate(form(rows[:]), form(judgments)) == wanted
        assert rate(rows, form(lists)) == wanted


def test_ids_may_be_whole_numbers(tiny):
    texts = tiny[0].texts(np.arange(120)).to_pylist()
    corpus = Corpus.from_dataset({"id": list(range(120)), "text": texts})
    numbers = {"query_id": list(range(60)), "query": tiny[1]["query"][:], "positive_ids": [[at] for at in range(60)]}
    judged = {"query_id": list(range(60)), "corpus_id": [at + 8 for at in range(60)], "score": [1] * 60}

    def count(columns, judgments):
        strategies = {"BM25": [BM25Negatives(corpus, k=4)]}
        return answer(pilot(columns, corpus, strategies, judgments=judgments, train=False, sample=60))

    written = {name: [str(one) for one in judged[name]] for name in ("query_id", "corpus_id")} | {"score": [1] * 60}
    texts = {name: [str(one) for one in numbers[name]] for name in ("query_id", "query")}
    texts["positive_ids"] = [[str(at)] for at in range(60)]
    assert count(numbers, judged) == count(texts, written)


def test_without_query_ids_judgments_are_by_the_text(tiny):
    corpus, rows = tiny
    named = rows.remove_columns("query_id")
    judged = {"query": rows["query"][:], "positive_ids": [[f"p{at}", f"p{at + 1}"] for at in range(60)]}
    found = pilot(named, corpus, {"BM25": [BM25Negatives(corpus, k=4)]}, judgments=judged, train=False, sample=60)
    assert found.trials[0].false_negatives.queries == 60


# ---- false negatives -----------------------------------------------------------------------------------------------


def naive_rate(mined, relevant):
    false = [
        one in relevant[query]
        for query, ids in zip(mined["query_id"], mined["negative_ids"], strict=True)
        for one in ids
    ]
    return np.mean(false)


def test_false_negatives_by_judgments_are_counted_right(tiny):
    corpus, rows = tiny
    relevant = {f"q{at}": {f"p{at}", f"p{(at + 8) % 120}", f"p{(at + 16) % 120}"} for at in range(60)}
    judged = Dataset.from_list([{"query_id": one, "positive_ids": sorted(ids)} for one, ids in relevant.items()])
    step = BM25Negatives(corpus, k=7)
    found = pilot(rows, corpus, {"BM25": [step]}, judgments=judged, train=False, sample=60)
    wanted = naive_rate(rows.map(step, batched=True), relevant)
    assert 0 < wanted < 1
    assert found.trials[0].false_negatives.rate == pytest.approx(wanted)
    assert found.false_by == "by the judgments"


def test_false_negatives_by_hidden_positives_are_counted_right(tiny):
    corpus, rows = tiny
    relevant = {f"q{at}": [f"p{at}", f"p{(at + 8) % 120}", f"p{(at + 16) % 120}"] for at in range(60)}
    several = Dataset.from_list([row | {"positive_ids": relevant[row["query_id"]]} for row in rows])
    step = BM25Negatives(corpus, k=7)
    found = pilot(several, corpus, {"BM25": [step]}, train=False, sample=60)
    from hnm_datasets import hide_positives

    hidden, _ = hide_positives(several)
    wanted = naive_rate(hidden.map(step, batched=True), relevant)
    assert 0 < wanted < 1
    assert found.trials[0].false_negatives.rate == pytest.approx(wanted)
    assert found.false_by == "by 60 rows with several positives, with one known and the others hidden"
    # With all of them known, none is mined.
    assert naive_rate(several.map(step, batched=True), relevant) == 0


def test_false_negatives_by_a_teacher_are_counted_right(tiny, static_model):
    from hnm_datasets import BiEncoderScores

    corpus, rows = tiny
    teacher, step = BiEncoderScores(corpus, static_model, name="big"), BM25Negatives(corpus, k=7)
    found = pilot(rows, corpus, {"BM25": [step]}, teacher=teacher, train=False, sample=60)
    scored = rows.map(step, batched=True).map(teacher, batched=True)
    false = [
        score >= min(positives)
        for positives, scores in zip(scored["positive_big_scores"], scored["negative_big_scores"], strict=True)
        for score in scores
    ]
    assert found.trials[0].false_negatives.rate == pytest.approx(np.mean(false))
    assert found.false_by == "by the scores of 'big'"


def test_unknown_false_negatives_are_said_to_be_unknown(tiny):
    corpus, rows = tiny
    found = pilot(rows, corpus, {"BM25": [BM25Negatives(corpus, k=4)]}, train=False, sample=60)
    assert found.recommended is None
    assert (found.chain, found.code, found.false_by) == ((), "", "")
    assert "Pass judgments= or a teacher=" in found.sentence
    assert "False negatives are unknown: pass judgments=" in repr(found)
