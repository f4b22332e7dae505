"""Checks of the steps of a refresh before training starts, so that training does not fail hours later."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from hnm_datasets.training.refresh_job import Step
from hnm_datasets.transforms.base import Transform
from hnm_datasets.transforms.miners.model import ModelNegatives
from hnm_datasets.transforms.scorers.cross_encoder import CrossEncoderScores

_NAME = "RefreshNegatives"


def check_steps(steps: Sequence[Step]) -> None:
    """Raise if a step mines with a fixed model, or cannot be created from the model in training.

    Raises:
        TypeError: An entry is neither a step nor a function of the model.
        ValueError: A step mines with a fixed model.
    """
    if not isinstance(steps, Sequence) or not steps or not all(callable(step) for step in steps):
        raise TypeError(
            f"{_NAME}: steps must be a list of steps and of functions from a model to a step, got {steps!r}."
        )
    for step in steps:
        if not isinstance(step, Transform):
            _check_maker(step)
        elif _mines_with_a_fixed_model(step):
            name = type(step).__name__
            miner = name if isinstance(step, ModelNegatives) else "DenseNegatives"
            way_out = (
                f"partial({name}, corpus, k=50)"
                if name == miner
                else f"lambda model: {name}(...), with {miner}(corpus, model) in it"
            )
            raise ValueError(
                f"{_NAME}: the step {name} mines with its own model, so each refresh would mine the same negatives. "
                f"Pass a function that creates the step from the model in training: {way_out}. To mine with a fixed "
                f"model, pass a function that ignores its argument: lambda model: {miner}(corpus, other_model)."
            )


def _mines_with_a_fixed_model(value: Any) -> bool:
    """Return whether a step or one of its options is a miner with a model."""
    if isinstance(value, ModelNegatives):
        return True
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(map(_mines_with_a_fixed_model, value))
    return isinstance(value, Transform) and any(
        _mines_with_a_fixed_model(getattr(value, field.name)) for field in fields(value)
    )


def _check_maker(maker: Any) -> None:
    """Raise if a function cannot create a step from the model alone."""
    made = maker.func if isinstance(maker, partial) else maker
    name = getattr(made, "__name__", type(made).__name__)
    parameter = _parameter_of_model(maker)
    if not (inspect.isclass(made) and issubclass(made, Transform) and is_dataclass(made)):
        if parameter is None:
            raise TypeError(
                f"{_NAME}: {name} must take one argument, the model in training, and return a step, as in "
                f"lambda model: DenseNegatives(corpus, model)."
            )
        return
    if issubclass(made, CrossEncoderScores):
        raise TypeError(
            f"{_NAME}: {name} scores with a CrossEncoder, but the model in training is not one. Pass the step itself: "
            f"{name}(corpus, cross_encoder)."
        )
    has_model = "model" in {field.name for field in fields(made)}
    if not has_model and made.__module__.startswith("hnm_datasets."):
        raise TypeError(f"{_NAME}: {name} uses no model. Pass the step itself, with its arguments: {name}(...).")
    if parameter is None or (has_model and parameter != "model"):
        raise TypeError(
            f"{_NAME}: {name} cannot be created from the model alone. Pass a partial that lacks only the model: "
            f"partial({name}, corpus{', k=50' if issubclass(made, ModelNegatives) else ''})."
        )


def _parameter_of_model(maker: Any) -> str | None:
    """Return the parameter that receives the model; None if a call with only the model would fail."""
    try:
        signature = inspect.signature(maker)
    except ValueError:
        # Functions written in C may have no signature.
        return ""
    try:
        return next(iter(signature.bind(None).arguments))
    except TypeError:
        return None
