"""A plot of the results of a pilot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hnm_datasets.pictures.installed import check_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hnm_datasets.piloting.report import Pilot, Trial


def plot_pilot(pilot: Pilot) -> Figure:
    """Plot the results of a pilot: false negatives against hardness, and the student's measure against the cost.

    On the left, better strategies are at the lower right: their negatives are hard, and few of them are false. The area
    of a point grows with the time of mining. On the right, better strategies are at the upper left: they train a good
    student in little time. The x-axis shows the seconds to mine all rows, and error bars are the 95% intervals of the
    difference to the best. A ring marks the recommended strategy. Panels without data are left out.

    Args:
        pilot: The result of `hnm_datasets.pilot`.

    Returns:
        The figure, with one or two panels.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: `pilot` is not the result of `hnm_datasets.pilot`.
        ValueError: There is nothing to draw: false negatives are unknown, and no student was trained.

    Example:
        >>> from hnm_datasets import BM25Negatives, RandomNegatives, load_sample, pilot
        >>> corpus, queries = load_sample()
        >>> strategies = {"random": [RandomNegatives(corpus, k=4)], "BM25": [BM25Negatives(corpus, k=4)]}
        >>> figure = plot_pilot(pilot(queries, corpus, strategies, sample=50, train=False))
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['false negatives (%)']
    """
    name = "plot_pilot"
    check_matplotlib(name)
    if not hasattr(pilot, "trials"):
        raise TypeError(f"{name}: expected the result of pilot(rows, corpus), got {type(pilot).__name__}.")
    from hnm_datasets.pictures.drawing import LARGE, SERIES, SMALL, Look, Picture, finish, fitted, ink

    looks = {}
    for place, trial in enumerate(one for one in pilot.trials if one.error is None):
        rounds = place // len(SERIES)
        # Filled, hollow, and then with the marker of the next color.
        marker = SERIES[(place + rounds // 2) % len(SERIES)][1]
        looks[trial.name] = Look(SERIES[place % len(SERIES)][0], marker, hollow=rounds % 2 == 1)
    mined = [trial for trial in pilot.trials if _hardness(trial) is not None]
    trained = [trial for trial in pilot.trials if trial.measures is not None]
    if not mined and not trained:
        raise ValueError(
            f"{name}: there is nothing to draw: the share of false negatives is unknown and no student was trained. "
            f"Call pilot with judgments= or teacher=, or with train=True."
        )
    figure = Picture(4.4, layout="constrained")
    panels = figure.subplots(1, 2 if mined and trained else 1, squeeze=False)[0]

    def draw(axes: Any, trial: Trial, x: float, y: float, low: float, high: float, size: float) -> None:
        look = looks[trial.name]
        axes.errorbar(
            x, y, [[y - low], [high - y]], color=look.color, marker=look.marker, markersize=size, elinewidth=1,
            capsize=3, alpha=0.9, linestyle="none", markerfacecolor="none" if look.hollow else look.color,
        )  # fmt: skip
        if trial.name == pilot.recommended:
            axes.plot(x, y, "o", markersize=size + 9, markerfacecolor="none", color=ink(), markeredgewidth=1.2)

    if mined:
        for trial in mined:
            above, rate, low, high = _hardness(trial) or (0.0, 0.0, 0.0, 0.0)
            draw(panels[0], trial, 100 * above, 100 * rate, 100 * low, 100 * high, _size(trial))
        panels[0].set_ylim(bottom=0)
        panels[0].set_xlabel("negatives above their positive (%, harder →)", fontsize=SMALL)
        panels[0].set_ylabel("false negatives (%)", fontsize=SMALL)
        panels[0].set_title("Mined negatives (area: time)", fontsize=SMALL, loc="left")
    if trained:
        for trial in trained:
            value = 100 * (trial.measures or {})[pilot.measure]
            half = 0.0 if trial.difference is None else 50 * (trial.difference.high - trial.difference.low)
            draw(panels[-1], trial, max(trial.whole_seconds or 0.0, 0.0), value, value - half, value + half, 8)
        most = max(trial.whole_seconds or 0.0 for trial in trained)
        if most > 10:
            panels[-1].set_xscale("symlog", linthresh=1)
            panels[-1].xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        panels[-1].set_xlim(left=-0.05 * most if most <= 10 else -0.2)
        panels[-1].set_xlabel("seconds to mine all rows (cheaper ←)", fontsize=SMALL)
        panels[-1].set_ylabel(f"{pilot.measure} (%)", fontsize=SMALL)
        panels[-1].set_title("Student trained on each strategy", fontsize=SMALL, loc="left")
    for axes in panels:
        finish(axes)
    handles = [
        panels[0].plot(
            [], [], look.marker, color=look.color, markerfacecolor="none" if look.hollow else look.color,
            # A dollar sign does not start a formula.
            label=fitted(label, SMALL, 150).replace("$", r"\$"),
        )[0]
        for label, look in looks.items()
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=SMALL)
    heading = "No strategy is recommended" if pilot.recommended is None else f"Recommended: {pilot.recommended}"
    figure.suptitle(fitted(heading, LARGE, 540), fontsize=LARGE, x=0.01, ha="left", parse_math=False)
    return figure


def _hardness(trial: Trial) -> tuple[float, float, float, float] | None:
    """Return the share of negatives above their positive, and the rate of false negatives with its interval."""
    false = trial.false_negatives
    if trial.hardness is None or trial.hardness.above is None or false is None:
        return None
    return trial.hardness.above, false.rate, false.low, false.high


def _size(trial: Trial) -> float:
    """Return the diameter of a marker in typographic points, which grows with the time of mining."""
    return float(6 + 3 * np.log10(1 + (trial.whole_seconds or 0.0)))
