"""A plot of false negatives against hardness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.columns import score_column
from hnm_datasets.pictures.installed import check_matplotlib, scorer_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hnm_datasets.audit.report import Audit


def plot_hardness(audits: Mapping[str, Audit | Sequence[Audit]], by: str = "teacher") -> Figure:
    """Plot the rate of false negatives against the hardness of negatives.

    Better negatives are at the lower right: they are hard, and few of them are false.

    Args:
        audits: A dict from names to audits. An audit is drawn as a point; a sequence of audits, such as those of a
            filter with several settings, is drawn as a curve.
        by: The scores that measure hardness: `"score"` for the retriever, or the name of a teacher. The plot shows
            their mean over the negatives.

    Returns:
        The figure. Its title compares the lowest rate of false negatives with the highest. Error bars are the
        confidence intervals of the audits.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: There are no audits, or an audit has no false negatives or no such scores; the message names it.

    Example:
        >>> from hnm_datasets import BiEncoderScores, BM25Negatives, RelativeMargin, audit_negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> def count_words(texts):
        ...     words = ("earthquake", "wave", "plate", "volcano", "the")
        ...     return np.array([[text.lower().count(word) + 0.1 for word in words] for text in texts])
        >>> teacher = BiEncoderScores(corpus, count_words, "teacher", fingerprint="words-1")
        >>> mined = queries.map(BM25Negatives(corpus, k=4), batched=True).map(teacher, batched=True)
        >>> kept = mined.map(RelativeMargin(0.1, by="teacher"), batched=True)
        >>> figure = plot_hardness({"bm25": audit_negatives(mined, corpus), "kept": audit_negatives(kept, corpus)})
        >>> figure.axes[0].get_title(loc="left").splitlines()
        ['False negatives: 50% (bm25) → 0% (kept)', 'Mean score: 0.45 → 0.24']
    """
    name = "plot_hardness"
    check_matplotlib(name)
    if not audits:
        raise ValueError(f"{name}: there are no audits to draw. Pass them by name: {name}({{'dense': audit}}).")
    curves = {
        label: np.array([_hardness(name, label, audit, by) for audit in _listed(name, label, found)])
        for label, found in audits.items()
    }
    from hnm_datasets.pictures.drawing import LARGE, SERIES, SMALL, Picture, finish, fitted

    figure = Picture(4.8, layout="constrained")
    axes = figure.subplots()
    for place, (label, points) in enumerate(curves.items()):
        look, again = SERIES[place % len(SERIES)], place // len(SERIES)
        hardness, rate, low, high = points.T
        axes.errorbar(
            hardness, 100 * rate, 100 * np.stack([rate - low, high - rate]).clip(0), color=look.color,
            # Three labels fit into a line of the legend. A dollar sign does not start a formula.
            label=fitted(label, SMALL, 155).replace("$", r"\$"),
            marker=look.marker, markersize=8, linewidth=1.5, elinewidth=1, capsize=3, alpha=0.9,
            # With more names than colors, later curves are hollow and dashed.
            linestyle=("-", "--", ":")[again % 3], markerfacecolor=look.color if not again else "none",
        )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"mean score of the negatives {scorer_label(by)} (harder →)", fontsize=SMALL)
    axes.set_ylabel("false negatives (%)", fontsize=SMALL)
    axes.set_title(_compared(curves), fontsize=LARGE, loc="left", parse_math=False)
    finish(axes)
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=SMALL)
    return figure


def _listed(name: str, label: str, found: Audit | Sequence[Audit]) -> Sequence[Audit]:
    listed = found if isinstance(found, Sequence) else [found]
    if not listed:
        raise ValueError(f"{name}: {label!r} is an empty list of audits. Remove it, or audit at least one setting.")
    return listed


def _hardness(name: str, label: str, audit: Audit, by: str) -> tuple[float, float, float, float]:
    """Return the mean score, and the rate of false negatives with its interval."""
    scores, false = audit.scores.get(by), audit.false_negatives
    if scores is None or scores.negative is None:
        there = [known for known, one in audit.scores.items() if one.negative is not None]
        raise ValueError(
            f"{name}: the audit of {label!r} has no scores of the negatives by {by!r}, only by {there}. Pass one of "
            f"these as by=, or audit rows with the columns {score_column(by)!r} and {score_column(by, 'positive')!r}."
        )
    if false is None:
        raise ValueError(
            f"{name}: the audit of {label!r} has no rate of false negatives. Audit the rows with "
            f"audit_negatives(rows, corpus, judgments=...), or with teacher= and a scorer, such as "
            f"CrossEncoderScores(corpus, model)."
        )
    return scores.negative.mean, false.rate, false.low, false.high


def _compared(curves: Mapping[str, NDArray[np.float64]]) -> str:
    """Return a title that compares the lowest and the highest rate of false negatives and their mean scores."""
    from hnm_datasets.pictures.drawing import LARGE, fitted, percent

    points = [(rate, score, label) for label, found in curves.items() for score, rate, *_ in found.tolist()]
    (low, low_score, low_label), (high, high_score, high_label) = min(points), max(points)
    low_label, high_label = (fitted(label, LARGE, 170) for label in (low_label, high_label))
    if low == high:
        return f"{low_label}: {percent(low)} of the negatives are false, at a mean score of {low_score:.2f}"
    first = f"False negatives: {percent(high)} ({high_label}) → {percent(low)} ({low_label})"
    return f"{first}\nMean score: {high_score:.2f} → {low_score:.2f}"
