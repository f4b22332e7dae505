"""The numbers that losses leave for the trainer's logs."""

import gc
import weakref

import pytest
import torch
from transformers import TrainerState

from hnm_datasets.training.metrics import _LogNumbers, observed, publish, record, share, take


class Wrapper(torch.nn.Module):
    def __init__(self, model, name):
        super().__init__()
        setattr(self, name, model)


def number(value):
    return torch.tensor(value)


def logged(model, state, logs):
    state.log_history.append(dict(logs))
    callback.on_log(None, state, None, model=model, logs=logs)
    assert state.log_history[-1] == logs
    return logs


callback = _LogNumbers()


def test_numbers_are_means_of_what_was_observed():
    model = torch.nn.Identity()
    record(model, {"a": share(number(1), number(4)), "b": share(number(0), number(0))})
    record(model, {"a": share(number(3), number(4)), "c": observed(number(2.0))})
    record(model, {"a": share(number(0), number(0)), "c": observed(number(float("nan")))})
    assert take(model, training=True) == {"a": 0.5, "c": 2.0}
    assert take(model, training=True) == {}


def test_training_and_evaluation_count_apart():
    model, state = torch.nn.Identity(), TrainerState()
    record(model.train(), {"a": observed(number(1.0))})
    record(model.eval(), {"a": observed(number(3.0))})
    assert logged(model, state, {"eval_loss": 0.5, "eval_runtime": 1}) == {
        "eval_loss": 0.5, "eval_runtime": 1, "eval_a": 3.0,
    }  # fmt: skip
    assert logged(model, state, {"train_loss": 0.5, "train_runtime": 1}) == {"train_loss": 0.5, "train_runtime": 1}
    assert logged(model, state, {"loss": 0.5}) == {"loss": 0.5, "a": 1.0}
    assert logged(model, state, {"loss": 0.5}) == {"loss": 0.5}


def test_an_evaluation_of_a_named_set_has_its_name():
    model, state = torch.nn.Identity().eval(), TrainerState()
    record(model, {"a": observed(number(0.25))})
    assert logged(model, state, {"eval_medical_loss": 1.0})["eval_medical_a"] == 0.25


@pytest.mark.parametrize("names", [("module",), ("_orig_mod",), ("module", "_orig_mod"), ("_orig_mod", "module")])
def test_wrapped_models_are_the_models(names):
    model = wrapped = torch.nn.Linear(2, 2)
    for name in names:
        wrapped = Wrapper(wrapped, name)
    record(wrapped, {"a": observed(number(1.0))})
    assert take(model, training=True) == {"a": 1.0}


def test_numbers_of_a_generation_are_of_one_training():
    model, old, new = torch.nn.Identity(), TrainerState(), TrainerState()
    publish(model, old, {"refresh_mrr": 0.5})
    for state, there in ((old, True), (new, False)):
        callback.on_train_begin(None, state, None, model=model)
        callback.on_step_begin(None, state, None, model=model)
        assert ("refresh_mrr" in logged(model, state, {"loss": 1.0})) == there
    # A step is logged with the negatives that it was trained on.
    publish(model, new, {"refresh_mrr": 0.75})
    assert "refresh_mrr" not in logged(model, new, {"loss": 1.0})
    callback.on_step_begin(None, new, None, model=model)
    assert logged(model, new, {"loss": 1.0})["refresh_mrr"] == 0.75


def test_a_new_training_forgets_what_was_not_logged():
    model = torch.nn.Identity()
    record(model, {"a": observed(number(1.0))})
    callback.on_train_begin(None, TrainerState(), None, model=model)
    assert take(model, training=True) == {}


def test_a_model_that_is_gone_takes_its_numbers_with_it():
    model = torch.nn.Identity()
    record(model, {"a": observed(number(1.0))})
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None
