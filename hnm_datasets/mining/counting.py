"""Count the effects of a step from the candidates before and after it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import is_list
from hnm_datasets.batch import Batch
from hnm_datasets.columns import KNOWN_POSITIVE_IDS, NEGATIVE_IDS, QUERY_ID
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.mining.examples import DroppedCandidate, dropped_examples
from hnm_datasets.mining.hardness import HardnessTally
from hnm_datasets.mining.names import full_name, short_name
from hnm_datasets.mining.report import StepCounts
from hnm_datasets.missing_columns import check_column
from hnm_datasets.transforms.base import CandidateFilter, Transform
from hnm_datasets.transforms.filters.threshold import PROMOTED_IDS, TeacherThreshold
from hnm_datasets.transforms.miners.base import Miner
from hnm_datasets.transforms.miners.fusion import FuseNegatives
from hnm_datasets.transforms.samplers.sample import SampleNegatives, TopNegatives
from hnm_datasets.transforms.shapes.base import Parts, Shape

#: Rows per batch when counting.
_ROWS = 10_000


def count_step(
    step: Callable[[Any], Any], before: Dataset, after: Dataset, *, after_unrecorded: bool, corpus: Corpus | None
) -> StepCounts:
    """Count the effects of a step that is not a shape.

    Args:
        step: The step.
        before: The rows before the step.
        after: The rows after the step.
        after_unrecorded: See `StepCounts`.
        corpus: The passages, for the texts of examples.
    """
    old, new = list_lengths(before, NEGATIVE_IDS), list_lengths(after, NEGATIVE_IDS)
    if isinstance(step, Transform) and NEGATIVE_IDS in step.output_columns:
        mined, dropped = int(new.sum()), int(old.sum())
    else:
        # If a function changes the number of rows, only the totals can be compared.
        change = new - old if len(new) == len(old) else np.array([new.sum() - old.sum()])
        mined, dropped = int(change[change > 0].sum()), int(-change[change < 0].sum())
    wanted = wanted_candidates(step)
    promotes = isinstance(step, TeacherThreshold) and step.promote
    hardness = HardnessTally(after.column_names)
    for batch in _batches(after, hardness.columns, "mine"):
        hardness.add(batch)
    examples: tuple[DroppedCandidate, ...] = ()
    # Samplers have no examples: they drop candidates only because there are too many.
    if isinstance(step, CandidateFilter) and wanted is None:
        examples = dropped_examples(step, before, after, np.flatnonzero(new < old), corpus)
    return StepCounts(
        name=short_name(step),
        step=full_name(step),
        after_unrecorded=after_unrecorded,
        rows_in=len(before),
        rows_out=len(after),
        candidates_in=int(old.sum()),
        mined=mined,
        dropped=dropped,
        candidates_out=int(new.sum()),
        empty=int((new == 0).sum()),
        short=None if wanted is None else int((new < wanted).sum()),
        promoted=int(list_lengths(after, PROMOTED_IDS).sum()) if promotes else 0,
        padding=0,
        hardness=hardness.hardness(),
        examples=examples,
    )


def count_shape(step: Shape, before: Dataset, *, after_unrecorded: bool) -> StepCounts:
    """Count the effects of a shape before it runs; `rows_out` is 0 if it creates no rows.

    Args:
        step: The shape.
        before: The rows before the shape.
        after_unrecorded: See `StepCounts`.
    """
    for name in step._required(before.column_names):
        check_column(type(step).__name__, name, before.column_names, step._option_of(name))
    hardness = HardnessTally(before.column_names)
    read = {*step._required(before.column_names), QUERY_ID, KNOWN_POSITIVE_IDS, *hardness.columns}
    tallies = []
    for batch in _batches(before, read, type(step).__name__):
        parts = Parts(step, batch)
        tally = parts.tally()
        tallies.append(tally)
        hardness.add(batch, parts.negatives.values[np.repeat(tally.stays, parts.negatives.lengths)])
    candidates = int(list_lengths(before, NEGATIVE_IDS).sum())
    used = sum(int(tally.used.sum()) for tally in tallies)
    left_out = sum(int((~tally.stays).sum()) for tally in tallies)
    return StepCounts(
        name=short_name(step),
        step=full_name(step),
        after_unrecorded=after_unrecorded,
        rows_in=len(before),
        rows_out=len(before) - left_out,
        candidates_in=candidates,
        mined=0,
        dropped=candidates - used,
        candidates_out=used,
        empty=left_out,
        short=sum(int(tally.short.sum()) for tally in tallies),
        promoted=0,
        padding=sum(int(tally.padding.sum()) for tally in tallies),
        hardness=hardness.hardness(),
    )


def _batches(rows: Dataset, names: Collection[str], step: str) -> Iterator[Batch]:
    """Yield batches with those of the named columns that exist; nothing if none do."""
    if known := [name for name in rows.column_names if name in names]:
        for table in rows.select_columns(known).with_format("arrow").iter(_ROWS):
            yield Batch(table, step=step)


def corpus_of(step: object) -> Corpus | None:
    """Return the corpus of a step, or None if it has none."""
    if isinstance(step, FuseNegatives):
        step = next(iter(step.miners.values()))
    corpus = getattr(step, "corpus", None)
    return corpus if isinstance(corpus, Corpus) else None


def list_lengths(rows: Dataset, name: str) -> NDArray[np.int64]:
    """Return the length of each row's list, 0 if the column does not exist. Shape (rows,)."""
    if name not in rows.column_names:
        return np.zeros(len(rows), dtype=np.int64)
    tables = rows.select_columns([name]).with_format("arrow").iter(_ROWS)
    return np.concatenate([np.empty(0, dtype=np.int64), *(_lengths(table[name]) for table in tables)])


def _lengths(column: pa.ChunkedArray) -> NDArray[np.int64]:
    # A column with only null values has the null type.
    if not is_list(column.type):
        return np.zeros(len(column), dtype=np.int64)
    lengths: NDArray[np.int64] = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    return lengths


def wanted_candidates(step: Callable[[Any], Any]) -> int | None:
    """Return the number of candidates that a step requests per row, or None if it does not request a number."""
    if isinstance(step, (Miner, FuseNegatives)):
        return step.k
    if isinstance(step, (TopNegatives, SampleNegatives)):
        return sum(step.n.values()) if isinstance(step.n, Mapping) else step.n
    return None
