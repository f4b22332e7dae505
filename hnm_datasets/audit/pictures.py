"""Pictures of mined rows, of their audits, and of a training that mines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import datasets
import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.columns import NEGATIVE_SOURCE, QUERY, QUERY_ID, Batch, score_column
from hnm_datasets.ragged import Ragged

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hnm_datasets.audit.report import Audit

#: Bars of a histogram.
_BINS = 50


def check_matplotlib(name: str) -> None:
    """Raise an ImportError that says what to install, if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{name} needs matplotlib: pip install 'hnm-datasets[plots]'") from error


# ---- hardness ----------------------------------------------------------------------------------------------------


def plot_hardness(audits: Mapping[str, Audit | Sequence[Audit]], by: str = "teacher") -> Figure:
    """Draw what negatives cost against what they are worth: false negatives against hardness.

    Towards the lower right is better: hard negatives, few of them false.

    Args:
        audits: By name an audit, which is one point, or a sequence of them, which is a curve: one filter at several
            settings.
        by: The scores that tell hardness: `"score"` for the retriever's own, or a teacher's name. Their mean over the
            negatives is drawn.

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
    from hnm_datasets.audit.drawing import LARGE, SERIES, SMALL, Picture, finish, fitted

    figure = Picture(4.8, layout="constrained")
    axes = figure.subplots()
    for place, (label, points) in enumerate(curves.items()):
        look, again = SERIES[place % len(SERIES)], place // len(SERIES)
        hardness, rate, low, high = points.T
        axes.errorbar(
            hardness, 100 * rate, 100 * np.stack([rate - low, high - rate]).clip(0), color=look.colour,
            # Three to a line of the legend; a dollar sign is no mathematics.
            label=fitted(label, SMALL, 155).replace("$", r"\$"),
            marker=look.marker, markersize=8, linewidth=1.5, elinewidth=1, capsize=3, alpha=0.9,
            # With more names than looks, later ones are hollow and dashed.
            linestyle=("-", "--", ":")[again % 3], markerfacecolor=look.colour if not again else "none",
        )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"mean score of the negatives {_by(by)} (harder →)", fontsize=SMALL)
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
            f"audit_negatives(rows, corpus, judgements=...), or with teacher= and a step that scores them, such as "
            f"CrossEncoderScores(corpus, model)."
        )
    return scores.negative.mean, false.rate, false.low, false.high


def _compared(curves: Mapping[str, NDArray[np.float64]]) -> str:
    """Say what the lowest rate of false negatives costs."""
    from hnm_datasets.audit.drawing import LARGE, fitted, percent

    points = [(rate, score, label) for label, found in curves.items() for score, rate, *_ in found.tolist()]
    (rate, score, label), (most, hardest, other) = min(points), max(points)
    label, other = (fitted(one, LARGE, 170) for one in (label, other))
    if rate == most:
        return f"{label}: {percent(rate)} of the negatives are false, at a mean score of {score:.2f}"
    first = f"False negatives: {percent(most)} ({other}) → {percent(rate)} ({label})"
    return f"{first}\nMean score: {hardest:.2f} → {score:.2f}"


def _by(by: str) -> str:
    return "by the retriever" if by == "score" else f"by {by!r}"


# ---- scores ------------------------------------------------------------------------------------------------------


def plot_scores(dataset: datasets.Dataset, by: str = "score", sample: int = 10_000, *, seed: int = 0) -> Figure:
    """Draw how the scores of positives and negatives are spread, for each source of negatives.

    Where the two lie over each other the negatives are hard, and some of them are likely false. A negative that several
    sources found counts in the panel of each. Scores of different sources can be compared only if one model gave them:
    name that with `by`.

    Args:
        dataset: Mined rows.
        by: `"score"` for the retriever's scores, or the name of a teacher or of a fused source.
        sample: Rows that are read, drawn at random if there are more.
        seed: For the draw.

    Returns:
        The figure, with one panel per source, whose title says how many negatives score above their query's positive,
        or above the mean of several.

    Raises:
        ImportError: matplotlib is not installed.
        KeyError: A column of scores is missing.
        TypeError: `dataset` is no `Dataset`.
        ValueError: No row has a positive and a negative with scores.

    Example:
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> figure = plot_scores(queries.map(BM25Negatives(corpus, k=3), batched=True))
        >>> figure.axes[0].get_title(loc="left")
        "bm25: 67% of the negatives score above their query's positive"
    """
    name = "plot_scores"
    check_matplotlib(name)
    sample = checks.whole_number(name, "sample", sample, low=1)
    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(
            f"{name} takes a datasets.Dataset, got {type(dataset).__name__}. Of a DatasetDict take a split; of a "
            f"stream take some rows: Dataset.from_list(list(stream.take(1000)))."
        )
    wanted = (QUERY_ID, QUERY, NEGATIVE_SOURCE, score_column(by), score_column(by, of="positive"))
    rows = dataset.select_columns([column for column in dataset.column_names if column in wanted])
    if len(rows) > sample:
        rows = rows.select(np.sort(np.random.default_rng(seed).choice(len(rows), sample, replace=False)))
    panels = _panels(Batch(rows.with_format("arrow")[:], step=name), by)
    if not panels:
        raise ValueError(
            f"{name}: none of the {len(rows)} rows has scores of a positive and of a negative. Mine with a larger k, "
            f"or filter less."
        )
    from matplotlib.colors import to_rgba

    from hnm_datasets.audit.drawing import LARGE, NEGATIVE, POSITIVE, SMALL, Picture, finish, percent

    figure = Picture(1.1 + 1.75 * len(panels), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    edges = np.histogram_bin_edges(
        np.concatenate([part for one in panels for part in (one.positives, one.negatives)]), _BINS
    )
    than = "the mean of their query's positives" if any(one.several for one in panels) else "their query's positive"
    for axes, one in zip(grid, panels, strict=True):
        for values, look, name, hatch in (
            (one.positives, POSITIVE, "positives", ""),
            (one.negatives, NEGATIVE, "negatives", "/////"),
        ):
            shares = 100 * np.histogram(values, edges)[0] / len(values)
            face = "none" if hatch else to_rgba(look.colour, 0.45)
            axes.stairs(
                shares, edges, fill=True, facecolor=face, edgecolor=look.colour, hatch=hatch, linewidth=1.5, label=name
            )
        which = f"{one.source}: " if one.source else ""
        title = f"{which}{percent(one.above)} of the negatives score above {than}"
        axes.set_title(title, fontsize=LARGE, loc="left", parse_math=False)
        axes.set_ylabel("share (%)", fontsize=SMALL)
        finish(axes)
    grid[-1].set_xlabel(f"score {_by(by)}", fontsize=SMALL)
    figure.legend(
        *grid[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False, fontsize=SMALL
    )
    return figure


class _Panel(NamedTuple):
    """The scores of one source's negatives and of the positives of the same queries.

    Attributes:
        source: Its name; None if the rows do not say.
        positives: Shape (P,).
        negatives: Shape (C,).
        above: Which share of the negatives scores above its query's positives (their mean).
        several: Whether a query has several positives.
    """

    source: str | None
    positives: NDArray[np.float64]
    negatives: NDArray[np.float64]
    above: float
    several: bool


def _panels(batch: Batch, by: str) -> list[_Panel]:
    """Divide the scores by source, of the rows that have positives and negatives."""
    negatives, positives = batch.number_lists(score_column(by)), batch.number_lists(score_column(by, of="positive"))
    values, others = negatives.values.astype(np.float64), positives.values.astype(np.float64)
    with np.errstate(invalid="ignore"):
        means = np.bincount(positives.owners, others, len(positives)) / positives.lengths
    panels = []
    for source, mask in _sources(batch, negatives).items():
        mask = mask & (positives.lengths > 0)[negatives.owners]
        owners = negatives.owners[mask]
        if not len(owners):
            continue
        there = np.zeros(len(negatives), dtype=bool)
        there[owners] = True
        above, several = float((values[mask] > means[owners]).mean()), bool((positives.lengths[there] > 1).any())
        panels.append(_Panel(source, others[there[positives.owners]], values[mask], above, several))
    return panels


def _sources(batch: Batch, negatives: Ragged[Any]) -> dict[str | None, NDArray[np.bool_]]:
    """Tell which negatives each source found; what several found is named `a+b`."""
    if not batch.has(NEGATIVE_SOURCE):
        return {None: np.ones(len(negatives.values), dtype=bool)}
    lists = batch.string_lists(NEGATIVE_SOURCE)
    batch.check_aligned(NEGATIVE_SOURCE, lists, score_column("score"), negatives)
    coded = lists.values.dictionary_encode()
    finders = [set(names.split("+")) for names in coded.dictionary.to_pylist()]
    codes = coded.indices.to_numpy()
    return {source: np.array([source in names for names in finders])[codes] for source in sorted(set().union(*finders))}
