"""A chain of steps in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from datasets import Dataset

from hnm_datasets import checks
from hnm_datasets.columns import NEGATIVE_IDS
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.mining.counting import corpus_of, count_shape, count_step
from hnm_datasets.mining.memory import with_memory
from hnm_datasets.mining.names import plain_name
from hnm_datasets.mining.report import MiningReport, StepCounts, reports_of
from hnm_datasets.rows import Rows, dataset_of
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
    """Map steps one after another, and print what each one left and how hard it is.

    The rows are those of `.map(step, batched=True)` for each step, and of a shape `.map(step, batched=True,
    remove_columns=rows.column_names)`. What is cached is not made again, also of rows that were made in memory, which
    are first written to the cache directory.

    The rows remember their steps and these numbers, through `select`, `train_test_split`, `save_to_disk` and the like:
    `save_mined` and `push_mined` write the steps and the table on the card without being told, and
    `MiningReport.of(mined)` returns the table, with examples of what each filter dropped.

    Args:
        rows: The rows to mine for: a `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists.
        steps: The steps in order. A function that `.map(..., batched=True)` takes is a step too.
        num_proc: The number of processes, see `Dataset.map`.
        batch_size: Rows that a step is given at a time.

    Returns:
        The rows that the last step leaves.

    Raises:
        TypeError: `rows` is something else, such as a stream, or a step is none.
        ValueError: There are no rows or steps, `rows` has several splits, or a step leaves no row at all; the message
            names it.

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
          hardness: candidates' mean score less their positives', by the retriever; above: how many score higher.
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
    """Do what `mine` does, and show the table in another way."""
    rows = dataset_of(rows, "mine")
    if not len(rows):
        raise ValueError("mine: there are no rows to mine for.")
    _check_steps(steps)
    batch_size = checks.whole_number("mine", "batch_size", batch_size, low=1)
    before = reports_of(rows)
    known = before[0].steps if len(before) == 1 else ()
    # Without a report, candidates show that something was mined; with several, rows of several minings were joined.
    unrecorded = not before[0].is_of(rows) if len(before) == 1 else NEGATIVE_IDS in rows.column_names
    rows, counts = kept_rows(rows), list[StepCounts]()
    corpora = list(map(corpus_of, steps))
    for place, step in enumerate(steps):
        # The passages are those of the step itself, else of the steps before it, else of the steps after it.
        held = (*corpora[place::-1], *corpora[place + 1 :])
        corpus = next((one for one in held if one is not None), None)
        # What is said of the rows is said once, when they are counted or mapped; the table says which are short.
        with one_call(f"{plain_name(step)}: short rows"):
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
    """Map a step and count what it did; None where it leaves no row."""
    run = partial(rows.map, step, batched=True, batch_size=batch_size, num_proc=num_proc, desc=plain_name(step))
    if not isinstance(step, Shape):
        mapped = run()
        found = count_step(step, rows, mapped, after_unrecorded=after_unrecorded, corpus=corpus)
        return mapped if len(mapped) else None, found
    found = count_shape(step, rows, after_unrecorded=after_unrecorded)
    if not found.rows_out:
        # `map` would return the old columns, without a row.
        return None, found
    mapped = run(remove_columns=rows.column_names)
    return mapped, replace(found, rows_out=len(mapped))


def _show(report: MiningReport) -> None:
    print(report)  # noqa: T201


def _nothing_left(counts: Sequence[StepCounts]) -> str:
    last = counts[-1]
    emptied = next((one for one in counts[:-1] if not one.candidates_out), None)
    if emptied is not None and emptied.candidates_in:
        return (
            f"mine: {last.name} left none of {last.rows_in:,} rows, because {emptied.name} had dropped all "
            f"{emptied.candidates_in:,} candidates. Leave that step out or widen it: explain(rows[0], corpus, "
            f"steps=[...]) shows what it reads of a row before it."
        )
    if emptied is not None:
        return (
            f"mine: {last.name} left none of {last.rows_in:,} rows, because there was no candidate after "
            f"{emptied.name}. Begin with a step that mines, or see why it found nothing."
        )
    return (
        f"mine: {last.name} left none of {last.rows_in:,} rows, of which {last.short or 0:,} are short of negatives or "
        f"have no positive. Mine with a larger k, widen the filters, ask for fewer (n=), or choose what happens to "
        f"short rows: missing='keep' or 'pad'."
    )


def _check_steps(steps: object) -> None:
    if not isinstance(steps, (list, tuple)):
        raise TypeError(f"mine: steps must be a list of steps, got {type(steps).__name__}: mine(rows, [step, ...]).")
    if not steps:
        raise ValueError("mine: there are no steps. Begin with one that mines, such as BM25Negatives(corpus).")
    for number, step in enumerate(steps, start=1):
        # `RefreshNegatives` takes classes and partials, which wait for a model.
        made = step.func if isinstance(step, partial) else step
        if isinstance(made, type):
            raise TypeError(f"mine: step {number} is {made.__name__}, which is not made yet: {made.__name__}(...).")
        if not callable(step):
            raise TypeError(
                f"mine: step {number} must be a step such as BM25Negatives(corpus), or a function of a batch, got "
                f"{type(step).__name__}."
            )
