"""A probe: how a model in training ranks the candidates that a sample of the queries has now.

It encodes the sample's queries and passages alone, so it costs a small part of a refresh.
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
    """Looks at the current negatives with a model.

    Args:
        source: The rows that are trained on.
        steps: Those of the refreshes: a probe encodes with the prompts of a miner that a `partial` makes.
        size: How many queries to look at, spread evenly over the rows.
    """

    def __init__(self, source: LiveTexts, steps: Sequence[Step], size: int) -> None:
        self.source = source
        self.rows = np.unique(np.linspace(0, len(source.rows) - 1, size).astype(np.int64))
        self.options = _options_of(steps)

    def look(self, model: Any, model_name: str) -> dict[str, float]:
        """Say how the model ranks the best positives of the sample among their candidates.

        Returns:
            `mrr`, their mean reciprocal rank; `above`, the share of the candidates above them; `weight`, the mean share
            of the candidates in a softmax with them, at the scale that losses have by default: 20 for the cosine, 1 for
            other similarities; `seconds`.

        Raises:
            TypeError: The model embeds texts as several vectors.
        """
        if kind_of(model) == "MultiVectorEncoder":
            raise TypeError(
                f"{_NAME}: start_mrr and stale look at a sample with one vector for each text, and the model in "
                f"training has several. Leave them out; start= and every= go by steps alone."
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
    """Return the prompts and the batch size of the first miner that is made of the model."""
    names = ("query_prompt", "prompt", "batch_size")
    for step in steps:
        if isinstance(step, partial) and isinstance(step.func, type) and issubclass(step.func, ModelNegatives):
            return {name: step.keywords[name] for name in names if name in step.keywords}
    return {}
