"""The epoch of live negatives follows that of their training."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hnm_datasets.training.live_rows import LiveNegatives
from hnm_datasets.training.live_texts import LiveTexts


class FollowEpochs(TrainerCallback):
    """Sets the epoch of live negatives, so that each epoch has its own draw.

    `RefreshNegatives` does so for its own.

    Args:
        *live: What `live_negatives` made.

    Raises:
        TypeError: One is something else.
        ValueError: When an epoch begins: the rows were never mined.

    Example:
        >>> from hnm_datasets import BM25Negatives, live_negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> live = live_negatives(queries.map(BM25Negatives(corpus, k=3), batched=True), corpus)
        >>> callbacks = [FollowEpochs(live)]
    """

    def __init__(self, *live: LiveNegatives) -> None:
        self._sources = [source_of("FollowEpochs", one) for one in live]

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the next epoch's negatives."""
        for source in self._sources:
            if not len(source.generation().negatives.values):
                raise ValueError(
                    "FollowEpochs: the rows were never mined, so that all negatives would be padding. Mine them before "
                    "live_negatives, or pass RefreshNegatives as the callback, which mines before the first step."
                )
            source.progress.epoch = math.floor(state.epoch or 0)


def source_of(owner: str, live: object) -> LiveTexts:
    """Return where the texts of live rows come from.

    Raises:
        TypeError: They are something else.
    """
    if not isinstance(live, LiveNegatives):
        raise TypeError(f"{owner} takes what live_negatives makes, got {type(live).__name__}.")
    return live.source
