"""The strategies that a pilot compares: what a user passes, or a ladder made of what there is."""

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
#: Negatives of a row in a training.
NEGATIVES = 4
#: Candidates to draw from, and candidates before filters.
_K, _DEPTH = 20, 50
#: Ranks that "without the top" leaves out.
_TOP = 10
#: The usual margin, where none can be read off the rows.
MARGIN = 0.05


class Strategy(NamedTuple):
    """A chain of steps under a name.

    Attributes:
        name: Its name.
        steps: The steps, in order; none: the other rows' passages are the negatives.
        dynamic: Whether a step waits for the model in training, so that it is mined again while training.
    """

    name: str
    steps: tuple[Any, ...]
    dynamic: bool

    def made(self, model: Any) -> list[Any]:
        """Return the steps, with those that wait for a model made of this one."""
        return [step(model) if waits(step) else step for step in self.steps]


def waits(step: Any) -> bool:
    """Tell whether a step is yet to be made of a model: a class, a partial, or a function of `model`."""
    if isinstance(step, Transform):
        return False
    if isinstance(step, (type, partial)):
        return True
    try:
        return list(inspect.signature(step).parameters) == ["model"]
    except (TypeError, ValueError):
        return False


def checked(strategies: Mapping[str, Sequence[Callable[[Any], Any]]]) -> list[Strategy]:
    """Return the strategies that a user passes; a shape at the end is left out, because all are trained on alike.

    Raises:
        TypeError: It is no dict, a name is no text, or a chain is no list of steps.
        ValueError: There is no strategy.
    """
    if not isinstance(strategies, Mapping):
        raise TypeError(
            f"{_NAME}: strategies must be a dict from a name to a list of steps, got {type(strategies).__name__}: "
            f"{{'BM25': [BM25Negatives(corpus)]}}."
        )
    if not strategies:
        raise ValueError(f"{_NAME}: there are no strategies. Pass some, or leave them out for the usual ones.")
    found = []
    for name, steps in strategies.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"{_NAME}: the name of a strategy must be a text, got {name!r}.")
        if isinstance(steps, Transform) or not isinstance(steps, Sequence) or isinstance(steps, (str, bytes)):
            raise TypeError(f"{_NAME}: the strategy {name!r} must be a list of steps, got {type(steps).__name__}.")
        for step in steps:
            if not callable(step):
                raise TypeError(
                    f"{_NAME}: the strategy {name!r} holds a {type(step).__name__}, which is neither a step such as "
                    f"BM25Negatives(corpus) nor a function of a batch."
                )
        chain = tuple(steps[:-1] if steps and isinstance(steps[-1], Shape) else steps)
        if any(isinstance(step, Shape) for step in chain):
            raise ValueError(f"{_NAME}: the strategy {name!r} has a shape in its middle. A shape ends a chain.")
        found.append(Strategy(name, chain, any(map(waits, chain))))
    return found


def usual(
    corpus: Corpus, model: Any, teacher: Transform | None, margins: Mapping[str, float], *, train: bool
) -> list[Strategy]:
    """Make a ladder of strategies of what there is.

    Args:
        corpus: The passages.
        model: A model that mines; None: there is none.
        teacher: A step that scores; None: there is none.
        margins: A relative margin for `"score"` and one for the teacher's name; without one, 0.05.
        train: Whether a student is trained: without one there are neither in-batch nor dynamic negatives.
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
    """Return the miner before the filters of `usual`, to read margins off."""
    if model is None:
        return BM25Negatives(corpus, k=_DEPTH)
    return DenseNegatives(corpus, model, k=_DEPTH)
