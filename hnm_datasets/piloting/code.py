"""A chain of steps as Python code to paste."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from datasets.fingerprint import Hasher

from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.mining.names import plain_name
from hnm_datasets.models.handles import ModelHandle
from hnm_datasets.piloting.strategies import Strategy
from hnm_datasets.transforms.base import Transform


def chain_code(strategy: Strategy, negatives: int, teacher: Transform | None) -> str:
    """Return the code that mines with a strategy and makes rows for the trainer.

    The code refers to the corpus, rows, model and teacher as `corpus`, `rows`, `model` and `teacher`.

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
    """Return the code of a step or an option; `...` replaces values that have no code, such as an index."""
    if isinstance(value, Corpus):
        return "corpus"
    if isinstance(value, ModelHandle):
        return "model"
    if isinstance(value, partial):
        options = [f"{name}={_code(option)}" for name, option in value.keywords.items()]
        return f"partial({', '.join([plain_name(value.func), *map(_code, value.args), *options])})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_code(option)}' for key, option in value.items())}}}"
    if isinstance(value, Transform):
        return _step_code(value)
    if isinstance(value, (bool, int, float, str)) or value is None:
        return repr(value)
    name = plain_name(value) if callable(value) else ""
    return name if name.isidentifier() else "..."


def _step_code(step: Transform) -> str:
    """Return the code of a step: required options by position, then the options that differ from their defaults."""
    parameters = inspect.signature(type(step)).parameters
    needed = [getattr(step, name) for name, parameter in parameters.items() if parameter.default is parameter.empty]
    options: dict[str, Any] = {}
    # A step fills in some options itself, such as the prompts of its model. A second step fills in the same values.
    other = _made(type(step), needed, options)
    for name, parameter in parameters.items():
        value = getattr(step, name)
        if parameter.default is not parameter.empty and not _is_same(value, getattr(other, name, parameter.default)):
            options[name] = value
            other = _made(type(step), needed, options)
    written = [*map(_code, needed), *(f"{name}={_code(value)}" for name, value in options.items())]
    return f"{plain_name(step)}({', '.join(written)})"


def _made(kind: type[Transform], needed: list[Any], options: dict[str, Any]) -> Transform | None:
    """Make a step; None if it requires more options than these."""
    try:
        return kind(*needed, **options)
    except (TypeError, ValueError):
        return None


def _is_same(first: Any, second: Any) -> bool:
    return bool(first == second) or (type(first) is type(second) and Hasher.hash(first) == Hasher.hash(second))
