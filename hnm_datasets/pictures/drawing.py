"""Helpers for all plots: the figure, colors and markers, and text that fits. Imported only when something is drawn."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

#: Font sizes in points. In a figure of 8 inches that is shown 800 pixels wide, 10 points are 14 pixels.
SMALL, LARGE = 10, 12
WIDTH = 8.0
DPI = 200


class Look(NamedTuple):
    """The color and marker of one kind of data. Both differ, so that color is never the only distinction."""

    color: str
    marker: str
    name: str = ""
    hollow: bool = False


#: The colors of Okabe and Ito with a contrast of at least 3 to both white and black.
GREEN, RED, BLUE, PURPLE, GREY = "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#888888"
POSITIVE, NEGATIVE = Look(GREEN, "o", "positive"), Look(RED, "s", "hard negative")
RANDOM, OTHER = Look(BLUE, "^", "random passage"), Look(GREEN, "o", "other positive (masked)", hollow=True)
SERIES = tuple(map(Look, (BLUE, RED, GREEN, PURPLE, GREY), "osD^v"))


class Picture(Figure):
    """A figure that notebooks display.

    Notebooks display plain matplotlib figures only with pyplot, which keeps every figure in memory.
    """

    def __init__(self, height: float, **options: Any) -> None:
        super().__init__(figsize=(WIDTH, height), dpi=DPI, **options)

    def _repr_png_(self) -> bytes:
        target = io.BytesIO()
        # Half the resolution of a file, which is the size of a figure in a notebook.
        self.savefig(target, format="png", dpi=DPI / 2)
        return target.getvalue()


def ink() -> str:
    """Return the text color of the active style."""
    return str(rcParams["text.color"])


def paper() -> Any:
    """Return the background color of axes in the active style."""
    return rcParams["axes.facecolor"]


def percent(share: float) -> str:
    """Format a share as a percentage, so that small shares are not 0%, large shares not 100%, and sums look right.

    Example:
        >>> percent(0.123), percent(0.0123), percent(0.979), percent(0.0002), percent(0.9996), percent(1.0)
        ('12%', '1.2%', '97.9%', '<0.1%', '>99.9%', '100%')
    """
    hundredths = 100 * share
    if 0 < hundredths < 0.1:
        return "<0.1%"
    if 99.9 < hundredths < 100:
        return ">99.9%"
    return f"{hundredths:.1f}%" if 0 < hundredths < 9.95 or 90.05 < hundredths < 100 else f"{hundredths:.0f}%"


def finish(axes: Axes) -> None:
    """Style axes: a grid, and no top and right spines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL)


def width_of(text: str, size: float) -> float:
    """Return the width of a text in points."""
    # A dollar sign in a passage does not start a formula.
    width, *_ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return float(width)


def fitted(text: str, size: float, width: float) -> str:
    """Shorten a text to a width in points, with an ellipsis.

    Example:
        >>> fitted("Plates move.", size=10, width=100), fitted("Plates move.", size=10, width=46)
        ('Plates move.', 'Plates…')
    """
    text = " ".join(text.split())[:200]
    if width_of(text, size) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width_of(text[:middle].rstrip() + "…", size) <= width else (low, middle - 1)
    return text[:low].rstrip(" .,;:-") + "…"


def label_offsets(
    points: NDArray[np.float64], texts: list[str], taken: list[tuple[float, float, float, float]], limit: float
) -> list[tuple[float, float]]:
    """Place a short label next to each point, so that labels overlap neither each other nor the points.

    Args:
        points: The positions of the markers, in typographic points from the center of a square. Shape (C, 2).
        texts: The labels of the first points, most important first.
        taken: Boxes (left, bottom, right, top) to keep free.
        limit: Half the side of the square.

    Returns:
        The offset of each label's center from its point.
    """
    boxes = [*taken, *((x - 5, y - 5, x + 5, y + 5) for x, y in points.tolist())]
    offsets = []
    for (x, y), text in zip(points.tolist(), texts, strict=False):
        half, tall = width_of(text, SMALL) / 2 + 1, SMALL / 2 + 1
        best, least = (0.0, 0.0), np.inf
        for distance in (11, 15, 20, 27, 35):
            for angle in np.arange(16) * np.pi / 8:
                dx, dy = float(distance * np.cos(angle)), float(distance * np.sin(angle))
                box = (x + dx - half, y + dy - tall, x + dx + half, y + dy + tall)
                covered = sum(
                    max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
                    * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
                    for other in boxes
                )
                covered += 1e6 * (max(map(abs, box)) > limit)
                if covered < least:
                    best, least = (dx, dy), covered
            if least == 0:
                break
        offsets.append(best)
        dx, dy = best
        boxes.append((x + dx - half, y + dy - tall, x + dx + half, y + dy + tall))
    return offsets
