"""How hard the negatives are, as a picture."""

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
    """Draw false negatives against hardness: the cost of negatives against their worth.

    Towards the lower right is better: hard negatives, few of them false.

    Args:
        audits: By name an audit, which is one point, or a sequence of them, which is a curve: one filter at several
            settings.
        by: The scores that measure hardness: `"score"` for the retriever's own, or a teacher's name. The figure shows
            their mean over the negatives.

    Returns:
        The figure, whose title compares the lowest rate of false negatives with the highest. Error bars are the audits'
        confidence intervals.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: There is no audit, or one has no false negatives or no such scores; the message names it.

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
        raise ValueError(f"{name}: there is no audit to draw. Pass some by name: {name}({{'dense': audit}}).")
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
            # Three to a line of the legend; a dollar sign is no mathematics.
            label=fitted(label, SMALL, 155).replace("$", r"\$"),
            marker=look.marker, markersize=8, linewidth=1.5, elinewidth=1, capsize=3, alpha=0.9,
            # With more names than looks, later ones are hollow and dashed.
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
        raise ValueError(f"{name}: {label!r} is an empty list of audits. Leave it out, or audit at least one setting.")
    return listed


def _hardness(name: str, label: str, audit: Audit, by: str) -> tuple[float, float, float, float]:
    """Return the mean score, and the rate of false negatives with its interval."""
    scores, false = audit.scores.get(by), audit.false_negatives
    if scores is None or scores.negative is None:
        there = [known for known, one in audit.scores.items() if one.negative is not None]
        raise ValueError(
            f"{name}: the audit of {label!r} has no scores of the negatives by {by!r}, only by {there}. Choose one of "
            f"them with by=, or audit rows with the columns {score_column(by)!r} and {score_column(by, 'positive')!r}."
        )
    if false is None:
        raise ValueError(
            f"{name}: the audit of {label!r} does not tell how many negatives are false. Audit the rows with "
            f"audit_negatives(rows, corpus, judgments=...), or with teacher= and a step that scores them, such as "
            f"CrossEncoderScores(corpus, model)."
        )
    return scores.negative.mean, false.rate, false.low, false.high


def _compared(curves: Mapping[str, NDArray[np.float64]]) -> str:
    """Say what the lowest rate of false negatives costs."""
    from hnm_datasets.pictures.drawing import LARGE, fitted, percent

    points = [(rate, score, label) for label, found in curves.items() for score, rate, *_ in found.tolist()]
    (rate, score, label), (most, hardest, other) = min(points), max(points)
    label, other = (fitted(one, LARGE, 170) for one in (label, other))
    if rate == most:
        return f"{label}: {percent(rate)} of the negatives are false, at a mean score of {score:.2f}"
    first = f"False negatives: {percent(most)} ({other}) → {percent(rate)} ({label})"
    return f"{first}\nMean score: {hardest:.2f} → {score:.2f}"
