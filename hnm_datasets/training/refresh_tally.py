"""Counts of what a refresh finds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_SCORES, POSITIVE_SCORES
from hnm_datasets.training.generations import Generation
from hnm_datasets.training.live_texts import LiveTexts


def _is_scored(batch: Batch) -> bool:
    """Return whether all candidates and positives have scores, which a search engine gives only to what it finds."""
    names = (NEGATIVE_SCORES, POSITIVE_SCORES)
    return all(batch.has(name) and not batch.lists(name).values.null_count for name in names)


class RefreshTally:
    """Counts what a refresh finds."""

    def __init__(self, source: LiveTexts) -> None:
        self.source = source
        self.before = Generation.open(source.folder_of(source.progress.generation))
        self.reciprocal, self.found, self.queries = 0.0, 0, 0
        self.above, self.scored = 0, 0
        self.rows: list[NDArray[np.int64]] = []

    def of_miner(self, batch: Batch) -> None:
        """Rank the best positive of each query among the candidates of the first step."""
        if not _is_scored(batch):
            return
        own: Ragged[Any] = batch.number_lists(POSITIVE_SCORES)
        others: Ragged[Any] = batch.number_lists(NEGATIVE_SCORES)
        answered = own.lengths > 0
        best = _best(own)
        ahead = np.bincount(others.owners[others.values > best[others.owners]], minlength=len(own))
        # Behind all candidates: nobody knows how far.
        found = answered & ((ahead < others.lengths) | (others.lengths == 0))
        self.reciprocal += float((1 / (1 + ahead[found])).sum())
        self.found += int(found.sum())
        self.queries += int(answered.sum())

    def of_rows(self, rows: NDArray[np.int64], batch: Batch) -> None:
        """Count what the steps left."""
        self.rows.append(rows)
        if _is_scored(batch):
            others: Ragged[Any] = batch.number_lists(NEGATIVE_SCORES)
            best = _best(batch.number_lists(POSITIVE_SCORES))
            self.above += int((others.values > best[others.owners]).sum())
            self.scored += len(others.values)

    def numbers(self, now: Generation) -> dict[str, float]:
        """Return all shares."""
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
        if self.queries:
            numbers |= {"mrr": self.reciprocal / self.queries, "recall": self.found / self.queries}
        if self.scored:
            numbers["above"] = self.above / self.scored
        return numbers


def _best(scores: Ragged[Any]) -> NDArray[np.float64]:
    """Return the greatest value of each list, infinity of an empty one. Shape (B,)."""
    best = np.full(len(scores), np.inf)
    filled = np.flatnonzero(scores.lengths)
    if len(filled):
        best[filled] = np.maximum.reduceat(scores.values.astype(np.float64), scores.offsets[:-1][filled])
    return best
