"""A probe: how the model in training ranks the current candidates of a sample of queries.

It encodes only the queries and passages of the sample, so it costs much less than a refresh.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS, QUERY, score_column
from hnm_datasets.models.handles import kind_of
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.training.generations import Generation
from hnm_datasets.training.live_texts import LiveTexts
from hnm_datasets.training.ranks import mean_weight, ranks_of
from hnm_datasets.training.refresh_job import Step
from hnm_datasets.training.refresh_vectors import discard_vectors
from hnm_datasets.transforms.miners.model import ModelNegatives
from hnm_datasets.transforms.scorers.bi_encoder import BiEncoderScores

_NAME = "RefreshNegatives"
_SCORER = "probe"


class Probe:
    """Scores the current negatives of a sample of queries with the model in training.

    Args:
        source: The training rows.
        steps: The steps of the refreshes; the probe encodes with the prompts of a miner passed as a `partial`.
        size: The number of queries in the sample, spread evenly over the rows.
    """

    def __init__(self, source: LiveTexts, steps: Sequence[Step], size: int) -> None:
        self.source = source
        self.rows = np.unique(np.linspace(0, len(source.rows) - 1, size).astype(np.int64))
        self.options = _options_of(steps)

    def look(self, model: Any, model_name: str) -> dict[str, float]:
        """Measure how the model ranks the best positive of each query among its candidates.

        Returns:
            `mrr`: the mean reciprocal rank of the best positives. `above`: the share of the candidates that score
            higher. `weight`: the mean share of a candidate in a softmax with the best positive, at the default scale of
            the losses (20 for cosine similarity, 1 for others). `seconds`: the duration.

        Raises:
            TypeError: The model embeds a text as several vectors.
        """
        if kind_of(model) == "MultiVectorEncoder":
            raise TypeError(
                f"{_NAME}: start_mrr and stale need a model with one vector per text, but the model in training is a "
                f"MultiVectorEncoder. Remove these two options; start= and every= work with any model."
            )
        start = time.perf_counter()
        source = self.source
        now = Generation.open(source.folder_of(source.progress.generation))
        texts = source.rows.select_columns([QUERY]).with_format("arrow")[self.rows.tolist()]
        table = pa.table(
            {
                QUERY: texts[QUERY],
                POSITIVE_IDS: source.ids_of(now.positives, self.rows),
                NEGATIVE_IDS: source.ids_of(now.negatives, self.rows),
            }
        )
        before = set((cache_root() / "vectors").glob("*"))
        scorer = BiEncoderScores(source.corpus, model, _SCORER, **self.options)
        scored = Batch(scorer(table), step=_NAME)
        discard_vectors([scorer], model_name, before)
        scores: tuple[Ragged[Any], Ragged[Any]] = (
            scored.number_lists(score_column(_SCORER, of="positive")),
            scored.number_lists(score_column(_SCORER)),
        )
        ranks, scale = ranks_of(*scores), 20.0 if scorer.model.queries.similarity == "cosine" else 1.0
        looked = {"mrr": ranks.mrr, "above": ranks.above, "weight": mean_weight(*scores, scale)}
        return looked | {"seconds": time.perf_counter() - start}


def _options_of(steps: Sequence[Step]) -> dict[str, Any]:
    """Return the prompts and the batch size of the first miner that uses the model in training."""
    names = ("query_prompt", "prompt", "batch_size")
    for step in steps:
        if isinstance(step, partial) and isinstance(step.func, type) and issubclass(step.func, ModelNegatives):
            return {name: step.keywords[name] for name in names if name in step.keywords}
    return {}
