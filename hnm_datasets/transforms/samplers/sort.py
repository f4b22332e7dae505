"""Sorting of candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from hnm_datasets import checks
from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, score_column, score_name
from hnm_datasets.transforms.base import Transform


@dataclass(frozen=True)
class SortNegatives(Transform):
    """Sort the candidates of each row by a score, highest first.

    After sorting by a teacher's scores, `TopNegatives` keeps the hardest candidates according to the teacher. Ranks
    remain the retriever's, and candidates with equal scores keep their order.

    Args:
        by: `"score"` for the retriever's scores, or a teacher's name (`"teacher"` reads `negative_teacher_scores`).
            None uses the `teacher` scores if the rows have them, else the retriever's.

    Columns read:
        `negative_ids` and the score column.

    Columns written:
        All aligned `negative_*` columns.

    Raises:
        KeyError: The score column is missing.

    Example:
        >>> batch = {"negative_ids": [["a", "b", "c"]], "negative_teacher_scores": [[0.1, 0.9, 0.4]]}
        >>> SortNegatives("teacher")(batch)["negative_ids"]
        [['b', 'c', 'a']]
    """

    output_columns: ClassVar[tuple[str, ...]] = ("negative_*",)

    by: str | None = None

    @property
    def input_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step reads; without `by`, it reads the teacher's scores instead if they exist."""
        return self._inputs(self.by or "score")

    def _inputs(self, by: str) -> tuple[str, ...]:
        return (NEGATIVE_IDS, score_column(by))

    def _required(self, names: Sequence[str]) -> tuple[str, ...]:
        return self._inputs(score_name(self.by, names))

    def __post_init__(self) -> None:
        checks.score_option("SortNegatives", "by", self.by)

    def _apply(self, batch: Batch) -> Mapping[str, pa.Array]:
        lists = batch.candidates()
        scores = batch.scores(score_column(score_name(self.by, batch.names)))
        order = pa.array(np.lexsort((-scores.values.astype(np.float64), scores.owners)))
        return {name: list_array(values.offsets, values.values.take(order)) for name, values in lists.items()}
