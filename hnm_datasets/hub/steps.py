"""The steps on a card: those that the rows remember of `mine`, or those that a user passes, if the rows agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset

from hnm_datasets.arrays.arrow import is_list
from hnm_datasets.columns import NEGATIVE_SOURCE
from hnm_datasets.mining.names import full_name, without_model_names
from hnm_datasets.mining.report import MiningReport, reports_of
from hnm_datasets.transforms.base import Transform
from hnm_datasets.transforms.miners.base import Miner
from hnm_datasets.transforms.miners.fusion import FuseNegatives

#: Listed among the steps in place of other operations that mined or changed the rows.
UNRECORDED = "(unrecorded operations)"
#: Rows to read at a time.
_ROWS = 10_000


def steps_of(owner: str, splits: Mapping[str, Dataset], given: Sequence[object]) -> list[str]:
    """Return the steps as the card shows them.

    Args:
        owner: The name of the calling function, for error messages.
        splits: The rows of each split.
        given: The steps that the user passes; empty: use the steps that the rows remember.

    Raises:
        ValueError: The given steps contradict the rows, or no steps are given and the rows were mined with different
            steps.
    """
    texts = [step if isinstance(step, str) else full_name(step) for step in given]
    remembered = dict[tuple[str, ...], list[str]]()
    for rows in splits.values():
        for steps in _remembered(rows):
            # Some rows with the same steps may have been changed later.
            known = tuple(without_model_names(step) for step in steps if step != UNRECORDED)
            remembered[known] = max(remembered.get(known, []), steps, key=len)
    if given:
        for known, steps in remembered.items():
            _check_given(owner, texts, known, steps)
        for split, rows in splits.items():
            _check_sources(owner, split, rows, given)
        return texts
    if len(remembered) > 1:
        raise ValueError(
            f"{owner}: the rows were mined with different steps, but a card shows one list of steps: "
            f"{' and '.join(map(_listed, remembered.values()))}. Publish them separately, or pass steps= with all of "
            f"these."
        )
    return next(iter(remembered.values()))


def report_of(splits: Mapping[str, Dataset]) -> dict[str, Any] | None:
    """Return the report of `mine` for the first split, in the form of the record.

    None if the rows changed after `mine` returned them, because the counts would be wrong.
    """
    split, rows = next(iter(splits.items()))
    reports = reports_of(rows)
    if len(reports) != 1 or not reports[0].is_of(rows):
        return None
    return {"split": split, "numbers": reports[0].to_dict()}


def in_order(known: Iterable[str], steps: Iterable[str]) -> bool:
    """Return whether the steps include the known steps, in the same order; names of models are ignored."""
    rest = map(without_model_names, steps)
    return all(without_model_names(step) in rest for step in known)


def _remembered(rows: Dataset) -> list[list[str]]:
    """Return the steps of each mining that the rows remember; one empty list if they remember none."""
    reports = reports_of(rows)
    joined = len(reports) > 1
    return [_texts(report, changed=joined or not report.is_of(rows)) for report in reports] or [[]]


def _texts(report: MiningReport, *, changed: bool) -> list[str]:
    texts = []
    for one in report.steps:
        texts += [UNRECORDED, one.step] if one.after_unrecorded else [one.step]
    return [*texts, UNRECORDED] if changed else texts


def _check_given(owner: str, given: Sequence[str], known: Sequence[str], steps: Sequence[str]) -> None:
    """Raise unless the given steps include the known steps in order; more are allowed if some are unrecorded."""
    if in_order(known, given) and (len(known) < len(steps) or not steps or len(given) == len(known)):
        return
    raise ValueError(
        f"{owner}: steps= contradicts the steps that the rows remember. Passed: {_listed(given)}. Remembered: "
        f"{_listed(steps)}. Leave steps= out to show the remembered steps, or pass all of them in this order."
    )


def _check_sources(owner: str, split: str, rows: Dataset, given: Sequence[object]) -> None:
    """Raise if the negatives do not come from the last miner in the given steps."""
    sources = _sources(given)
    if sources is None or NEGATIVE_SOURCE not in rows.column_names:
        return
    found = {part for source in _values(rows, NEGATIVE_SOURCE) for part in source.split("+")}
    if others := sorted(found - sources):
        raise ValueError(
            f"{owner}: according to steps= the negatives come from {sorted(sources)}, but the column "
            f"{NEGATIVE_SOURCE!r} of the split {split!r} names {others}. Pass the steps that mined these rows."
        )


def _sources(given: Iterable[object]) -> set[str] | None:
    """Return the sources that the steps write to `negative_source`; None if they are unknown."""
    sources: set[str] | None = None
    for step in given:
        if isinstance(step, Miner):
            sources = set(step.source.split("+"))
        elif isinstance(step, FuseNegatives):
            sources = set(step.miners)
        elif not isinstance(step, Transform) or NEGATIVE_SOURCE in step.output_columns:
            # A step given as text or as a function may write any source.
            return None
    return sources


def _values(rows: Dataset, name: str) -> set[str]:
    """Return the distinct strings in a column of lists."""
    found: set[str] = set()
    for table in rows.select_columns([name]).with_format("arrow").iter(_ROWS):
        column = table[name]
        values = pc.list_flatten(column) if is_list(column.type) else column
        found.update(value for value in pc.unique(values).to_pylist() if isinstance(value, str))
    return found


def _listed(steps: Sequence[str]) -> str:
    return f"[{', '.join(steps)}]" if steps else "nothing"
