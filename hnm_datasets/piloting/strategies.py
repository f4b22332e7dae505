"""The strategies that a pilot compares: those that a user passes, or the usual ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.transforms.base import Transform
from hnm_datasets.transforms.filters.limits import RankWindow
from hnm_datasets.transforms.filters.margins import RelativeMargin
from hnm_datasets.transforms.filters.near_duplicates import DropNearDuplicates
from hnm_datasets.transforms.miners.bm25 import BM25Negatives
from hnm_datasets.transforms.miners.dense import DenseNegatives
from hnm_datasets.transforms.miners.fusion import FuseNegatives
from hnm_datasets.transforms.miners.random import RandomNegatives
from hnm_datasets.transforms.samplers.sample import TopNegatives
from hnm_datasets.transforms.shapes.base import Shape

_NAME = "pilot"
#: Negatives per row in training.
NEGATIVES = 4
#: Candidates per row, and candidates before filters.
_K, _DEPTH = 20, 50
#: The number of top ranks that "BM25 below rank" skips.
_TOP = 10
#: The margin if none can be calibrated on the rows.
MARGIN = 0.05


class Strategy(NamedTuple):
    """A named chain of steps.

    Attributes:
        name: The name.
        steps: The steps, in order; empty for in-batch negatives only.
        dynamic: Whether a step takes the model in training, so that the strategy mines again during training.
    """

    name: str
    steps: tuple[Any, ...]
    dynamic: bool

    def made(self, model: Any) -> list[Any]:
        """Return the steps; steps that take a model are made with this one."""
        return [step(model) if waits(step) else step for step in self.steps]


def waits(step: Any) -> bool:
    """Return whether a step takes the model in training: a class, a partial, or a function of `model`."""
    if isinstance(step, Transform):
        return False
    if isinstance(step, (type, partial)):
        return True
    try:
        return list(inspect.signature(step).parameters) == ["model"]
    except (TypeError, ValueError):
        return False


def checked(strategies: Mapping[str, Sequence[Callable[[Any], Any]]]) -> list[Strategy]:
    """Check the strategies that a user passes; drop a shape at the end, because the pilot shapes rows itself.

    Raises:
        TypeError: `strategies` is not a dict, a name is not a string, or a chain is not a list of steps.
        ValueError: There are no strategies, or a shape is not the last step.
    """
    if not isinstance(strategies, Mapping):
        raise TypeError(
            f"{_NAME}: strategies must be a dict from names to lists of steps, such as "
            f"{{'BM25': [BM25Negatives(corpus)]}}, got {type(strategies).__name__}."
        )
    if not strategies:
        raise ValueError(f"{_NAME}: strategies is empty. Pass at least one strategy, or None for the usual ones.")
    found = []
    for name, steps in strategies.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"{_NAME}: the name of a strategy must be a non-empty string, got {name!r}.")
        if isinstance(steps, Transform) or not isinstance(steps, Sequence) or isinstance(steps, (str, bytes)):
            raise TypeError(f"{_NAME}: the strategy {name!r} must be a list of steps, got {type(steps).__name__}.")
        for step in steps:
            if not callable(step):
                raise TypeError(
                    f"{_NAME}: the steps of the strategy {name!r} must be steps such as BM25Negatives(corpus) or "
                    f"functions of a batch, got {type(step).__name__}."
                )
        chain = tuple(steps[:-1] if steps and isinstance(steps[-1], Shape) else steps)
        if any(isinstance(step, Shape) for step in chain):
            raise ValueError(f"{_NAME}: the strategy {name!r} has a shape before its last step. Move it to the end.")
        found.append(Strategy(name, chain, any(map(waits, chain))))
    return found


def usual(
    corpus: Corpus, model: Any, teacher: Transform | None, margins: Mapping[str, float], *, train: bool
) -> list[Strategy]:
    """Return the usual strategies for the given models.

    Args:
        corpus: The passages.
        model: The mining model; None: no dense strategies.
        teacher: A scorer; None: no denoised strategy.
        margins: A relative margin for `"score"` and one for the teacher's name; 0.05 if missing.
        train: Whether a student is trained; if not, in-batch and dynamic negatives are left out.
    """
    bm25 = BM25Negatives(corpus, k=_K)
    found: dict[str, list[Any]] = {"in-batch": []} if train else {}
    found["random"] = [RandomNegatives(corpus, k=_K)]
    found["BM25"] = [bm25]
    found[f"BM25 below rank {_TOP}"] = [
        BM25Negatives(corpus, k=_K + _TOP),
        RankWindow(min=_TOP + 1),
        TopNegatives(_K),
    ]
    deep: Any = BM25Negatives(corpus, k=_DEPTH)
    if model is not None:
        dense = DenseNegatives(corpus, model, k=_K)
        deep = DenseNegatives(corpus, model, k=_DEPTH)
        clean = DropNearDuplicates(corpus)
        found["dense"] = [dense]
        found["BM25 and dense"] = [FuseNegatives({"bm25": bm25, "dense": dense}, k=_K)]
        margin = RelativeMargin(margins.get("score", MARGIN), by="score")
        found["dense, margin"] = [deep, clean, margin, TopNegatives(_K)]
    if teacher is not None:
        name = str(getattr(teacher, "name", "teacher"))
        margin = RelativeMargin(margins.get(name, MARGIN), by=name)
        source = "BM25" if model is None else "dense"
        found[f"{source}, denoised"] = [deep, DropNearDuplicates(corpus), teacher, margin, TopNegatives(_K)]
    if train:
        found["dynamic"] = [partial(DenseNegatives, corpus, k=_K)]
    return checked(found)


def deepest(corpus: Corpus, model: Any) -> Transform:
    """Return the miner that `usual` uses before its filters, to calibrate margins with."""
    if model is None:
        return BM25Negatives(corpus, k=_DEPTH)
    return DenseNegatives(corpus, model, k=_DEPTH)
