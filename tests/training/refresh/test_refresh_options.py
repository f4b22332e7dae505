"""What a refresh logs, and the options that it refuses."""

import json
from dataclasses import dataclass
from functools import partial

import datasets
import numpy as np
import pytest
from refresh_helpers import (
    chain,
    lists_of,
    make_model,
    owners_of,
    train,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from hnm_datasets import (
    BiEncoderScores,
    BM25Negatives,
    CrossEncoderScores,
    DenseNegatives,
    FuseNegatives,
    JudgedNegatives,
    RelativeMargin,
    TeacherThreshold,
    ToTriplets,
)
from hnm_datasets.training import refresh_job
from hnm_datasets.training.labels import PADDING, unpack
from hnm_datasets.training.live import live_negatives
from hnm_datasets.training.refresh import RefreshNegatives

pytestmark = [
    pytest.mark.usefixtures("fast_trainers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


def test_numbers_reach_the_log_beside_the_loss(corpus, mined, tmp_path):
    done = train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 5)
    history = {one["step"]: one for one in done.refresh.history}
    assert list(history) == [5, 10, 15, 20]
    with_loss = [one for one in done.log if "loss" in one]
    for entry in with_loss:
        last = max((step for step in history if step < entry["step"]), default=None)
        if last is None:
            assert not any(name.startswith("refresh_") for name in entry)
            continue
        for name in ("mrr", "recall", "above", "replaced", "short", "generation", "model_step"):
            assert entry[f"refresh_{name}"] == pytest.approx(history[last][name], abs=1e-4), name
        assert all(type(entry[f"refresh_{name}"]) is int for name in ("generation", "model_step"))
    own = [one for one in done.log if "loss" not in one and "refresh_mrr" in one]
    assert all(type(one[f"refresh_{name}"]) is int for one in own for name in ("generation", "model_step"))
    assert [(one["step"], one["refresh_generation"]) for one in own] == [(5, 1), (10, 2), (15, 3), (20, 4)]
    assert json.loads(json.dumps(done.refresh.history)) == done.refresh.history


def test_a_bar_counts_the_queries_unless_bars_are_disabled(corpus, mined, tmp_path, capfd, monkeypatch):
    # Else a bar that is done within a tenth of a second shows only its beginning.
    monkeypatch.setattr(refresh_job, "ProgressBar", partial(refresh_job.ProgressBar, mininterval=0))
    shown = {}
    for enabled in (False, True):
        (datasets.enable_progress_bars if enabled else datasets.disable_progress_bars)()
        try:
            train(live_negatives(mined, corpus, n=3), tmp_path / str(enabled), chain(corpus), 4, max_steps=5)
        finally:
            datasets.disable_progress_bars()
        shown[enabled] = capfd.readouterr().err
    assert "Mining negatives" not in shown[False]
    assert "Mining negatives: 100%|" in shown[True]
    assert f"{len(mined)}/{len(mined)}" in shown[True]


def test_the_stock_loss_trains_on_refreshed_rows(corpus, mined, tmp_path):
    done = train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 5, loss=MultipleNegativesRankingLoss)
    assert np.isfinite(done.losses).all()
    assert any("refresh_mrr" in one for one in done.log)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_see_the_switch(corpus, mined, tmp_path, persistent):
    live = live_negatives(mined, corpus, n=3)
    done = train(
        live, tmp_path, chain(corpus), 10, options={"keep": 9}, max_steps=40, dataloader_num_workers=2,
        dataloader_persistent_workers=persistent,
    )  # fmt: skip
    lists = [lists_of(live.source.folder_of(number))[1] for number in range(4)]
    owners = owners_of(corpus, mined)
    for epoch in range(4):
        fits = np.zeros(4)
        for labels in done.labels[10 * epoch : 10 * epoch + 10]:
            known = unpack(labels, 4)
            for passages, positives in zip(known.passages.tolist(), known.positives.tolist(), strict=True):
                query = owners[frozenset(positives) - {PADDING}]
                for number in range(4):
                    there = {int(corpus.text_codes[row]) for row in lists[number][query]}
                    drawn = [key for key in passages[1:] if key != PADDING]
                    fits[number] += set(drawn) <= there and len(drawn) == min(3, len(lists[number][query]))
        assert fits[epoch] == 40, (epoch, fits)
        assert sorted(fits)[-2] < 36


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"every": 0}, ValueError, "every"),
        ({"every": -1}, ValueError, "every"),
        ({"every": 0.0}, ValueError, "every"),
        ({"every": float("nan")}, ValueError, "every"),
        ({"every": True}, (TypeError, ValueError), "every"),
        ({"every": "5"}, (TypeError, ValueError), "every"),
        ({"fraction": 0}, ValueError, "fraction"),
        ({"fraction": 2}, ValueError, "fraction"),
        ({"keep": 0}, ValueError, "keep"),
        ({"background": "yes"}, (TypeError, ValueError), "background"),
        ({"steps": []}, TypeError, "steps"),
        ({"steps": [3]}, TypeError, "steps"),
        ({"steps": RelativeMargin(0.1)}, TypeError, "steps"),
        ({"live": "rows"}, TypeError, "live_negatives"),
        ({"steps": [RelativeMargin(0.1)]}, ValueError, "negative_ids"),
    ],
)
def test_bad_options(corpus, mined, options, error, match):
    given = {"live": live_negatives(mined, corpus), "steps": chain(corpus), "every": 5} | options
    with pytest.raises(error, match=match):
        RefreshNegatives(**given)


@dataclass(frozen=True)
class _OwnMiner(DenseNegatives):
    """A step of a user's own, which inherits the model."""


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda corpus, model: DenseNegatives, r"DenseNegatives cannot .*partial\(DenseNegatives, corpus, k=50\)"),
        (lambda corpus, model: partial(DenseNegatives, k=50), r"partial\(DenseNegatives, corpus, k=50\)"),
        (lambda corpus, model: partial(DenseNegatives, corpus, model), r"lacks only the model"),
        (lambda corpus, model: partial(DenseNegatives, corpus, model=model), r"lacks only the model"),
        (lambda corpus, model: _OwnMiner, r"partial\(_OwnMiner, corpus, k=50\)"),
        (lambda corpus, model: BiEncoderScores, r"partial\(BiEncoderScores, corpus\)"),
        (lambda corpus, model: partial(BiEncoderScores, corpus, model), r"partial\(BiEncoderScores, corpus\)"),
        (lambda corpus, model: partial(CrossEncoderScores, corpus), r"CrossEncoderScores\(corpus, cross_encoder\)"),
        (lambda corpus, model: RelativeMargin, r"RelativeMargin uses no model.*RelativeMargin\(\.\.\.\)"),
        (lambda corpus, model: partial(BM25Negatives, corpus), r"BM25Negatives uses no model"),
        (lambda corpus, model: lambda: DenseNegatives(corpus, model), r"<lambda> must take one argument"),
        (lambda corpus, model: lambda model, step: DenseNegatives(corpus, model), r"<lambda> must take one argument"),
    ],
)
def test_what_cannot_make_a_step_of_the_model(corpus, mined, make, words):
    for steps in ([make(corpus, make_model())], [BM25Negatives(corpus, k=3), make(corpus, make_model())]):
        with pytest.raises(TypeError, match=words):
            RefreshNegatives(live_negatives(mined, corpus), steps, 5)


@pytest.mark.parametrize("kind", [DenseNegatives, _OwnMiner])
def test_mining_with_a_fixed_model_is_refused(corpus, mined, kind):
    live, step = live_negatives(mined, corpus), kind(corpus, make_model(), k=5)
    fused = FuseNegatives({"dense": step, "bm25": BM25Negatives(corpus)})
    for one, name, way_out in (
        (step, kind.__name__, rf"partial\({kind.__name__}, corpus, k=50\)"),
        (fused, "FuseNegatives", r"lambda model: FuseNegatives"),
        (JudgedNegatives(corpus, retriever=step), "JudgedNegatives", r"lambda model: JudgedNegatives"),
    ):
        with pytest.raises(ValueError, match=f"the step {name} mines with its own model.*{way_out}"):
            RefreshNegatives(live, [one, RelativeMargin(0.1)], 5)
    RefreshNegatives(live, [lambda model: step, RelativeMargin(0.1)], 5)
    RefreshNegatives(live, [BM25Negatives(corpus), BiEncoderScores(corpus, make_model())], 5)


def test_makers_of_any_kind_are_taken(corpus, mined):
    class Maker:
        def __call__(self, model):
            return DenseNegatives(corpus, model, k=5)

        def make(self, model, k=5):
            return DenseNegatives(corpus, model, k=k)

    for maker in (Maker(), Maker().make, partial(Maker().make, k=3), lambda *models: Maker()(*models)):
        assert RefreshNegatives(live_negatives(mined, corpus), [maker], 5).steps == [maker]


def test_a_column_of_a_teacher_that_nobody_writes(corpus, mined):
    scored = mined.map(CrossEncoderScores(corpus, lambda pairs: [0.0] * len(pairs), fingerprint="zero"), batched=True)
    for rows in (mined, scored):
        with pytest.raises(ValueError, match=r"negative_teacher_scores.*CrossEncoderScores"):
            RefreshNegatives(live_negatives(rows, corpus), [*chain(corpus), TeacherThreshold(0.1)], 5)
    named = CrossEncoderScores(corpus, lambda pairs: [0.0] * len(pairs), fingerprint="zero", name="other")
    with pytest.raises(ValueError, match="negative_teacher_scores"):
        RefreshNegatives(live_negatives(mined, corpus), [*chain(corpus), named, TeacherThreshold(0.1)], 5)
    RefreshNegatives(live_negatives(mined, corpus), [*chain(corpus), named, TeacherThreshold(0.1, by="other")], 5)


def test_rows_that_carry_a_teachers_scores_need_them_of_the_steps(corpus, mined):
    """Else the training would stop at its first refresh, an hour later."""
    scored = mined.map(CrossEncoderScores(corpus, lambda pairs: [0.0] * len(pairs), fingerprint="zero"), batched=True)
    live = live_negatives(scored, corpus, teacher="teacher")
    with pytest.raises(ValueError, match=r"teacher_scores"):
        RefreshNegatives(live, chain(corpus), 5)


def test_shapes_are_refused(corpus, mined, tmp_path):
    with pytest.raises(ValueError, match=r"ToTriplets|negative_ids"):
        train(live_negatives(mined, corpus, n=3), tmp_path, [*chain(corpus), ToTriplets(corpus)], 4)


def test_a_step_before_the_miner_that_needs_candidates_is_refused(corpus, mined):
    with pytest.raises((TypeError, ValueError)):
        RefreshNegatives(
            live_negatives(mined, corpus), [CrossEncoderScores(corpus, len, fingerprint="x"), *chain(corpus)], 5
        )
