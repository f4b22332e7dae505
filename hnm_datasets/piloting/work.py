"""The model computation of a strategy: a cost that is the same on every machine and in every run."""

from __future__ import annotations

from typing import Any

import torch

from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.mining.counting import wanted_candidates
from hnm_datasets.models.handles import ModelHandle
from hnm_datasets.piloting.parts import miners_of, models_of
from hnm_datasets.piloting.strategies import Strategy
from hnm_datasets.transforms.scorers.base import Scorer

#: The assumed parameters of a model that cannot be inspected, such as a service: those of a small transformer.
_UNKNOWN = 10_000_000


def work_of(strategy: Strategy, steps: list[Any], corpus: Corpus, rows: int, refreshes: int) -> float:
    """Return the model computation to mine all rows: the texts or pairs that models read, times their parameters.

    A miner reads the corpus and the queries; a scorer reads the candidates. A dynamic strategy repeats both at each
    refresh. BM25 and random passages need no model.

    Args:
        strategy: The strategy.
        steps: Its steps, see `Strategy.made`.
        corpus: The passages.
        rows: The number of rows to mine in all.
        refreshes: The number of times that a dynamic strategy mines.
    """
    total, candidates = 0.0, 0
    for step in steps:
        for miner in miners_of(step):
            total += (len(corpus) + rows) * sum(size_of(handle) for handle in models_of(miner))
        candidates = wanted_candidates(step) or candidates
        if isinstance(step, Scorer):
            total += rows * (candidates + 1) * sum(size_of(handle) for handle in models_of(step))
    return float(refreshes * total if strategy.dynamic else total)


def size_of(model: Any) -> int:
    """Count the parameters that process each token of a text. Of an embedding table, this is one row.

    Args:
        model: A model, or a `ModelHandle`.
    """
    if isinstance(model, ModelHandle):
        loaded = model.loaded
        if loaded.is_function:
            return _UNKNOWN
        model = loaded.model
    if not isinstance(model, torch.nn.Module):
        return _UNKNOWN
    tables = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    own = [
        one for module in model.modules() if not isinstance(module, tables) for one in module.parameters(recurse=False)
    ]
    found = sum(parameter.numel() for parameter in own)
    looked_up = [module.embedding_dim for module in model.modules() if isinstance(module, tables)]
    return found + sum(looked_up)
