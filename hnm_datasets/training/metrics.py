"""What the losses count and what a refresh finds, for the trainer's logs.

A loss must answer with one tensor, because others wrap it, and it does not know its trainer. So it leaves its numbers
here, by model, and a callback that every trainer has adds them to the trainer's next entry.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers import trainer as trainers


class Observed(NamedTuple):
    """A number of one batch, or the sum of those of several.

    Attributes:
        total: The number.
        batches: In how many batches there was something to count.
    """

    total: Tensor
    batches: Tensor


#: By model, and by whether it was in training. A model that is gone takes its numbers with it.
_COUNTED: weakref.WeakKeyDictionary[Any, dict[bool, dict[str, Observed]]] = weakref.WeakKeyDictionary()
#: By model: the state of the training that a generation is of, and what is known of the generation.
_CURRENT: weakref.WeakKeyDictionary[Any, tuple[TrainerState, dict[str, float]]] = weakref.WeakKeyDictionary()


def share(part: Tensor, whole: Tensor) -> Observed:
    """Return a share, which is no observation where the whole is nothing."""
    return observed(part / whole, whole > 0)


def observed(number: Tensor, there: Tensor | None = None) -> Observed:
    """Return the number of a batch; one that is not finite is no observation."""
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
    """Return the means of what was recorded since the last time; without those of which nothing was observed."""
    known = _COUNTED.get(_unwrapped(model), {}).pop(training, {})
    return {name: (one.total / one.batches).item() for name, one in known.items() if one.batches.item()}


def publish(model: Any, state: TrainerState, numbers: dict[str, float]) -> None:
    """Log these numbers with each entry of a training from now on."""
    _CURRENT[_unwrapped(model)] = (state, numbers)


class _LogNumbers(TrainerCallback):
    """Adds the numbers of a model to what its trainer logs."""

    def __init__(self) -> None:
        self._of_generation: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Forget what a training that was interrupted left."""
        for training in (True, False):
            take(model, training=training)
        self._of_generation = {}

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Note which negatives the step is trained on: at its end there may be others."""
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
        """Add to an entry of the training's loss, or of an evaluation's."""
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
        # The trainer has written the entry before it asks.
        state.log_history[-1] |= added


def _unwrapped(model: Any) -> Any:
    """Return a model that may be wrapped for several processes, compiled, or both."""
    while (inner := getattr(model, "module", None) or getattr(model, "_orig_mod", None)) is not None:
        model = inner
    return model


# Before the reporters, which are to see the numbers too.
_DEFAULTS: list[Any] = trainers.DEFAULT_CALLBACKS
_DEFAULTS.append(_LogNumbers)
