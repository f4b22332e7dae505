"""Checks of the numeric options of `RefreshNegatives`."""

from __future__ import annotations

from hnm_datasets import checks

_NAME = "RefreshNegatives"


def checked_span(option: str, value: int | float, low: int) -> int | float:
    """Return a whole number of steps (at least `low`) or a float of epochs (above 0; 0 is allowed if `low` is 0)."""
    if not isinstance(value, float):
        return checks.whole_number(_NAME, option, value, low=low)
    return 0 if value == low == 0 else checks.real_number(_NAME, option, value, above=0)


def checked_share(option: str, value: float) -> float:
    """Return a number above 0 and at most 1."""
    value = checks.real_number(_NAME, option, value, above=0)
    if value > 1:
        raise ValueError(f"{_NAME}: {option} must be at most 1, got {value:g}.")
    return value


def checked_memory(value: float) -> float:
    """Return a number of at least 0 and below 1."""
    value = checks.real_number(_NAME, "memory", value)
    if not 0 <= value < 1:
        raise ValueError(f"{_NAME}: memory must be a share of the candidates, at least 0 and below 1, got {value:g}.")
    return value
