"""The rules by which a pilot recommends a strategy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.piloting.intervals import Difference, paired

#: The highest tolerated share of false negatives when no student is trained.
TOLERATED = 0.05


class Recommendation(NamedTuple):
    """A recommended strategy and the reason.

    Attributes:
        name: The strategy; None if none can be recommended.
        sentence: The reason.
        differences: The difference of each strategy's measure to the best one; None for the best itself. Empty without
            training.
        needed: The number of held-out queries that would distinguish each strategy from the best; None if no more are
            needed.
    """

    name: str | None
    sentence: str
    differences: dict[str, Difference | None]
    needed: dict[str, int | None]


def by_training(values: Mapping[str, NDArray[np.floating]], work: Mapping[str, float], measure: str) -> Recommendation:
    """Recommend the cheapest strategy whose measure is at most one standard error below the best.

    This is the one-standard-error rule (Breiman et al. 1984, *Classification and Regression Trees*). A rule based on
    the 95% interval would always recommend the cheapest strategy: a pilot is small, so nearly all strategies are within
    it. Among strategies of equal cost, the better one is recommended.

    Args:
        values: The measure of each strategy, by seed and query. Shape (S, Q) each.
        work: The computation of models for each strategy, see `work_of`.
        measure: The name of the measure.

    Example:
        >>> noise = np.array([[0.01, -0.01] * 50])
        >>> found = by_training({"BM25": 0.5 + noise, "dense": 0.51 - noise}, {"BM25": 0, "dense": 9}, "nDCG@10")
        >>> found.name, round(found.differences["BM25"].mean, 3)
        ('dense', -0.01)
    """
    means = {name: float(found.mean()) for name, found in values.items()}
    best = max(means, key=lambda name: (means[name], -work[name]))
    differences = {name: None if name == best else paired(found - values[best]) for name, found in values.items()}
    within = [name for name, found in differences.items() if found is None or found.mean + found.error >= 0]
    chosen = min(within, key=lambda name: (work[name], -means[name]))
    queries = next(iter(values.values())).shape[1]
    needed = {name: None if found is None else _needed(found, queries) for name, found in differences.items()}
    return Recommendation(chosen, _sentence(chosen, best, within, means, differences, measure), differences, needed)


def _needed(found: Difference, queries: int) -> int | None:
    """Return the number of queries for an interval that excludes zero; None if it does already or never will."""
    half = (found.high - found.low) / 2
    if found.high < 0 or found.mean >= 0:
        return None
    return math.ceil(queries * (half / found.mean) ** 2)


def _sentence(
    chosen: str,
    best: str,
    within: list[str],
    means: Mapping[str, float],
    differences: Mapping[str, Difference | None],
    measure: str,
) -> str:
    found = differences[chosen]
    if found is not None:
        return (
            f"Take {chosen!r}: it needs the least model compute of the strategies within one standard error of the "
            f"best. Its {measure} is {100 * means[chosen]:.1f}, that of {best!r} is {100 * means[best]:.1f} "
            f"(difference {shown(found)})."
        )
    others = [name for name in within if name != chosen]
    if len(means) == 1:
        return f"Take {chosen!r}: no other strategy was trained on. Its {measure} is {100 * means[chosen]:.1f}."
    if not others:
        return (
            f"Take {chosen!r}: it has the best {measure}, {100 * means[chosen]:.1f}, and no other strategy is within "
            f"one standard error of it."
        )
    return (
        f"Take {chosen!r}: it has the best {measure}, {100 * means[chosen]:.1f}, and the strategies within one "
        f"standard error of it need no less model compute ({', '.join(map(repr, others))})."
    )


def shown(found: Difference) -> str:
    """Format a difference with its interval, in percent."""
    return f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def by_mining(
    rates: Mapping[str, float | None], above: Mapping[str, float | None], work: Mapping[str, float]
) -> Recommendation:
    """Without training, recommend the hardest strategy with at most 5% false negatives.

    Args:
        rates: The share of false negatives of each strategy; None if unknown.
        above: The share of negatives that score above the positives, for each strategy.
        work: The computation of models for each strategy.
    """
    known = {name: rate for name, rate in rates.items() if rate is not None and above[name] is not None}
    if not known:
        return Recommendation(
            None,
            "No recommendation: the share of false negatives is unknown. Pass judgments= or a teacher=, pass rows with "
            "several positives, or train a student (train=True).",
            {},
            {},
        )
    few = [name for name, rate in known.items() if rate <= TOLERATED]
    if not few:
        chosen = min(known, key=lambda name: (known[name], work[name]))
        return Recommendation(
            chosen,
            f"Take {chosen!r}, but filter it by a margin or a teacher: it has the fewest false negatives, "
            f"{known[chosen]:.1%}, and no strategy has at most {TOLERATED:.0%}.",
            {},
            {},
        )
    chosen = max(few, key=lambda name: (above[name] or 0.0, -work[name]))
    return Recommendation(
        chosen,
        f"Take {chosen!r}: of the strategies with at most {TOLERATED:.0%} false negatives, it has the hardest "
        f"negatives ({above[chosen]:.1%} score above their positive). No student was trained, so their effect on "
        f"training is not measured.",
        {},
        {},
    )
