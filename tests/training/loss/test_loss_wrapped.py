"""The losses of sentence-transformers that wrap another loss, and what is logged through them."""

import random

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from loss_helpers import collided_rows, counted, distinct_rows, features_of, labels_of, logs_of, texts_of
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import (
    AdaptiveLayerLoss,
    CachedMultipleNegativesRankingLoss,
    Matryoshka2dLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)

from hnm_datasets.training.follow_epochs import FollowEpochs
from hnm_datasets.training.live import live_negatives
from hnm_datasets.training.loss import CachedHardNegativesRankingLoss, HardNegativesRankingLoss

pytestmark = pytest.mark.usefixtures("fast_trainers")

WRAPPERS = {
    "matryoshka": lambda model, loss: MatryoshkaLoss(model, loss, [16, 8, 4], [1, 0.5, 2]),
    "one dimension": lambda model, loss: MatryoshkaLoss(model, loss, [16, 8], n_dims_per_step=1),
    "layers": lambda model, loss: AdaptiveLayerLoss(model, loss),
    "layers and dimensions": lambda model, loss: Matryoshka2dLoss(model, loss, [16, 8]),
    "nested": lambda model, loss: AdaptiveLayerLoss(model, MatryoshkaLoss(model, loss, [16, 8])),
}


def trainer_of(model, data, loss, folder, *, callbacks=(), **options):
    arguments = SentenceTransformerTrainingArguments(
        **{
            "output_dir": str(folder),
            "max_steps": 3,
            "per_device_train_batch_size": 8,
            "learning_rate": 0.001,
            "logging_steps": 1,
            "report_to": [],
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        | options
    )
    evaluated = options.get("eval_strategy") and data
    return SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=data, eval_dataset=evaluated or None, loss=loss,
        callbacks=list(callbacks),
    )  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_loss_that_masks_nothing_is_the_wrapped_stock_loss(make_tiny, wrapper):
    texts, labels = texts_of(5, 3), labels_of(distinct_rows(5, 3))
    answers = []
    for kind in (HardNegativesRankingLoss, MultipleNegativesRankingLoss):
        model = make_tiny()
        random.seed(1)
        loss = WRAPPERS[wrapper](model, kind(model))(features_of(model, texts), labels)
        loss.backward()
        answers.append((loss.item(), [weights.grad for weights in model.parameters()]))
    (own, gradients), (stock, wanted) = answers
    assert own == pytest.approx(stock, abs=1e-9)
    for one, other in zip(gradients, wanted, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-9)


def test_a_wrapped_cached_loss_that_masks_nothing_is_the_wrapped_stock_loss(make_tiny):
    texts, labels = texts_of(5, 3), labels_of(distinct_rows(5, 3))
    answers = []
    for kind in (CachedHardNegativesRankingLoss, CachedMultipleNegativesRankingLoss):
        model = make_tiny()
        loss = MatryoshkaLoss(model, kind(model, mini_batch_size=2), [16, 8])(features_of(model, texts), labels)
        loss.backward()
        answers.append((loss.item(), [weights.grad for weights in model.parameters()]))
    (own, gradients), (stock, wanted) = answers
    assert own == pytest.approx(stock, abs=1e-9)
    for one, other in zip(gradients, wanted, strict=True):
        assert one is None or torch.allclose(one, other, atol=1e-9)


#: Layers do not go with cached gradients.
CASES = [(wrapper, HardNegativesRankingLoss) for wrapper in WRAPPERS]
CASES += [(wrapper, CachedHardNegativesRankingLoss) for wrapper in ("matryoshka", "one dimension")]


@pytest.mark.parametrize(("wrapper", "kind"), CASES)
def test_what_is_masked_is_logged_as_without_the_wrapper(make_tiny, wrapper, kind):
    model = make_tiny()
    inner, labels = kind(model), labels_of(collided_rows(6, 3, seed=2))
    inner(features_of(model, texts_of(6, 3)), labels)
    wanted = counted(inner)
    assert wanted["masked_in_batch"] > 0
    WRAPPERS[wrapper](model, inner)(features_of(model, texts_of(6, 3)), labels).backward()
    assert counted(inner) == pytest.approx(wanted)


@pytest.mark.parametrize("wrapper", ["matryoshka", "layers and dimensions"])
def test_the_trainer_logs_through_wrappers(make_tiny, live, tmp_path, wrapper):
    model = make_tiny().float()
    trainer = trainer_of(model, live, WRAPPERS[wrapper](model, HardNegativesRankingLoss(model)), tmp_path)
    trainer.train()
    assert len(logs_of(trainer, "loss")) == 3
    shares = logs_of(trainer, "masked_in_batch")
    assert len(shares) == 3
    assert all(0 <= share < 1 for share in shares)
    assert any(shares)


def plain_rows(rows=24):
    texts = texts_of(rows, 2)
    return Dataset.from_dict(dict(zip(("anchor", "positive"), texts, strict=False)))


def nans(trainer):
    return [entry for entry in trainer.state.log_history if any(value != value for value in entry.values())]


@pytest.mark.parametrize("logging_steps", [1, 3])
@pytest.mark.parametrize("several_losses", [False, True])
def test_a_plain_set_beside_live_rows_leaves_no_number_without_observations(
    make_static_model, live, tmp_path, several_losses, logging_steps
):
    model = make_static_model(dimension=16)
    data = DatasetDict({"live": live.select(range(24)), "plain": plain_rows()})
    loss = HardNegativesRankingLoss(model)
    losses = {"live": loss, "plain": MultipleNegativesRankingLoss(model)} if several_losses else loss
    trainer = trainer_of(
        model, data, losses, tmp_path, max_steps=6, logging_steps=logging_steps,
        multi_dataset_batch_sampler="round_robin",
    )  # fmt: skip
    trainer.train()
    assert not nans(trainer)
    # Each second batch is of live rows.
    assert len(logs_of(trainer, "masked_in_batch")) == (3 if logging_steps == 1 else 2)
    assert len(logs_of(trainer, "loss")) == 6 // logging_steps


def test_pairs_without_mined_negatives_log_no_share_of_them(make_static_model, tmp_path):
    model = make_static_model(dimension=16)
    trainer = trainer_of(model, plain_rows(), HardNegativesRankingLoss(model, margin=0.1), tmp_path)
    trainer.train()
    assert len(logs_of(trainer, "masked_in_batch")) == 3
    assert not logs_of(trainer, "masked_mined")
    assert not nans(trainer)


def test_rows_of_padding_alone_log_no_share_of_mined_negatives(make_static_model, live, tmp_path):
    model = make_static_model(dimension=16)
    rows = live.source.rows.select(range(30)).select_columns(["query_id", "query", "positive_ids"])
    unmined = live_negatives(rows, live.source.corpus, n=2)
    trainer = trainer_of(model, unmined, HardNegativesRankingLoss(model), tmp_path)
    trainer.train()
    assert logs_of(trainer, "masked_in_batch")
    assert not logs_of(trainer, "masked_mined")


def test_evaluations_log_their_own_shares(make_static_model, live, tmp_path):
    model = make_static_model(dimension=16)
    data = live.select(range(24))
    trainer = trainer_of(
        model, data, HardNegativesRankingLoss(model), tmp_path, eval_strategy="steps", eval_steps=2, max_steps=4,
        logging_steps=3, per_device_eval_batch_size=8,
    )  # fmt: skip
    trainer.train()
    assert len(logs_of(trainer, "eval_masked_in_batch")) == 2
    assert len(logs_of(trainer, "masked_in_batch")) == 1
    assert not nans(trainer)
    # The rows are the same each time, in the same batches.
    assert len(set(logs_of(trainer, "eval_masked_in_batch"))) == 1


def test_a_second_training_logs_nothing_of_one_that_was_interrupted(make_static_model, live, tmp_path):
    model = make_static_model(dimension=16)
    loss = HardNegativesRankingLoss(model)
    data = live.select(range(24))
    follow = FollowEpochs(data)
    handle = loss.register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        trainer_of(model, data, loss, tmp_path, callbacks=[follow]).train()
    handle.remove()
    trainer = trainer_of(model, plain_rows(), loss, tmp_path)
    trainer.train()
    assert len(logs_of(trainer, "loss")) == 3
    assert not logs_of(trainer, "masked_in_batch")


def test_reporters_are_given_the_numbers(make_static_model, live, tmp_path):
    from transformers import TrainerCallback

    seen = []

    class Reporter(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append(dict(logs))

    model = make_static_model(dimension=16)
    trainer_of(model, live.select(range(24)), HardNegativesRankingLoss(model), tmp_path, callbacks=[Reporter()]).train()
    assert [("masked_in_batch" in logs) for logs in seen if "loss" in logs] == [True] * 3
    assert np.isfinite([logs["masked_in_batch"] for logs in seen if "loss" in logs]).all()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_rows_without_labels_whose_texts_are_all_different(make_tiny, wrapper):
    words = iter(f"{one}{other}{third}" for one in "abcde" for other in "fghij" for third in "abc")
    texts = [[next(words) for _ in range(4)] for _ in range(3)]
    answers = []
    for kind in (HardNegativesRankingLoss, MultipleNegativesRankingLoss):
        model = make_tiny()
        random.seed(1)
        answers.append(WRAPPERS[wrapper](model, kind(model))(features_of(model, texts), None).item())
    assert answers[0] == pytest.approx(answers[1], abs=1e-9)
