"""The loss in the trainer, and the options that it refuses."""

import json

import numpy as np
import pytest
import torch
from loss_helpers import (
    DIRECTIONS,
    Row,
    Slow,
    collided_rows,
    counted,
    distinct_rows,
    embedded,
    encoded,
    features_of,
    labels_of,
    logs_of,
    rows_of,
    shares,
    texts_of,
    toy,
    trained,
)
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import (
    MatryoshkaLoss,
)

from hnm_datasets.training.labels import PADDING
from hnm_datasets.training.loss import CachedHardNegativesRankingLoss, HardNegativesRankingLoss

pytestmark = pytest.mark.usefixtures("fast_trainers")


def test_the_trainer_logs_what_is_masked(make_static_model, live, tmp_path):
    options = {"margin": 0.0}
    model = make_static_model(dimension=16)
    trainer, seen = trained(model, HardNegativesRankingLoss(model, **options), live, tmp_path / "logged")
    slow = Slow(**options)
    wanted = [shares(slow(embeddings, rows_of(labels, 3))[1]) for labels, embeddings in seen]
    for name in ("masked_in_batch", "masked_mined"):
        (logged,) = logs_of(trainer, name)
        assert 0 < logged < 1
        # The trainer logs four digits.
        assert logged == pytest.approx(np.mean([one[name] for one in wanted]), abs=1e-4)
    silent_model = make_static_model(dimension=16)
    silent, _ = trained(
        silent_model, HardNegativesRankingLoss(silent_model, log_masked=False, **options), live, tmp_path / "silent"
    )
    assert not logs_of(silent, "masked_mined")
    assert logs_of(silent, "loss") == logs_of(trainer, "loss")
    assert logs_of(silent, "train_loss") == logs_of(trainer, "train_loss")
    for one, other in zip(model.parameters(), silent_model.parameters(), strict=True):
        assert one.equal(other)


def test_a_known_positive_among_the_mined_is_counted(static_model):
    rows = [Row([0, 5, 6], {0, 5}), Row([1, 7, PADDING], {1})]
    features = features_of(static_model, texts_of(2, 3))
    loss = HardNegativesRankingLoss(static_model)
    loss(features, labels_of(rows))
    # Three were mined, one of them a known positive; of three and two passages of others none is known.
    assert counted(loss) == pytest.approx({"masked_in_batch": 0, "masked_mined": 1 / 3})


def test_known_positives_of_a_query_are_masked_in_its_other_rows(live, make_static_model, tmp_path):
    model = make_static_model(dimension=16)
    trainer, seen = trained(model, HardNegativesRankingLoss(model), live, tmp_path)
    wanted = [shares(Slow()(embeddings, rows_of(labels, 3))[1]) for labels, embeddings in seen]
    assert logs_of(trainer, "masked_in_batch") == pytest.approx(
        [np.mean([one["masked_in_batch"] for one in wanted])], abs=1e-4
    )
    assert logs_of(trainer, "masked_in_batch")[0] > 0


def test_there_is_nothing_to_log_without_labels_and_margin(static_model):
    features = features_of(static_model, texts_of(2, 3))
    labels = labels_of(distinct_rows(2, 3))
    for given, options, logs in ((None, {}, False), (labels, {"log_masked": False}, False), (labels, {}, True)):
        loss = HardNegativesRankingLoss(static_model, **options)
        assert isinstance(loss(features, given), torch.Tensor)
        assert bool(counted(loss)) == logs


def test_matryoshka_takes_the_loss(make_static_model, live, tmp_path):
    model = make_static_model(dimension=16)
    loss = MatryoshkaLoss(model, HardNegativesRankingLoss(model), [16, 8])
    before = [weights.clone() for weights in model.parameters()]
    trainer, _ = trained(model, loss, live, tmp_path, steps=2)
    assert np.isfinite(logs_of(trainer, "train_loss")).all()
    assert not all(one.equal(other) for one, other in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("cached", [False, True])
def test_matryoshka_adds_up_the_losses_of_its_dimensions(make_tiny, cached):
    model = make_tiny()
    texts = texts_of(4, 3)
    rows = collided_rows(4, 3, seed=4)
    slow = Slow(margin=0.0)
    kind = CachedHardNegativesRankingLoss if cached else HardNegativesRankingLoss
    loss = MatryoshkaLoss(model, kind(model, **slow.options), [16, 6])
    got = loss(features_of(model, texts), labels_of(rows)).item()
    embeddings = encoded(model, texts)
    wanted = sum(slow([column[:, :size] for column in embeddings], rows)[0].item() for size in (16, 6))
    assert got == pytest.approx(wanted, abs=1e-9)


def test_matryoshka_leaves_labels_whole_that_are_as_wide_as_the_embeddings(make_tiny):
    # It takes them for embeddings and cuts them; the known positives must not be lost by it.
    model = make_tiny()
    texts = texts_of(4, 3)
    rows = collided_rows(4, 3, seed=4)
    loss = MatryoshkaLoss(model, HardNegativesRankingLoss(model), [16, 6])
    # A header, three passages and twelve positives are sixteen numbers.
    labels = labels_of(rows, most=12)
    got = loss(features_of(model, texts), labels).item()
    embeddings = encoded(model, texts)
    wanted = sum(Slow()([column[:, :size] for column in embeddings], rows)[0].item() for size in (16, 6))
    assert got == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_the_options_go_into_the_model_card(make_tiny, live, tmp_path, cached, guided):
    model = make_tiny().float()
    kind = CachedHardNegativesRankingLoss if cached else HardNegativesRankingLoss
    loss = kind(model, margin=0.125, likely_weight=0.0625, guide=make_tiny() if guided else None)
    options = loss.get_config_dict()
    assert json.loads(json.dumps(options)).keys() == options.keys()
    assert {"scale", "directions", "in_batch", "margin", "likely_weight", "distill_weight"} <= options.keys()
    assert ("guide" in options, "mini_batch_size" in options) == (guided, cached)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True),
        train_dataset=live,
        loss=loss,
    )
    trainer.create_model_card()
    model.save_pretrained(str(tmp_path / "saved"))
    for card in (tmp_path / "README.md", tmp_path / "saved" / "README.md"):
        text = card.read_text()
        assert type(loss).__name__ in text
        assert '"margin": 0.125' in text
        assert '"likely_weight": 0.0625' in text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"likely_weight": 0.5}, ValueError, "likely_weight needs a margin"),
        ({"likely_weight": 1, "margin": 0.1}, ValueError, "likely_weight must be .* less than 1"),
        ({"likely_weight": -0.1, "margin": 0.1}, ValueError, "likely_weight must be at least 0"),
        ({"likely_weight": float("nan"), "margin": 0.1}, ValueError, "likely_weight"),
        ({"margin": float("inf")}, ValueError, "margin"),
        ({"margin": True}, ValueError, "margin"),
        ({"margin": "absolute"}, TypeError, "margin"),
        ({"distill_weight": -1}, ValueError, "distill_weight must not be negative"),
        ({"teacher_temperature": 0}, ValueError, "teacher_temperature"),
        ({"in_batch": 1}, TypeError, "in_batch"),
        (
            {"in_batch": False, "hardness_mode": "in_batch_negatives", "hardness_strength": 1.0},
            ValueError,
            "has no effect with in_batch=False",
        ),
        ({"log_masked": None}, TypeError, "log_masked"),
        *(
            ({"in_batch": False, "directions": directions}, ValueError, "in_batch=False supports only")
            for directions in DIRECTIONS[1:]
        ),
        ({"scale": 0}, ValueError, "Scale"),
        ({"directions": ("doc_to_query",)}, ValueError, "query_to_doc"),
        ({"directions": DIRECTIONS[-1], "partition_mode": "per_direction"}, ValueError, "per_direction"),
    ],
)
def test_options_out_of_range(make_tiny, options, error, message):
    for loss in (HardNegativesRankingLoss, CachedHardNegativesRankingLoss):
        with pytest.raises(error, match=message):
            loss(make_tiny(), **options)


@pytest.mark.parametrize("guide", [toy(dimension=6), toy(extra=("zz",))])
def test_a_guide_needs_a_margin(guide):
    with pytest.raises(ValueError, match="guide needs a margin"):
        HardNegativesRankingLoss(toy(), guide=guide)


def test_static_students_keep_no_tokens_for_another_guide(make_tiny):
    for guide in (toy(extra=("zz",)), make_tiny()):
        with pytest.raises(ValueError, match="same tokenizer"):
            HardNegativesRankingLoss(toy(), margin=0.1, guide=guide)


def test_a_guide_needs_texts():
    loss = HardNegativesRankingLoss(toy(), margin=0.1, guide=toy(seed=1))
    with pytest.raises(ValueError, match="with features"):
        loss.compute_loss_from_embeddings(embedded(2, 2, seed=0), None)


def test_static_embeddings_are_not_cached(static_model):
    with pytest.raises(ValueError, match="StaticEmbedding"):
        CachedHardNegativesRankingLoss(static_model)


@pytest.mark.parametrize("size", [0, -1, True])
def test_mini_batches_have_texts(make_tiny, size):
    with pytest.raises(ValueError, match="mini_batch_size"):
        CachedHardNegativesRankingLoss(make_tiny(), mini_batch_size=size)


@pytest.mark.parametrize("tokens", [0, -5])
def test_mini_batches_have_tokens(make_tiny, tokens):
    # As the stock cached loss has it.
    with pytest.raises(ValueError, match="mini_batch_num_tokens"):
        CachedHardNegativesRankingLoss(make_tiny(), mini_batch_num_tokens=tokens)


def test_one_text_column_is_too_few(make_tiny):
    model = make_tiny()
    features = features_of(model, texts_of(3, 0))
    for loss in (HardNegativesRankingLoss(model), CachedHardNegativesRankingLoss(model)):
        with pytest.raises(ValueError, match="two text columns"):
            loss(features, None)


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(torch.zeros(3), id="floats"),
        pytest.param(torch.rand(3, 3), id="scores"),
        pytest.param(torch.zeros(3, dtype=torch.int64), id="1-D"),
        pytest.param(torch.zeros(3, 6, dtype=torch.int64), id="zeros"),
        pytest.param(labels_of(distinct_rows(3, 2)), id="fewer-negatives"),
        pytest.param(labels_of(distinct_rows(3, 4)), id="more-negatives"),
        pytest.param(labels_of(distinct_rows(2, 3)), id="fewer-rows"),
        pytest.param(labels_of(distinct_rows(4, 3)), id="more-rows"),
    ],
)
def test_labels_of_something_else(make_tiny, labels):
    model = make_tiny()
    features = features_of(model, texts_of(3, 3))
    for loss in (HardNegativesRankingLoss(model), CachedHardNegativesRankingLoss(model)):
        with pytest.raises(ValueError, match="live_negatives"):
            loss(features, labels)


@pytest.mark.parametrize("labels", [None, labels_of(distinct_rows(3, 3))])
def test_distillation_needs_scores(static_model, labels):
    loss = HardNegativesRankingLoss(static_model, distill_weight=0.5)
    with pytest.raises(ValueError, match="distill_weight needs the teacher's scores"):
        loss(features_of(static_model, texts_of(3, 3)), labels)
