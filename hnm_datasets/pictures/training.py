"""A plot of the logs of a training with dynamic negatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.pictures.installed import check_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The curves: the key in the log, the label of the panel, and the name of the curve if a panel has several.
_COURSES = (
    ("refresh_mrr", "MRR of the\ntraining queries", ""),
    ("refresh_replaced", "negatives\nreplaced (%)", ""),
    ("masked_in_batch", "masked by\nthe loss (%)", "of other rows' passages"),
    ("masked_mined", "masked by\nthe loss (%)", "of the rows' own negatives"),
)


def plot_training(log_history: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot the logs of a training with dynamic negatives.

    Args:
        log_history: `trainer.state.log_history` of a training with `RefreshNegatives` or `HardNegativesRankingLoss`.

    Returns:
        The figure, with a panel for each logged quantity: the mean reciprocal rank of the training queries' positives,
        the share of negatives that a refresh replaced, and the share of passages that the loss masked. Dotted lines
        mark the refreshes.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The history contains none of these quantities.

    Example:
        >>> history = [
        ...     {"step": 100, "refresh_generation": 1.0, "refresh_mrr": 0.71, "refresh_replaced": 0.94},
        ...     {"step": 200, "refresh_generation": 2.0, "refresh_mrr": 0.95, "refresh_replaced": 0.4},
        ... ]
        >>> plot_training(history).axes[0].get_title(loc="left").splitlines()
        ['MRR of the training queries: 0.71 → 0.95', 'The last refresh replaced 40% of the negatives']
    """
    name = "plot_training"
    check_matplotlib(name)
    # Entries of the loss repeat the numbers of a generation.
    curves = {
        key: points
        for key, *_ in _COURSES
        if len(points := _course(log_history, key, with_loss=key.startswith("masked")))
    }
    if not curves:
        there = sorted({key for entry in log_history for key in entry})
        raise ValueError(
            f"{name}: the history has none of {[key for key, *_ in _COURSES]}, only {there}. Pass "
            f"trainer.state.log_history of a training with the callback RefreshNegatives, or with "
            f"HardNegativesRankingLoss and fewer logging_steps than steps."
        )
    from hnm_datasets.pictures.drawing import GREY, LARGE, SERIES, SMALL, Picture, finish

    marks = [curves[key][:, 0].tolist() for key in ("refresh_mrr", "refresh_replaced") if key in curves]
    labels = list(dict.fromkeys(label for key, label, _ in _COURSES if key in curves))
    figure = Picture(1.3 + 1.55 * len(labels), layout="constrained")
    panels = dict(zip(labels, figure.subplots(len(labels), 1, sharex=True, squeeze=False)[:, 0], strict=True))
    for place, (key, label, part) in enumerate(_COURSES):
        if key not in curves:
            continue
        look, (steps, values) = SERIES[place], curves[key].T
        values = values if key == "refresh_mrr" else 100 * values
        panels[label].plot(
            steps,
            values,
            color=look.color,
            marker=look.marker,
            markersize=6,
            linewidth=1.5,
            label=part,
            clip_on=False,
            zorder=3,
        )
        panels[label].set_ylabel(label, fontsize=SMALL)
    for label, axes in panels.items():
        finish(axes)
        axes.set_xlim(left=0)
        if "%" in label:
            axes.set_ylim(bottom=0)
        for step in marks[0] if marks else []:
            axes.axvline(step, color=GREY, linestyle=":", linewidth=1.5, zorder=0, label="refresh")
        named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        named = {
            text: handle for text, handle in named.items() if text and (axes is figure.axes[0] or text != "refresh")
        }
        if named:
            axes.legend(named.values(), named.keys(), frameon=False, fontsize=SMALL, loc="best")
    figure.axes[-1].set_xlabel("optimizer step", fontsize=SMALL)
    figure.axes[0].set_title(_summary(curves), fontsize=LARGE, loc="left")
    return figure


def _course(log_history: Sequence[Mapping[str, Any]], key: str, *, with_loss: bool) -> NDArray[np.float64]:
    """Return the steps and values of one key in the log. Shape (T, 2)."""
    points = [(one["step"], one[key]) for one in log_history if key in one and ("loss" in one) == with_loss]
    return np.array(sorted(points), dtype=np.float64).reshape(-1, 2)


def _summary(curves: Mapping[str, NDArray[np.float64]]) -> str:
    """Return a title with the main results of the training."""
    from hnm_datasets.pictures.drawing import percent

    lines = []
    if "refresh_mrr" in curves:
        ranks = curves["refresh_mrr"][:, 1]
        lines.append(f"MRR of the training queries: {ranks[0]:.2f}" + (f" → {ranks[-1]:.2f}" if len(ranks) > 1 else ""))
    if "refresh_replaced" in curves:
        lines.append(f"The last refresh replaced {percent(curves['refresh_replaced'][-1, 1])} of the negatives")
    if not lines:
        parts = {"masked_in_batch": "of other rows' passages", "masked_mined": "of the rows' own negatives"}
        shares = (f"{percent(curves[key][-1, 1])} {part}" for key, part in parts.items() if key in curves)
        lines.append(f"In the end the loss masks {' and '.join(shares)}")
    return "\n".join(lines)
