"""Hardness of candidates: how far they score above the positives of their row."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.audit.tally import mean_of_rows
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, NEGATIVE_RANKS, POSITIVE_IDS, score_column, score_name
from hnm_datasets.formats.base import Side
from hnm_datasets.formats.fields import aligned_numbers


@dataclass(frozen=True)
class Hardness:
    """The hardness of the candidates of all rows.

    Args:
        by: The scores that are compared: `"teacher"`, or `"score"` for the retriever's.
        mean: The mean, over all candidates with known scores, of the candidate's score minus the mean score of the
            row's positives. In the units of the scores.
        above: The share of these candidates that score above the mean of the row's positives.
    """

    by: str
    mean: float
    above: float


class HardnessTally:
    """Adds up the hardness of candidates, batch by batch.

    Args:
        names: The columns of the rows. The teacher's scores are used if they are included, else the retriever's.

    Example:
        >>> rows = {"positive_ids": [["a", "b"]], "positive_scores": [[3.0, 2.0]]}
        >>> rows |= {"negative_ids": [["c", "d"]], "negative_scores": [[4.0, 1.5]]}
        >>> tally = HardnessTally(list(rows))
        >>> tally.add(Batch(rows, step="mine"))
        >>> tally.hardness()
        Hardness(by='score', mean=0.25, above=0.5)
    """

    def __init__(self, names: Collection[str]) -> None:
        self._by = score_name(None, names)
        read = (NEGATIVE_IDS, score_column(self._by), POSITIVE_IDS, score_column(self._by, of="positive"))
        ranks = {name for name in names if name.startswith("negative_") and name.endswith("_ranks")}
        # Fused scores are computed from ranks, which positives do not have: their scores are from an earlier miner.
        is_fused = self._by == "score" and bool(ranks - {NEGATIVE_RANKS})
        #: The columns to read; none if the rows lack one of them.
        self.columns = read if set(read) <= set(names) and not is_fused else ()
        self._count, self._above, self._total = 0, 0, 0.0
        self._is_aligned, self._differ = True, False

    def add(self, batch: Batch, which: NDArray[np.int64] | None = None) -> None:
        """Count the candidates of a batch whose scores, and those of their row's positives, are finite.

        Args:
            batch: The rows.
            which: Count only these flat positions; None for all.
        """
        if not self.columns:
            return
        try:
            margins = _margins(batch, *self.columns)
        except (TypeError, ValueError):
            # A custom function may have changed the ids but not the scores.
            self._is_aligned = False
            return
        margins = margins if which is None else margins[which]
        known = margins[np.isfinite(margins)]
        self._count += len(known)
        self._above += int((known > 0).sum())
        self._total += float(known.sum())
        self._differ |= bool(known.any())

    def hardness(self) -> Hardness | None:
        """Return the hardness of all counted candidates, or None if it is unknown."""
        # Random and judged sources give the same score to all candidates.
        if not self._differ or not self._is_aligned:
            return None
        return Hardness(self._by, self._total / self._count, self._above / self._count)


def _margins(batch: Batch, *columns: str) -> NDArray[np.float64]:
    """Return how far each candidate scores above the mean of its row's positives. Shape (C,)."""
    negative_ids, negative_scores, positive_ids, positive_scores = columns
    negatives, positives = batch.id_lists(negative_ids), batch.id_lists(positive_ids)
    known = aligned_numbers(batch, positive_scores, positive_ids, positives)
    means = mean_of_rows(known, Side(positives.offsets, ids=positives.values))
    scores = aligned_numbers(batch, negative_scores, negative_ids, negatives)
    with np.errstate(invalid="ignore"):
        return np.asarray(scores - np.repeat(means, negatives.lengths))
