"""The two passes of `mine_hard_negatives` over the queries: mining, with counts for each limit, and creating rows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS, score_column

#: The number of candidates of each query after the search and after each limit.
COUNTS = "candidate_counts"

#: A step on a table of queries.
TableStep = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class Mined:
    """Mine for a table of queries and count the candidates, without writing intermediate results.

    Args:
        search: The steps that find, score and sort the candidates.
        limits: The steps that drop candidates by score.
        sampler: The step that selects the negatives.
        by: The name of the scores to keep.

    Columns written:
        `negative_ids`, the two score columns, and `candidate_counts`: a list of 1 + the number of limits.
    """

    search: tuple[TableStep, ...]
    limits: tuple[TableStep, ...]
    sampler: TableStep
    by: str

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the queries with their negatives."""
        table = applied(self.search, table)
        counts = [_lengths(table)]
        for limit in self.limits:
            table = limit(table)
            counts.append(_lengths(table))
        table = self.sampler(table)
        kept = {POSITIVE_IDS, NEGATIVE_IDS, score_column(self.by), score_column(self.by, of="positive")}
        names = [name for name in table.column_names if name in kept or not name.startswith(("negative_", "positive_"))]
        offsets = np.arange(len(table) + 1) * len(counts)
        return table.select(names).append_column(
            COUNTS, list_array(offsets, pa.array(np.column_stack(counts).reshape(-1)))
        )


@dataclass(frozen=True)
class Chain:
    """Steps that are applied to a table in order."""

    steps: tuple[TableStep, ...]

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the result of the last step."""
        return applied(self.steps, table)


def applied(steps: tuple[TableStep, ...], table: pa.Table) -> pa.Table:
    """Apply several steps in order and return the result of the last."""
    return functools.reduce(lambda result, step: step(result), steps, table)


def _lengths(table: pa.Table) -> NDArray[np.int32]:
    """Return the number of candidates of each query. Shape (B,)."""
    return np.asarray(table[NEGATIVE_IDS].combine_chunks().value_lengths().to_numpy())
