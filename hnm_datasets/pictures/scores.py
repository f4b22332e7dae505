"""A plot of the scores of positives and negatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_SOURCE, QUERY, QUERY_ID, score_column
from hnm_datasets.missing_columns import check_column
from hnm_datasets.rows import Rows, dataset_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from hnm_datasets.pictures.installed import check_matplotlib, scorer_label

#: Bars of a histogram.
_BINS = 50


# ---- scores ------------------------------------------------------------------------------------------------------


def plot_scores(dataset: Rows, by: str = "score", sample: int = 10_000, *, seed: int = 0) -> Figure:
    """Plot histograms of the scores of positives and negatives, for each source of negatives.

    Negatives in the overlap are hard, and some of them are likely false. A negative of several sources counts in the
    panel of each. To compare the scores of different sources, pass the name of one model that scored them all as `by`.

    Args:
        dataset: Mined rows.
        by: `"score"` for the retriever's scores, or the name of a teacher or of a fused source.
        sample: Maximum number of rows to read; a random sample if there are more.
        seed: Seed of the random sample.

    Columns read:
        `negative_scores` and `positive_scores`, or those of the scorer `by`; `negative_source`, if present.

    Returns:
        The figure, with one panel per source. Its title says how many negatives score above their query's positive, or
        above the mean if a query has several.

    Raises:
        ImportError: matplotlib is not installed.
        KeyError: A column of scores is missing.
        TypeError: `dataset` has the wrong type.
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
    dataset = dataset_of(dataset, name, "dataset")
    wanted = (QUERY_ID, QUERY, NEGATIVE_SOURCE, score_column(by), score_column(by, of="positive"))
    for column in wanted[-2:]:
        check_column(name, column, dataset.column_names)
    rows = dataset.select_columns([column for column in dataset.column_names if column in wanted])
    if len(rows) > sample:
        rows = rows.select(np.sort(np.random.default_rng(seed).choice(len(rows), sample, replace=False)))
    panels = _panels(Batch(rows.with_format("arrow")[:], step=name), by)
    if not panels:
        raise ValueError(
            f"{name}: none of the {len(rows)} rows has scores of a positive and of a negative. Mine with a larger k, "
            f"or loosen the filters."
        )
    from matplotlib.colors import to_rgba

    from hnm_datasets.pictures.drawing import LARGE, NEGATIVE, POSITIVE, SMALL, Picture, finish, percent

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
            face = "none" if hatch else to_rgba(look.color, 0.45)
            axes.stairs(
                shares, edges, fill=True, facecolor=face, edgecolor=look.color, hatch=hatch, linewidth=1.5, label=name
            )
        which = f"{one.source}: " if one.source else ""
        title = f"{which}{percent(one.above)} of the negatives score above {than}"
        axes.set_title(title, fontsize=LARGE, loc="left", parse_math=False)
        axes.set_ylabel("share (%)", fontsize=SMALL)
        finish(axes)
    grid[-1].set_xlabel(f"score {scorer_label(by)}", fontsize=SMALL)
    figure.legend(
        *grid[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False, fontsize=SMALL
    )
    return figure


class _Panel(NamedTuple):
    """The scores of one source's negatives and of the positives of the same queries.

    Attributes:
        source: The name of the source; None if the rows do not have it.
        positives: Scores of positives. Shape (P,).
        negatives: Scores of negatives. Shape (C,).
        above: The share of negatives that score above the mean of their query's positives.
        several: Whether a query has several positives.
    """

    source: str | None
    positives: NDArray[np.float64]
    negatives: NDArray[np.float64]
    above: float
    several: bool


def _panels(batch: Batch, by: str) -> list[_Panel]:
    """Return the scores for each source, from rows with positives and negatives."""
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
    """Return a mask of the negatives of each source; the source `a+b` counts for both."""
    if not batch.has(NEGATIVE_SOURCE):
        return {None: np.ones(len(negatives.values), dtype=bool)}
    lists = batch.string_lists(NEGATIVE_SOURCE)
    batch.check_aligned(NEGATIVE_SOURCE, lists, score_column("score"), negatives)
    coded = lists.values.dictionary_encode()
    finders = [set(names.split("+")) for names in coded.dictionary.to_pylist()]
    codes = coded.indices.to_numpy()
    return {source: np.array([source in names for names in finders])[codes] for source in sorted(set().union(*finders))}
