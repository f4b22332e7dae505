"""A chain of steps as Python that can be pasted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.mining.names import plain_name
from hnm_datasets.models.handles import ModelHandle
from hnm_datasets.piloting.strategies import Strategy
from hnm_datasets.transforms.base import Transform


def chain_code(strategy: Strategy, negatives: int, teacher: Transform | None) -> str:
    """Write what mines with a strategy and makes rows for the trainer.

    The corpus, the rows, models and the teacher stand under the names `corpus`, `rows`, `model` and `teacher`.

    Example:
        >>> from hnm_datasets import BM25Negatives, RankWindow, load_sample
        >>> corpus, _ = load_sample("earthquakes")
        >>> strategy = Strategy("BM25", (BM25Negatives(corpus, k=30), RankWindow(min=11)), False)
        >>> print(chain_code(strategy, 4, None))
        mined = mine(rows, [BM25Negatives(corpus, k=30), RankWindow(min=11)])
        live = live_negatives(mined, corpus, n=4)
    """
    steps = f"[{', '.join('teacher' if step is teacher else _code(step) for step in strategy.steps)}]"
    if strategy.dynamic:
        return (
            f"live = live_negatives(rows, corpus, n={negatives})\nrefresh = RefreshNegatives(live, {steps}, every=0.25)"
        )
    if not strategy.steps:
        return "live = live_negatives(rows, corpus)  # the other rows' passages are the negatives"
    return f"mined = mine(rows, {steps})\nlive = live_negatives(mined, corpus, n={negatives})"


def _code(value: Any) -> str:
    """Write a step or an option of one."""
    if isinstance(value, Corpus):
        return "corpus"
    if isinstance(value, ModelHandle):
        return "model"
    if isinstance(value, partial):
        options = [f"{name}={_code(option)}" for name, option in value.keywords.items()]
        return f"partial({', '.join([plain_name(value.func), *map(_code, value.args), *options])})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_code(option)}' for key, option in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_code, value))}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    if not isinstance(value, Transform) or not is_dataclass(value):
        return repr(value) if isinstance(value, (bool, int, str)) or value is None else plain_name(value)
    options = []
    # What has no default comes first and is passed by its place; what a step derives from a model is left out.
    for place, field in enumerate(fields(value)):
        option = getattr(value, field.name)
        if place < 2 and isinstance(option, (Corpus, ModelHandle, Mapping)):
            options.append(_code(option))
        elif option != field.default and isinstance(option, (bool, int, float, str)):
            options.append(f"{field.name}={_code(option)}")
    return f"{plain_name(value)}({', '.join(options)})"
