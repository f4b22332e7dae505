"""Statistics of a refresh."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_SCORES, POSITIVE_SCORES
from hnm_datasets.training.generations import Generation
from hnm_datasets.training.live_texts import LiveTexts
from hnm_datasets.training.ranks import Ranks, ranks_of


def _is_scored(batch: Batch) -> bool:
    """Return whether all candidates and positives have scores; a search engine scores only the passages it returns."""
    names = (NEGATIVE_SCORES, POSITIVE_SCORES)
    return all(batch.has(name) and not batch.lists(name).values.null_count for name in names)


class RefreshTally:
    """Collects the statistics of a refresh."""

    def __init__(self, source: LiveTexts) -> None:
        self.source = source
        self.before = Generation.open(source.folder_of(source.progress.generation))
        self.mined, self.left = Ranks(), Ranks()
        self.rows: list[NDArray[np.int64]] = []

    def of_miner(self, batch: Batch) -> None:
        """Rank the best positive of each query among the candidates of the first step."""
        if _is_scored(batch):
            self.mined += ranks_of(batch.number_lists(POSITIVE_SCORES), batch.number_lists(NEGATIVE_SCORES))

    def of_rows(self, rows: NDArray[np.int64], batch: Batch) -> None:
        """Count the candidates that the steps left."""
        self.rows.append(rows)
        if _is_scored(batch):
            self.left += ranks_of(batch.number_lists(POSITIVE_SCORES), batch.number_lists(NEGATIVE_SCORES))

    def numbers(self, now: Generation) -> dict[str, float]:
        """Return the statistics of the new generation."""
        rows = np.concatenate(self.rows) if self.rows else np.empty(0, dtype=np.int64)
        mined = np.zeros(len(now.negatives), dtype=bool)
        mined[rows] = True
        size = len(self.source.corpus)
        new, old = (
            (one.owners * size + one.values)[mined[one.owners]] for one in (now.negatives, self.before.negatives)
        )
        numbers = {
            "replaced": float(np.isin(new, old, invert=True).mean()) if len(new) else 0.0,
            "short": float((now.negatives.lengths < self.source.n).mean()),
        }
        if self.mined.queries:
            numbers |= {"mrr": self.mined.mrr, "recall": self.mined.recall}
        if self.left.candidates:
            numbers["above"] = self.left.above
        return numbers
