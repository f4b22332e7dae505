"""Run a chain of steps in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from datasets import Dataset

from hnm_datasets import checks
from hnm_datasets.columns import NEGATIVE_IDS
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.loaders.pooling import pool_missing_positives
from hnm_datasets.mining.counting import corpus_of, count_shape, count_step
from hnm_datasets.mining.memory import with_memory
from hnm_datasets.mining.names import plain_name
from hnm_datasets.mining.report import MiningReport, StepCounts, reports_of
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.runtime.interrupts import interruptible
from hnm_datasets.runtime.notices import one_call
from hnm_datasets.storage.kept_rows import content_digest, kept_rows
from hnm_datasets.transforms.shapes.base import Shape


def mine(
    rows: Rows,
    steps: Sequence[Callable[[Any], Any]],
    *,
    num_proc: int | None = None,
    batch_size: int = 1000,
) -> Dataset:
    """Map several steps in order, and print how many candidates each step leaves and how hard they are.

    The result is the same as calling `.map(step, batched=True)` for each step, or for a shape `.map(step, batched=True,
    remove_columns=rows.column_names)`. Cached results are reused. This includes rows that were created in memory, which
    are first written to the cache directory. If rows with the same question have different positives, they are first
    pooled in the column `known_positive_ids`, as by `pool_positives`.

    The rows store their steps and these numbers, and keep them through `select`, `train_test_split`, `save_to_disk` and
    similar methods. `save_mined` and `push_mined` automatically add the steps and the table to the dataset card.
    `MiningReport.of(mined)` returns the table, with examples of the candidates that each filter dropped.

    Args:
        rows: The rows to mine for: a `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists.
        steps: The steps in order. A step can also be a function for `.map(..., batched=True)`.
        num_proc: The number of processes, see `Dataset.map`.
        batch_size: Rows per batch.

    Returns:
        The rows after the last step.

    Raises:
        TypeError: `rows` has an unsupported type, such as a stream, or a step is not a step.
        ValueError: There are no rows or steps, `rows` has several splits, or a step leaves no rows; the message names
            the step.

    Example:
        >>> from hnm_datasets import BM25Negatives, RankWindow, ToTriplets, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> triplets = mine(queries, [BM25Negatives(corpus, k=4), RankWindow(2), ToTriplets(corpus)])
        mine: 1 row became 3 rows with 3 negatives.
        <BLANKLINE>
          step                rows  candidates  mined  dropped      %  left  hardness  above  rows left  empty  short
          BM25Negatives(k=4)     1           0      4        0      -     4    +0.134  50.0%          1      0      0
          RankWindow(min=2)      1           4      -        1  25.0%     3   -0.0651  33.3%          1      0      -
          ToTriplets             1           3      -        0   0.0%     3   -0.0651  33.3%          3      0      0
          hardness: candidates' mean score minus their positives', by the retriever; closer to 0 or above it is harder.
          above: share scoring higher; empty: rows without candidates (of a shape: dropped); short: fewer than k or n.
        >>> triplets.column_names
        ['anchor', 'positive', 'negative']
    """
    return mined_with(rows, steps, _show, num_proc=num_proc, batch_size=batch_size)


def mined_with(
    rows: Rows,
    steps: Sequence[Callable[[Any], Any]],
    show: Callable[[MiningReport], None],
    *,
    num_proc: int | None = None,
    batch_size: int = 1000,
) -> Dataset:
    """Do the same as `mine`, with a function that shows the table."""
    rows = dataset_of(rows, "mine")
    if not len(rows):
        raise ValueError("mine: there are no rows to mine for.")
    _check_steps(steps)
    batch_size = checks.whole_number("mine", "batch_size", batch_size, low=1)
    before = reports_of(rows)
    known = before[0].steps if len(before) == 1 else ()
    # Without a report, existing candidates show that the rows were mined. Several reports mean concatenated rows.
    unrecorded = not before[0].is_of(rows) if len(before) == 1 else NEGATIVE_IDS in rows.column_names
    rows, counts = kept_rows(pool_missing_positives(rows, "mine")), list[StepCounts]()
    corpora = list(map(corpus_of, steps))
    for number, step in enumerate(steps):
        # Use the corpus of the step itself, else of an earlier step, else of a later step.
        candidates = (*corpora[number::-1], *corpora[number + 1 :])
        corpus = next((one for one in candidates if one is not None), None)
        # Counting and mapping warn about the same rows, so warn only once. The table shows how many rows are short.
        explain = partial(_explain_interrupt, plain_name(step), number, len(steps))
        with one_call(f"{plain_name(step)}: short rows"), interruptible(explain):
            mapped, found = _mapped(
                step, rows, after_unrecorded=unrecorded, corpus=corpus, num_proc=num_proc, batch_size=batch_size
            )
        counts.append(found)
        if mapped is None:
            show(MiningReport(tuple(counts), ""))
            raise ValueError(_nothing_left(counts))
        rows, unrecorded = mapped, False
    report = MiningReport((*known, *counts), content_digest(rows))
    show(replace(report, steps=tuple(counts)))
    return with_memory(rows, report.to_dict())


def _mapped(
    step: Callable[[Any], Any],
    rows: Dataset,
    *,
    after_unrecorded: bool,
    corpus: Corpus | None,
    num_proc: int | None,
    batch_size: int,
) -> tuple[Dataset | None, StepCounts]:
    """Map a step and count its effects; the rows are None if none are left."""
    run = partial(rows.map, step, batched=True, batch_size=batch_size, num_proc=num_proc, desc=plain_name(step))
    if not isinstance(step, Shape):
        mapped = run()
        found = count_step(step, rows, mapped, after_unrecorded=after_unrecorded, corpus=corpus)
        return mapped if len(mapped) else None, found
    found = count_shape(step, rows, after_unrecorded=after_unrecorded)
    if not found.rows_out:
        # `map` would return no rows with the old columns.
        return None, found
    mapped = run(remove_columns=rows.column_names)
    return mapped, replace(found, rows_out=len(mapped))


def _explain_interrupt(step: str, done: int, steps: int) -> str:
    return (
        f"mine was interrupted at step {done + 1} of {steps}, {step}. The steps before it, and finished indexes, "
        f"vectors and scores of models are in the cache directory. Repeat the call to resume."
    )


def _show(report: MiningReport) -> None:
    print(report)  # noqa: T201


def _nothing_left(counts: Sequence[StepCounts]) -> str:
    last = counts[-1]
    emptied = next((one for one in counts[:-1] if not one.candidates_out), None)
    if emptied is not None and emptied.candidates_in:
        return (
            f"mine: {last.name} left none of {last.rows_in:,} rows, because {emptied.name} had dropped all "
            f"{emptied.candidates_in:,} candidates. Remove or loosen that step: explain(rows[0], corpus, steps=[...]) "
            f"shows its limits and the values of a row."
        )
    if emptied is not None:
        return (
            f"mine: {last.name} left none of {last.rows_in:,} rows, because there were no candidates after "
            f"{emptied.name}. Start with a miner, or check why it found nothing."
        )
    return (
        f"mine: {last.name} left none of {last.rows_in:,} rows; {last.short or 0:,} have too few negatives or no "
        f"positive. Mine with a larger k, loosen the filters, request fewer (n=), or choose how to handle such rows: "
        f"missing='keep' or 'pad'."
    )


def _check_steps(steps: object) -> None:
    if not isinstance(steps, (list, tuple)):
        raise TypeError(f"mine: steps must be a list of steps, got {type(steps).__name__}: mine(rows, [step, ...]).")
    if not steps:
        raise ValueError("mine: there are no steps. Start with a miner, such as BM25Negatives(corpus).")
    for number, step in enumerate(steps, start=1):
        # `RefreshNegatives` accepts classes and partials, which it completes with a model; `mine` does not.
        made = step.func if isinstance(step, partial) else step
        if isinstance(made, type):
            raise TypeError(
                f"mine: step {number} is the class {made.__name__}. Pass an instance instead: {made.__name__}(...)."
            )
        if not callable(step):
            raise TypeError(
                f"mine: step {number} must be a step such as BM25Negatives(corpus), or a function of a batch, got "
                f"{type(step).__name__}."
            )
