"""What the pictures share: the figure, the looks of each kind, and text that fits. Imported only where one is drawn."""

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

#: Points. A figure of 8 inches that is shown 800 pixels wide has letters of 14 pixels at 10 points.
SMALL, LARGE = 10, 12
WIDTH = 8.0
DPI = 200


class Look(NamedTuple):
    """How one kind of thing is drawn: by color and by shape, so that nothing hangs on the color alone."""

    color: str
    marker: str
    name: str = ""
    hollow: bool = False


#: Of Okabe and Ito's colors those with a contrast of 3 or more to white and to black.
GREEN, RED, BLUE, PURPLE, GREY = "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#888888"
POSITIVE, NEGATIVE = Look(GREEN, "o", "positive"), Look(RED, "s", "hard negative")
RANDOM, OTHER = Look(BLUE, "^", "random passage"), Look(GREEN, "o", "other positive (masked)", hollow=True)
SERIES = tuple(map(Look, (BLUE, RED, GREEN, PURPLE, GREY), "osD^v"))


class Picture(Figure):
    """A figure that shows itself in a notebook.

    A notebook draws matplotlib's own figures only where pyplot is in use, which keeps every figure alive.
    """

    def __init__(self, height: float, **options: Any) -> None:
        super().__init__(figsize=(WIDTH, height), dpi=DPI, **options)

    def _repr_png_(self) -> bytes:
        target = io.BytesIO()
        # Half the dots of a file: the size at which a notebook shows it.
        self.savefig(target, format="png", dpi=DPI / 2)
        return target.getvalue()


def ink() -> str:
    """Return the color of text, which the style in use sets."""
    return str(rcParams["text.color"])


def paper() -> Any:
    """Return the color behind the axes, which the style in use sets."""
    return rcParams["axes.facecolor"]


def percent(share: float) -> str:
    """Show a share so that little is not nothing, nearly all is not all, and two that add up to all are seen to.

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
    """Give axes the looks that all but maps have."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL)


def width_of(text: str, size: float) -> float:
    """Return how wide a text is, in points."""
    # A dollar sign in a passage is no mathematics.
    width, *_ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return float(width)


def fitted(text: str, size: float, width: float) -> str:
    """Cut a text to a width in points, with an ellipsis where something is missing.

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


def beside(
    points: NDArray[np.float64], texts: list[str], taken: list[tuple[float, float, float, float]], limit: float
) -> list[tuple[float, float]]:
    """Find a place for a short label beside each point, so that none covers another, or a point.

    Args:
        points: Where the points lie, in points from the center of a square. Shape (C, 2).
        texts: The labels of the first points, the most important first.
        taken: Boxes (left, bottom, right, top) that are to stay free.
        limit: Half the side of the square.

    Returns:
        The center of each label, from its point.
    """
    boxes = [*taken, *((x - 5, y - 5, x + 5, y + 5) for x, y in points.tolist())]
    places = []
    for (x, y), text in zip(points.tolist(), texts, strict=False):
        half, tall = width_of(text, SMALL) / 2 + 1, SMALL / 2 + 1
        best, least = (0.0, 0.0), np.inf
        for away in (11, 15, 20, 27, 35):
            for turn in np.arange(16) * np.pi / 8:
                dx, dy = float(away * np.cos(turn)), float(away * np.sin(turn))
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
        places.append(best)
        dx, dy = best
        boxes.append((x + dx - half, y + dy - tall, x + dx + half, y + dy + tall))
    return places
