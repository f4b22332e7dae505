"""A plot of one mined query: its passages in the space of a model, and the gradients that they send to the query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS, QUERY
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.models.encoders import Encoder
from hnm_datasets.models.handles import EmbeddingModel, load_model
from hnm_datasets.pictures.geometry import gradients, positions_around
from hnm_datasets.pictures.installed import check_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hnm_datasets.pictures.drawing import Look

#: The maximum number of passages with a bar of their own.
_BARS = 6
#: The height of the figure and the side of the map in inches; left, bottom, width and height of the bars as shares.
_HEIGHT, _MAP = 5.0, 3.45
_BARS_BOX = (0.485, 0.155, 0.495, 0.7)
_POSITIVE, _HARD, _RANDOM, _OTHER = range(4)


@dataclass(frozen=True)
class _Scene:
    """C passages around a query: the positive and the hard negatives by gradient, then all others.

    Attributes:
        query: The text of the query.
        titles: Title and text of the first passages, which have bars of their own.
        kinds: Positive, hard negative, random passage or other positive. Shape (C,).
        angles: Angles to the query, in degrees. Shape (C,).
        positions: Positions on the map, in degrees from the query. Shape (C, 2).
        sizes: Norms of the gradients. Shape (C,).
    """

    query: str
    titles: list[tuple[str, str]]
    kinds: NDArray[np.int64]
    angles: NDArray[np.float64]
    positions: NDArray[np.float64]
    sizes: NDArray[np.float64]


def plot_query(
    row: Mapping[str, Any],
    corpus: Corpus,
    model: EmbeddingModel,
    *,
    easy: int = 10,
    scale: float = 20.0,
    seed: int = 0,
    fingerprint: str | None = None,
) -> Figure:
    """Plot the passages around one mined query, and the gradient that each of them sends to the query.

    On the map, the query is at the center, and the distance of a passage is its exact angle to the query. Directions
    are projected on the first two principal components, so neighbors on the map may be far apart in the space.

    The gradient is that of `MultipleNegativesRankingLoss` with the first positive, the row's negatives and the random
    passages as candidates. Passage j sends scale · (p_j - y_j) · (v_j - cos_j · q). Here p is the softmax of the scaled
    cosines, and y_j is 1 for the positive and 0 for negatives. The gradient is large for negatives near the query, and
    almost zero for negatives at a right angle. Other known positives are drawn, but send no gradient, as in
    `HardNegativesRankingLoss`.

    Args:
        row: One row of a mined dataset, with `query`, `positive_ids` and `negative_ids`.
        corpus: The passages.
        model: A `SentenceTransformer`, its path or Hub id, or a function from a list of texts to an array of shape
            (B, D), see `fingerprint`.
        easy: The number of random passages to draw from the corpus, for comparison.
        scale: The factor of the cosines in the loss, the inverse of its temperature.
        seed: Seed of the random passages.
        fingerprint: For a function: a string that identifies it, and changes whenever its vectors change.

    Returns:
        The figure. Its title says which share of the negatives' gradient the hard negatives send.

    Raises:
        ImportError: matplotlib is not installed.
        KeyError: A column is missing, or an id is not in the corpus.
        ValueError: The row has no positive or no negative, or an option is out of range.

    Example:
        >>> import numpy as np
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> row = queries.map(BM25Negatives(corpus, k=3), batched=True)[0]
        >>> def count_words(texts):
        ...     words = ("earthquake", "wave", "plate", "volcano", "the")
        ...     return np.array([[text.lower().count(word) + 0.1 for word in words] for text in texts])
        >>> figure = plot_query(row, corpus, count_words, easy=3, fingerprint="words-1")
        >>> figure.savefig("query.png")  # doctest: +SKIP
    """
    name = "plot_query"
    check_matplotlib(name)
    check_corpus(name, corpus)
    easy = checks.whole_number(name, "easy", easy, low=0)
    scale = checks.real_number(name, "scale", scale, above=0)
    return _draw(_scene(row, corpus, model, easy, scale, seed, fingerprint))


def _scene(
    row: Mapping[str, Any],
    corpus: Corpus,
    model: EmbeddingModel,
    easy: int,
    scale: float,
    seed: int,
    fingerprint: str | None,
) -> _Scene:
    """Encode the query and its passages, and compute their positions and gradients."""
    name = "plot_query"
    batch = Batch({key: [value] for key, value in row.items() if key in (QUERY, POSITIVE_IDS, NEGATIVE_IDS)}, name)
    query = batch.strings(QUERY)[0].as_py()
    found = []
    for column in (POSITIVE_IDS, NEGATIVE_IDS):
        batch.require(column)
        rows = batch.rows_in(column, corpus).values
        if not len(rows):
            raise ValueError(
                f"{name}: {column!r} is empty in {batch.describe(0)}, so there is nothing to compare. Choose another "
                f"row: dataset.filter(lambda row: row[{column!r}])."
            )
        found.append(rows)
    found.append(_others(corpus, np.concatenate(found), easy, seed))
    rows, kinds = np.concatenate(found), np.repeat([_POSITIVE, _HARD, _RANDOM], list(map(len, found)))
    kinds[1 : len(found[0])] = _OTHER
    loaded = load_model(model, fingerprint)
    passages = Encoder(loaded, "document", normalize=True).vectors(corpus.texts(rows).to_pylist()).astype(np.float64)
    center = Encoder(loaded, "query", normalize=True).vectors([query])[0].astype(np.float64)
    # Normalize again in float64.
    passages, center = passages / np.linalg.norm(passages, axis=1, keepdims=True), center / np.linalg.norm(center)
    sizes, used = np.zeros(len(rows)), np.flatnonzero(kinds != _OTHER)
    sizes[used] = np.linalg.norm(gradients(center, passages[used], 0, scale), axis=1)
    positions = positions_around(center, passages)
    order = np.lexsort([-sizes, kinds > _HARD])
    titles = [_title(corpus, row) for row in rows[order[: min(_BARS, int((kinds <= _HARD).sum()))]]]
    angles = np.linalg.norm(positions, axis=1)
    return _Scene(query, titles, kinds[order], angles[order], positions[order], sizes[order])


def _others(corpus: Corpus, known: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Sample passages other than these and their copies; fewer if the corpus has no more."""
    codes, drawn = corpus.copy_codes, min(len(corpus), 2 * (count + len(known)))
    while True:
        rows = np.random.default_rng(seed).choice(len(corpus), drawn, replace=False)
        rows = rows[~np.isin(codes[rows], codes[known])][:count]
        if len(rows) == count or drawn == len(corpus):
            return rows
        drawn = min(len(corpus), 4 * drawn)


def _title(corpus: Corpus, row: np.int64) -> tuple[str, str]:
    passage = corpus[corpus.ids(np.array([row]))[0].as_py()]
    return passage["title"] or "", passage["text"] or ""


# ---- drawing -----------------------------------------------------------------------------------------------------


def _finding(scene: _Scene) -> str:
    """Return a title that says which share of the negatives' gradient the hard negatives send."""
    from hnm_datasets.pictures.drawing import percent

    (hard, sent), (others, rest) = (
        (int((scene.kinds == kind).sum()), float(scene.sizes[scene.kinds == kind].sum())) for kind in (_HARD, _RANDOM)
    )
    if not others:
        # The share would be 100%, so compare with the positive instead.
        pull = float(scene.sizes[scene.kinds == _POSITIVE].sum())
        return f"The positive sends a gradient of {_short(pull)}, {_counted(hard, 'hard negative')} {_short(sent)}"
    total = max(sent + rest, 1e-300)
    return (
        f"{_counted(hard, 'hard negative')} send{'s' * (hard == 1)} {percent(sent / total)} of the negatives' "
        f"gradient, {_counted(others, 'random one')} {percent(rest / total)}"
    )


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _short(size: float) -> str:
    return "<0.001" if 0 < size < 0.0005 else f"{size:.3f}" if size < 0.1 else f"{size:.2f}"


def _draw(scene: _Scene) -> Figure:
    """Draw the map and the bars."""
    from hnm_datasets.pictures.drawing import LARGE, NEGATIVE, OTHER, POSITIVE, RANDOM, SMALL, WIDTH, Picture, fitted

    looks = (POSITIVE, NEGATIVE, RANDOM, OTHER)
    figure = Picture(_HEIGHT)
    for text, size, y in ((_finding(scene), LARGE, 0.955), (f"Query: {scene.query}", SMALL, 0.895)):
        text = fitted(text, size, 0.96 * WIDTH * 72)
        figure.text(0.02, y, text, fontsize=size, va="center", parse_math=False)
    world = figure.add_axes((0.02, 0.145, _MAP / WIDTH, _MAP / _HEIGHT), label="map")
    _draw_map(world, scene, looks)
    _draw_bars(figure.add_axes(_BARS_BOX, label="bars"), scene, looks)
    figure.legend(
        *world.get_legend_handles_labels(), loc="lower left", bbox_to_anchor=(0.005, 0.0), ncols=5, frameon=False,
        fontsize=SMALL, columnspacing=1.2, handletextpad=0.2,
    )  # fmt: skip
    return figure


def _draw_map(axes: Axes, scene: _Scene, looks: tuple[Look, ...]) -> None:
    from matplotlib.patches import Circle

    from hnm_datasets.pictures.drawing import SMALL, ink, label_offsets, paper

    farthest = float(scene.angles.max())
    # Include the right angle, at which vectors are unrelated, unless all passages are much closer.
    reach = max(1.12 * farthest, 97.0 if farthest > 60 else 10.0)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.axis("off")
    axes.plot([0], [0], linestyle="", marker="*", markersize=13, color=ink(), zorder=4, label="query")
    # In typographic points from the center.
    side = _MAP * 72
    unit = side / (2 * reach)
    points = scene.positions * unit
    step = next(one for one in (5, 10, 15, 30, 45) if reach / one < 4.5)
    rings = np.arange(step, int(np.ceil(reach)), step)
    # Label the rings in the direction with the most distance to passages.
    turns = np.linspace(-np.pi, np.pi, 48, endpoint=False)
    directions = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    spots = directions[:, None] * (rings * unit)[:, None]
    direction = directions[np.linalg.norm(spots[:, :, None] - points, axis=-1).min(axis=(1, 2)).argmax()]
    taken = [(-9.0, -9.0, 9.0, 9.0)]
    for ring in rings.tolist():
        axes.add_patch(Circle((0, 0), ring, fill=False, edgecolor=ink(), linewidth=0.7, alpha=0.35, zorder=0))
        x, y = direction * ring
        axes.text(
            x, y, f"{ring}°", fontsize=SMALL, ha="center", va="center", zorder=1,
            bbox={"facecolor": paper(), "edgecolor": "none", "pad": 1.0},
        )  # fmt: skip
        taken.append((x * unit - 13, y * unit - 8, x * unit + 13, y * unit + 8))
    for kind, look in enumerate(looks):
        of = scene.kinds == kind
        if not of.any():
            continue
        x, y = scene.positions[of].T
        areas = 1800 * scene.sizes[of] / max(scene.sizes[0], 1e-300)
        axes.scatter(x, y, s=areas, color=look.color, alpha=0.3, linewidths=0, zorder=2)
        axes.plot(
            x, y, linestyle="", marker=look.marker, markersize=6, zorder=3, label=look.name,
            markerfacecolor=paper() if look.hollow else look.color,
            markeredgecolor=look.color if look.hollow else paper(), markeredgewidth=1.2 if look.hollow else 0.6,
        )  # fmt: skip
    texts = [str(number) for number in range(1, len(scene.titles) + 1)]
    offsets = label_offsets(points, texts, taken, side / 2)
    for text, (x, y), (dx, dy) in zip(texts, scene.positions, offsets, strict=False):
        line = {"arrowstyle": "-", "color": ink(), "linewidth": 0.6} if np.hypot(dx, dy) > 16 else None
        axes.annotate(
            text, (x, y), (dx, dy), textcoords="offset points", fontsize=SMALL, fontweight="bold", ha="center",
            va="center", zorder=5, arrowprops=line,
        )  # fmt: skip
    note = "radius: angle to the query; disc: gradient"
    axes.text(0, -0.005, note, transform=axes.transAxes, fontsize=SMALL, va="top")


def _draw_bars(axes: Axes, scene: _Scene, looks: tuple[Look, ...]) -> None:
    from hnm_datasets.pictures.drawing import SMALL, WIDTH, fitted

    width = _BARS_BOX[2] * WIDTH * 72
    own = len(scene.titles)
    lines = list(zip(scene.titles, scene.kinds[:own].tolist(), scene.sizes[:own].tolist(), strict=True))
    for kind, what in ((_HARD, "more hard negative"), (_RANDOM, "random passage")):
        sizes = scene.sizes[own:][scene.kinds[own:] == kind]
        if len(sizes):
            together = _counted(len(sizes), what) + " together" * (len(sizes) > 1)
            lines.append(((together, ""), kind, float(sizes.sum())))
    axes.set(xlim=(0, 1.17 * max(max(size for *_, size in lines), 1e-300)), yticks=[])
    axes.set_ylim(max(len(lines), 5) - 0.45, -0.5)
    words: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": SMALL, "parse_math": False}
    for place, ((title, text), kind, size) in enumerate(lines):
        if title and text:
            # Shorten long titles to leave room for the text, which distinguishes passages of the same document.
            text = f"{fitted(title, SMALL, 0.55 * width)} · {text}"
        axes.barh(place + 0.22, size, 0.34, color=looks[kind].color)
        axes.annotate(_short(size), (size, place + 0.22), (4, 0), **words)
        axes.annotate(fitted(text or title, SMALL, width - 34), (0, place - 0.2), (30, 0), **words)
        axes.plot(
            22 / width, place - 0.2, transform=axes.get_yaxis_transform(), marker=looks[kind].marker, markersize=6,
            color=looks[kind].color,
        )  # fmt: skip
        if place < own:
            axes.annotate(str(place + 1), (0, place - 0.2), (4, 0), fontweight="bold", **words)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("gradient that each passage sends to the query (norm)", fontsize=SMALL)
