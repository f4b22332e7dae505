"""Short reasons why a filter drops a candidate, for `explain`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray


def compared(value: float, sign: str, name: str, limit: float) -> str:
    """Format a comparison of a value with a limit, with enough digits to distinguish them.

    Args:
        value: The value.
        sign: `">"`, `"<"`, `">="`.
        name: The name of the limit.
        limit: The limit.

    Example:
        >>> compared(0.91, ">", "limit", 0.874), compared(0.87412, ">", "limit", 0.87409)
        ('0.91 > limit 0.874', '0.87412 > limit 0.87409')
    """
    digits = next((digits for digits in range(3, 17) if f"{value:.{digits}g}" != f"{limit:.{digits}g}"), 3)
    return f"{value:.{digits}g} {sign} {name} {limit:.{digits}g}"


def outside(values: Iterable[Any] | NDArray[Any], low: float | None, high: float | None) -> list[str]:
    """Format how each value violates a window; None means no limit on that side.

    Example:
        >>> outside([1, 12], 2, 9)
        ['1 < min 2', '12 > max 9']
    """
    return [
        compared(float(value), "<", "min", low)
        if low is not None and value < low
        else compared(float(value), ">", "max", float("nan") if high is None else high)
        for value in values
    ]
