"""The steps on a card: what the rows remember of `mine`, or what their author says and the rows do not contradict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset

from hnm_datasets.arrays.arrow import is_list
from hnm_datasets.columns import NEGATIVE_SOURCE
from hnm_datasets.mining.names import full_name
from hnm_datasets.mining.report import MiningReport, reports_of
from hnm_datasets.transforms.base import Transform
from hnm_datasets.transforms.miners.base import Miner
from hnm_datasets.transforms.miners.fusion import FuseNegatives

#: Stands among the steps where the rows were mined or changed otherwise.
UNRECORDED = "(operations that are not recorded)"
#: Rows that are read at a time.
_ROWS = 10_000


def steps_of(owner: str, splits: Mapping[str, Dataset], told: Sequence[object]) -> list[str]:
    """Return the steps as the card shows them.

    Args:
        owner: Who asks, for the errors.
        splits: The rows of each split.
        told: The steps that the author names; empty: only what the rows remember.

    Raises:
        ValueError: What is told contradicts what the rows remember or hold, or nothing is told and the rows are of
            several minings.
    """
    named = [step if isinstance(step, str) else full_name(step) for step in told]
    remembered = dict[tuple[str, ...], list[str]]()
    for rows in splits.values():
        for steps in _remembered(rows):
            # Of the same steps, a part of the rows may have been changed since.
            known = tuple(step for step in steps if step != UNRECORDED)
            remembered[known] = max(remembered.get(known, []), steps, key=len)
    if told:
        for known, steps in remembered.items():
            _check_told(owner, named, known, steps)
        for split, rows in splits.items():
            _check_sources(owner, split, rows, told)
        return named
    if len(remembered) > 1:
        raise ValueError(
            f"{owner}: the rows are of several minings, and a card has one list of steps: "
            f"{' and '.join(map(_listed, remembered.values()))}. Publish them one by one, or pass steps= with all of "
            f"these."
        )
    return next(iter(remembered.values()))


def report_of(splits: Mapping[str, Dataset]) -> dict[str, Any] | None:
    """Return what each step of `mine` left of the first split, as the record holds it.

    None where its rows are not those that `mine` returned, because the numbers would be of other rows.
    """
    split, rows = next(iter(splits.items()))
    reports = reports_of(rows)
    if len(reports) != 1 or not reports[0].is_of(rows):
        return None
    return {"split": split, "numbers": reports[0].to_dict()}


def in_order(known: Iterable[str], steps: Iterable[str]) -> bool:
    """Tell whether the known steps are among the steps, in their order."""
    rest = iter(steps)
    return all(step in rest for step in known)


def _remembered(rows: Dataset) -> list[list[str]]:
    """Return the steps of each mining that the rows remember: one without steps if they remember none."""
    reports = reports_of(rows)
    joined = len(reports) > 1
    return [_texts(report, changed=joined or not report.is_of(rows)) for report in reports] or [[]]


def _texts(report: MiningReport, *, changed: bool) -> list[str]:
    texts = []
    for one in report.steps:
        texts += [UNRECORDED, one.step] if one.after_unrecorded else [one.step]
    return [*texts, UNRECORDED] if changed else texts


def _check_told(owner: str, told: Sequence[str], known: Sequence[str], steps: Sequence[str]) -> None:
    """Raise unless the steps that are known are told in their order; more only where some are not recorded."""
    if in_order(known, told) and (len(known) < len(steps) or not steps or len(told) == len(known)):
        return
    raise ValueError(
        f"{owner}: steps= contradicts what the rows remember. Told: {_listed(told)}. Remembered: {_listed(steps)}. "
        f"Leave steps= out, and the card shows what the rows remember; or pass all of these in their order."
    )


def _check_sources(owner: str, split: str, rows: Dataset, told: Sequence[object]) -> None:
    """Raise if the candidates come from another source than the last miner that is told."""
    sources = _sources(told)
    if sources is None or NEGATIVE_SOURCE not in rows.column_names:
        return
    found = {part for source in _values(rows, NEGATIVE_SOURCE) for part in source.split("+")}
    if others := sorted(found - sources):
        raise ValueError(
            f"{owner}: by steps= the negatives come from {sorted(sources)}, and the column {NEGATIVE_SOURCE!r} of the "
            f"split {split!r} names {others}. Pass the steps that mined these rows."
        )


def _sources(told: Iterable[object]) -> set[str] | None:
    """Return the parts of what the steps write to `negative_source`; None where that cannot be known."""
    sources: set[str] | None = None
    for step in told:
        if isinstance(step, Miner):
            sources = set(step.source.split("+"))
        elif isinstance(step, FuseNegatives):
            sources = set(step.miners)
        elif not isinstance(step, Transform) or NEGATIVE_SOURCE in step.output_columns:
            # A text or a function may be anything.
            return None
    return sources


def _values(rows: Dataset, name: str) -> set[str]:
    """Return the distinct values in a column of lists."""
    found: set[str] = set()
    for table in rows.select_columns([name]).with_format("arrow").iter(_ROWS):
        column = table[name]
        values = pc.list_flatten(column) if is_list(column.type) else column
        found.update(value for value in pc.unique(values).to_pylist() if isinstance(value, str))
    return found


def _listed(steps: Sequence[str]) -> str:
    return f"[{', '.join(steps)}]" if steps else "nothing"
