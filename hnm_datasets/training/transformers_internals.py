"""Internals of the trainer of transformers, which a new release may change."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerState
from transformers.trainer import DEFAULT_CALLBACKS


def add_default_callback(callback: type[TrainerCallback]) -> None:
    """Add a callback to every trainer that is made from now on, before the callbacks that report to other tools."""
    callbacks: list[Any] = DEFAULT_CALLBACKS
    callbacks.append(callback)


def add_to_entry(state: TrainerState, numbers: dict[str, float]) -> None:
    """Add numbers to the entry that the trainer has added to its history before it calls `on_log`."""
    state.log_history[-1] |= numbers
