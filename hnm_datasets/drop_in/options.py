"""Validation of the options of `mine_hard_negatives`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from hnm_datasets import checks
from hnm_datasets.columns import QUERY
from hnm_datasets.drop_in.chain import COUNTS
from hnm_datasets.drop_in.rows import HIDDEN

logger = logging.getLogger(__name__)


def chosen_columns(dataset: Dataset, anchor: str | None, positive: str | None) -> tuple[str, str]:
    """Return the columns of anchors and positives: the named ones, or the first two."""
    if len(dataset) == 0:
        raise ValueError("mine_hard_negatives: the dataset is empty; it needs at least one (anchor, positive) pair.")
    names = dataset.column_names
    if len(names) < 2:
        raise ValueError(f"mine_hard_negatives requires a column of anchors and a column of positives, got {names}.")
    for option, column in (("anchor_column_name", anchor), ("positive_column_name", positive)):
        if column is not None and column not in names:
            raise KeyError(f"mine_hard_negatives: {option}={column!r} is not a column; the columns are {names}.")
    anchor, positive = anchor or names[0], positive or names[1]
    if anchor == positive:
        raise ValueError(
            f"mine_hard_negatives: {anchor!r} is the column of both anchors and positives. Set both "
            f"anchor_column_name= and positive_column_name=."
        )
    return anchor, positive


def check_kept_columns(dataset: Dataset, anchor: str, positive: str) -> None:
    """Raise an error if another column has a name that mining uses."""
    own = {QUERY, "anchor", "positive", HIDDEN, COUNTS, "passage", "passages"}
    own |= {f"{name}{plural}" for name in ("label", "score", "passage_score") for plural in ("", "s")}
    for name in dataset.column_names:
        if name not in (anchor, positive) and (name in own or name.startswith(("negative", "positive_"))):
            raise ValueError(
                f"mine_hard_negatives: the column {name!r} cannot be kept, because mining writes a column with this "
                f"name. Rename it with dataset.rename_column({name!r}, ...), or remove it."
            )


def check_range(num_negatives: int, range_min: int, range_max: int) -> None:
    """Raise an error if the ranks leave fewer candidates than the requested negatives."""
    range_max = checks.whole_number("mine_hard_negatives", "range_max", range_max, low=1)
    if num_negatives > range_max - range_min:
        raise ValueError(
            f"mine_hard_negatives: cannot take {num_negatives} negatives from {max(0, range_max - range_min)} ranks "
            f"between range_min={range_min} and range_max={range_max}. Decrease num_negatives or range_min, or "
            f"increase range_max."
        )


def check_scores(min_score: float | None, max_score: float | None) -> None:
    """Raise an error if no score can be between the two."""
    for option, value in (("min_score", min_score), ("max_score", max_score)):
        if value is not None:
            checks.real_number("mine_hard_negatives", option, value)
    if min_score is not None and max_score is not None and max_score < min_score:
        raise ValueError(
            f"mine_hard_negatives: no score is at least min_score={min_score} and at most max_score={max_score}. "
            f"Swap them, or omit one."
        )


def warn_of_positives(
    range_min: int, range_max: int | None, limits: Mapping[str, float], sampling_strategy: str
) -> None:
    """Warn if options may drop the positives that `include_positives=True` keeps."""
    changed = [
        *(["range_min"] if range_min else []),
        *(["range_max"] if range_max is not None else []),
        *limits,
        *(["sampling_strategy"] if sampling_strategy != "top" else []),
    ]
    if changed:
        logger.warning(
            "mine_hard_negatives: with include_positives=True, %s may still discard positives. Omit %s to keep all "
            "positives.",
            ", ".join(changed),
            "it" if len(changed) == 1 else "them",
        )


def warn_of_order(range_min: int, limits: Mapping[str, float], *, rescored: bool) -> None:
    """Warn if `range_min` skips other candidates than the function of sentence-transformers."""
    # `min_score` drops candidates from the end of the list, unless a cross-encoder has reordered them.
    before = [limit for limit in limits if limit != "min_score" or rescored]
    if before:
        logger.warning(
            "mine_hard_negatives: range_min=%d skips the first %d ranks of the retriever's list, then %s. "
            "sentence_transformers.util.mine_hard_negatives applies range_min last, to the remaining candidates, so "
            "its negatives differ.",
            range_min,
            range_min,
            f"{' and '.join(before)} drop{'s' if len(before) == 1 else ''} candidates",
        )


def chosen_prompt(model: Any, prompt: str | None, name: str | None) -> str | None:
    """Return the prompt, or the model's prompt with this name, or None."""
    if prompt is not None or name is None:
        return prompt
    if name not in model.prompts:
        raise KeyError(f"mine_hard_negatives: the model has no prompt {name!r}, only {sorted(model.prompts)}.")
    return str(model.prompts[name])


def chosen_devices(use_multi_process: list[str] | bool) -> Sequence[str] | None:
    """Return the devices for encoding, one process per device; None to encode in this process."""
    if not isinstance(use_multi_process, bool):
        return use_multi_process
    if not use_multi_process:
        return None
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"] * 4
