"""Labels for training rows without a label column: rows of the same question, recognized by their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hnm_datasets.training.labels import PADDING, Labels

#: Odd multipliers that mix the bits of a token and of its position.
_SPREAD, _POSITION = -7046029254386353131, 6364136223846793005
#: The outputs of a tokenizer for texts, and the tensors that a model adds; other inputs are not supported.
_OF_TEXTS = {"input_ids", "attention_mask", "token_type_ids", "offsets"}
_OF_MODELS = {"sentence_embedding", "token_embeddings", "all_layer_embeddings"}


def token_labels(features: Sequence[Mapping[str, Any]]) -> Labels | None:
    """Return the labels of a batch from its texts: rows with the same query share their positives.

    Texts with the same tokens are the same text.

    Args:
        features: The tokens of the queries, of the positives, and of each column of negatives. B texts each.

    Returns:
        The labels; None if the inputs are not texts, or have an unknown format.
    """
    if len(features) < 2:
        return None
    keys = []
    for column in features:
        found = _text_keys(column)
        if found is None:
            return None
        keys.append(found)
    passages = torch.stack(keys[1:], dim=1)
    _, code, counts = torch.unique(keys[0], return_inverse=True, return_counts=True)
    order = torch.argsort(code, stable=True)
    column_of = torch.arange(len(code), device=code.device) - (counts.cumsum(0) - counts)[code[order]]
    positives = torch.full((len(counts), int(counts.max())), PADDING, dtype=torch.int64, device=code.device)
    positives[code[order], column_of] = passages[order, 0]
    return Labels(passages, positives[code], None)


def _text_keys(column: Mapping[str, Any]) -> Tensor | None:
    """Return a key per text that depends on its tokens but not on padding; None for other inputs. Shape (B,)."""
    tensors = {name for name, value in column.items() if isinstance(value, Tensor)}
    tokens = column.get("input_ids")
    if tokens is None or not tensors <= _OF_TEXTS | _OF_MODELS:
        return None
    if tokens.ndim == 1 and "offsets" in tensors:
        # Static embeddings: the tokens of all texts in one sequence.
        starts = column["offsets"]
        owners = torch.zeros(len(tokens) + 1, dtype=torch.int64, device=tokens.device)
        owners.index_add_(0, starts, torch.ones_like(starts, dtype=torch.int64))
        owners = owners[: len(tokens)].cumsum(0) - 1
        positions = torch.arange(len(tokens), device=tokens.device) - starts[owners]
        sums = torch.zeros(len(starts), dtype=torch.int64, device=tokens.device)
        return _positive(sums.index_add_(0, owners, _mixed(tokens, positions)))
    if tokens.ndim == 2 and "attention_mask" in tensors:
        mask = column["attention_mask"].to(torch.int64)
        return _positive((_mixed(tokens, mask.cumsum(1) - 1) * mask).sum(1))
    return None


def _mixed(tokens: Tensor, positions: Tensor) -> Tensor:
    """Return a number per token that depends on the token and its position; integer overflow is intended."""
    mixed = (tokens.to(torch.int64) + 1) * _SPREAD + (positions + 1) * _POSITION
    mixed = (mixed ^ (mixed >> 31)) * _SPREAD
    return (mixed ^ (mixed >> 29)) * _POSITION


def _positive(sums: Tensor) -> Tensor:
    """Return the sums without their sign bit, because `PADDING` is negative."""
    return sums & torch.iinfo(torch.int64).max
