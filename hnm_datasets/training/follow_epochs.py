"""A trainer callback that sets the epoch of live negatives."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hnm_datasets.training.live_rows import LiveNegatives
from hnm_datasets.training.live_texts import LiveTexts


class FollowEpochs(TrainerCallback):
    """Set the epoch of live negatives, so that each epoch draws its own negatives.

    `RefreshNegatives` also sets the epoch; its rows do not need this callback.

    Args:
        *live: Rows from `live_negatives`.

    Raises:
        TypeError: An argument does not come from `live_negatives`.
        ValueError: The rows have no mined negatives (raised when an epoch begins).

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
                    "FollowEpochs: the rows have no mined negatives, so all negatives would be padding. Mine the rows "
                    "before live_negatives, or use the callback RefreshNegatives, which mines before the first step."
                )
            source.progress.epoch = math.floor(state.epoch or 0)


def source_of(owner: str, live: object) -> LiveTexts:
    """Return the transform that makes the texts of live rows.

    Raises:
        TypeError: `live` does not come from `live_negatives`.
    """
    if not isinstance(live, LiveNegatives):
        raise TypeError(f"{owner} needs rows from live_negatives, got {type(live).__name__}.")
    return live.source
