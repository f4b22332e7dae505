"""Checks of the columns that the steps of a refresh need, before training starts."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import Any

from hnm_datasets.columns import (
    NEGATIVE_IDS,
    NEGATIVE_RANKS,
    NEGATIVE_SCORES,
    NEGATIVE_SOURCE,
    POSITIVE_IDS,
    POSITIVE_SCORES,
    score_column,
)
from hnm_datasets.missing_columns import remedy_of
from hnm_datasets.training.live_texts import LiveTexts
from hnm_datasets.training.refresh_job import Step
from hnm_datasets.transforms.base import Transform

#: The columns that any miner writes.
_MINED = (NEGATIVE_IDS, NEGATIVE_SCORES, NEGATIVE_RANKS, NEGATIVE_SOURCE, POSITIVE_SCORES)


def check_columns(steps: Sequence[Step], source: LiveTexts) -> None:
    """Raise if a step needs a column that is not in the rows and that no earlier step writes."""
    there = {name for name in source.rows.column_names if not name.startswith(("negative_", "positive_"))}
    there.add(POSITIVE_IDS)
    for step in steps:
        if isinstance(step, Transform):
            missing = [name for name in step.input_columns if name not in there]
            if missing:
                remedy = remedy_of(missing[0], sorted(there), step._option_of(missing[0]))
                raise ValueError(
                    f"RefreshNegatives: the step {type(step).__name__} needs the columns {missing}, but no earlier "
                    f"step writes them. Available columns: {sorted(there)}. Add an earlier step or change the options: "
                    f"{remedy}."
                )
            there |= {name for name in step.output_columns if "*" not in name}
            continue
        made: Any = step.func if isinstance(step, partial) else step
        if not inspect.isclass(made) or not issubclass(made, Transform):
            # The columns of a step from an unknown function are unknown.
            return
        options = step.keywords if isinstance(step, partial) else {}
        names = {one.name: one.default for one in fields(made)}
        if "name" in names:
            teacher = options.get("name", names["name"])
            there |= {score_column(teacher), score_column(teacher, of="positive")}
        else:
            there |= set(_MINED)
    wanted = (
        () if source.teacher is None else (score_column(source.teacher), score_column(source.teacher, of="positive"))
    )
    missing = [name for name in wanted if name not in there]
    if missing:
        raise ValueError(
            f"RefreshNegatives: the rows need the scores of the teacher {source.teacher!r}, but no step writes the "
            f"columns {missing}. Add a step that does, such as CrossEncoderScores(corpus, model, "
            f"name={source.teacher!r})."
        )
