"""Numbers of losses and refreshes for the trainer's logs.

A loss must return one tensor, because other losses wrap it, and it has no access to its trainer. It therefore stores
its numbers here, by model, and a default callback of every trainer adds them to the next log entry.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hnm_datasets.models.torch_internals import inner_model
from hnm_datasets.training.transformers_internals import add_default_callback, add_to_entry


class Observed(NamedTuple):
    """A number of one batch, or its sum over several batches.

    Attributes:
        total: The number or sum.
        batches: The number of batches in which the number is defined.
    """

    total: Tensor
    batches: Tensor


#: By model, and by whether it was in training mode. The entry is deleted with the model.
_COUNTED: weakref.WeakKeyDictionary[Any, dict[bool, dict[str, Observed]]] = weakref.WeakKeyDictionary()
#: By model: the state of its training, and the numbers of the current generation.
_CURRENT: weakref.WeakKeyDictionary[Any, tuple[TrainerState, dict[str, float]]] = weakref.WeakKeyDictionary()


def share(part: Tensor, whole: Tensor) -> Observed:
    """Return a share; it is undefined if the whole is zero."""
    return observed(part / whole, whole > 0)


def observed(number: Tensor, there: Tensor | None = None) -> Observed:
    """Return the number of a batch; it is undefined if it is not finite."""
    count = torch.isfinite(number) if there is None else torch.isfinite(number) & there
    return Observed(torch.where(count, number, 0.0), count.to(torch.int64))


def record(model: Any, numbers: dict[str, Observed]) -> None:
    """Add the numbers of a batch to those of the model."""
    model = _unwrapped(model)
    known = _COUNTED.setdefault(model, {}).setdefault(model.training, {})
    for name, number in numbers.items():
        before = known.get(name)
        known[name] = (
            number if before is None else Observed(before.total + number.total, before.batches + number.batches)
        )


def take(model: Any, *, training: bool) -> dict[str, float]:
    """Return the means of the numbers recorded since the last call, without undefined ones."""
    known = _COUNTED.get(_unwrapped(model), {}).pop(training, {})
    return {name: (one.total / one.batches).item() for name, one in known.items() if one.batches.item()}


def publish(model: Any, state: TrainerState, numbers: dict[str, float]) -> None:
    """Add these numbers to each future log entry of a training."""
    _CURRENT[_unwrapped(model)] = (state, numbers)


class _LogNumbers(TrainerCallback):
    """Adds the numbers of a model to the logs of its trainer."""

    def __init__(self) -> None:
        self._of_generation: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Discard the numbers of an interrupted training."""
        for training in (True, False):
            take(model, training=training)
        self._of_generation = {}

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Remember the generation that the step trains on, because it may change at the end of the step."""
        of, numbers = _CURRENT.get(_unwrapped(model), (None, {}))
        self._of_generation = numbers if of is state else {}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the numbers to log entries with the loss of a training or an evaluation."""
        logs = logs or {}
        losses = [name for name in logs if name == "loss" or (name.startswith("eval_") and name.endswith("_loss"))]
        if not losses:
            return
        prefix = losses[0].removesuffix("loss")
        numbers = take(model, training=not prefix)
        if not prefix:
            numbers |= self._of_generation
        added = {prefix + name: round(number, 4) for name, number in numbers.items()}
        logs |= added
        add_to_entry(state, added)


def _unwrapped(model: Any) -> Any:
    """Return the model inside wrappers for several processes or for compilation."""
    while (inner := inner_model(model)) is not None:
        model = inner
    return model


# Added before the reporters, so that they also see the numbers.
add_default_callback(_LogNumbers)
