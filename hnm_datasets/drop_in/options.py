"""The options of `mine_hard_negatives`, checked."""

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
        raise ValueError(f"mine_hard_negatives needs a column of anchors and one of positives; there is only {names}.")
    for option, column in (("anchor_column_name", anchor), ("positive_column_name", positive)):
        if column is not None and column not in names:
            raise KeyError(f"mine_hard_negatives: {option}={column!r} is no column; there are {names}.")
    anchor, positive = anchor or names[0], positive or names[1]
    if anchor == positive:
        raise ValueError(
            f"mine_hard_negatives: {anchor!r} is the column of anchors and of positives. Name both: "
            f"anchor_column_name=, positive_column_name=."
        )
    return anchor, positive


def check_kept_columns(dataset: Dataset, anchor: str, positive: str) -> None:
    """Raise if a further column has a name that mining gives to a column of its own."""
    own = {QUERY, "anchor", "positive", HIDDEN, COUNTS, "passage", "passages"}
    own |= {f"{name}{plural}" for name in ("label", "score", "passage_score") for plural in ("", "s")}
    for name in dataset.column_names:
        if name not in (anchor, positive) and (name in own or name.startswith(("negative", "positive_"))):
            raise ValueError(
                f"mine_hard_negatives: the column {name!r} cannot be kept, because mining writes one of this name. "
                f"Rename it: dataset.rename_column({name!r}, ...), or remove it."
            )


def check_range(num_negatives: int, range_min: int, range_max: int) -> None:
    """Raise if the ranks leave fewer candidates than negatives are wanted."""
    range_max = checks.whole_number("mine_hard_negatives", "range_max", range_max, low=1)
    if num_negatives > range_max - range_min:
        raise ValueError(
            f"mine_hard_negatives: cannot take {num_negatives} negatives of the {max(0, range_max - range_min)} ranks "
            f"between range_min={range_min} and range_max={range_max}. Lower num_negatives or range_min, or raise "
            f"range_max."
        )


def check_scores(min_score: float | None, max_score: float | None) -> None:
    """Raise if no score can lie between the two."""
    for option, value in (("min_score", min_score), ("max_score", max_score)):
        if value is not None:
            checks.real_number("mine_hard_negatives", option, value)
    if min_score is not None and max_score is not None and max_score < min_score:
        raise ValueError(
            f"mine_hard_negatives: no score is at least min_score={min_score} and at most max_score={max_score}. "
            f"Swap them, or leave one out."
        )


def warn_of_positives(
    range_min: int, range_max: int | None, limits: Mapping[str, float], sampling_strategy: str
) -> None:
    """Warn if options may drop the positives that `include_positives=True` leaves among the candidates."""
    changed = [
        *(["range_min"] if range_min else []),
        *(["range_max"] if range_max is not None else []),
        *limits,
        *(["sampling_strategy"] if sampling_strategy != "top" else []),
    ]
    if changed:
        logger.warning(
            "mine_hard_negatives: with include_positives=True, %s may still discard the positive values. Leave %s out "
            "to keep all positives.",
            ", ".join(changed),
            "it" if len(changed) == 1 else "them",
        )


def warn_of_order(range_min: int, limits: Mapping[str, float], *, rescored: bool) -> None:
    """Warn if `range_min` skips other candidates than in the function of sentence-transformers."""
    # A lower limit drops candidates from the end of the list, unless a cross-encoder has put them in another order.
    before = [limit for limit in limits if limit != "min_score" or rescored]
    if before:
        logger.warning(
            "mine_hard_negatives: range_min=%d skips the first %d ranks of the retriever's list, then %s. "
            "sentence_transformers.util.mine_hard_negatives applies range_min last, to the candidates that are left, "
            "so its negatives differ.",
            range_min,
            range_min,
            f"{' and '.join(before)} drop{'s' if len(before) == 1 else ''} candidates",
        )


def chosen_prompt(model: Any, prompt: str | None, name: str | None) -> str | None:
    """Return the prompt, or the model's prompt of this name; None without either."""
    if prompt is not None or name is None:
        return prompt
    if name not in model.prompts:
        raise KeyError(f"mine_hard_negatives: the model has no prompt {name!r}, only {sorted(model.prompts)}.")
    return str(model.prompts[name])


def chosen_devices(use_multi_process: list[str] | bool) -> Sequence[str] | None:
    """Return the devices to encode on: one process for each; None: only this one."""
    if not isinstance(use_multi_process, bool):
        return use_multi_process
    if not use_multi_process:
        return None
    import torch

    return [f"cuda:{place}" for place in range(torch.cuda.device_count())] or ["cpu"] * 4
