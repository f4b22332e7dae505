"""Samplers: a fixed number of candidates per row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.draws import sample_mask
from hnm_datasets.arrays.ragged import Ragged, kept_offsets, positions_within
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, NEGATIVE_RANKS, score_column, score_name
from hnm_datasets.transforms.base import CandidateFilter, Ordered
from hnm_datasets.transforms.filters.limits import span, within

#: A source by name, or the lowest and highest value of a band.
_Stratum = str | tuple[float, float]
_STRATEGIES = ("uniform", "softmax", "simans")


def first_mask(offsets: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    """Mark the first n values of each list. Shape (B + 1,) → (C,)."""
    return np.asarray(positions_within(offsets) < n)


def _means(lists: Ragged[NDArray[np.generic]]) -> NDArray[np.float64]:
    """Return the mean of each list, NaN of an empty one. Shape (B,)."""
    totals = np.bincount(lists.owners, weights=lists.values.astype(np.float64), minlength=len(lists))
    means = np.full(len(lists), np.nan)
    filled = lists.lengths > 0
    means[filled] = totals[filled] / lists.lengths[filled]
    return means


@dataclass(frozen=True)
class TopNegatives(CandidateFilter):
    """Keep the first n candidates of each row: the hardest ones. A row that has fewer keeps all.

    Args:
        n: Candidates per row.

    Columns read:
        `negative_ids`.

    Columns written:
        All aligned `negative_*` columns.

    Raises:
        ValueError: `n` is less than 1.

    Example:
        >>> TopNegatives(2)({"negative_ids": [["a", "b", "c"], ["d"]]})
        {'negative_ids': [['a', 'b'], ['d']]}
    """

    n: int

    def __post_init__(self) -> None:
        self._set(n=checks.whole_number("TopNegatives", "n", self.n, low=1))

    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        return first_mask(candidates.offsets, self.n)

    def _why_dropped(self, batch: Batch, candidates: Ragged[pa.Array], dropped: NDArray[np.int64]) -> list[str]:
        places = positions_within(candidates.offsets)[dropped] + 1
        return [f"candidate {place} of n={self.n}" for place in places.tolist()]


@dataclass(frozen=True)
class SampleNegatives(CandidateFilter):
    """Draw n candidates of each row without replacement, and keep them in their order.

    The draw depends on the seed, on the row's `query_id` (or its `query`) and on the row's candidates; not on where the
    row stands or how the rows are batched. A row that has no more than n candidates keeps all.

    Args:
        n: Candidates per row; or a number per source that `FuseNegatives` merged, `{"bm25": 2, "dense": 3}`; or per
            band, both ends included, `{(1, 10): 2, (11, math.inf): 4}`. They are served in this order, and what two
            sources found counts for the first that draws it. One that has too few gives all it has; no other makes up
            for it.
        bands: The values that bands are ranges of: `"rank"`, `"score"` (the retriever's), or a teacher's name.
        strategy: `"uniform"` draws each with the same chance; `"softmax"` with a chance in proportion to
            exp(score / temperature); `"simans"` in proportion to exp(-a·(s⁻ - s⁺ - b)²), which favors candidates that
            score about as high as the positive, neither too easy nor likely false (Zhou et al. 2022, *SimANS*,
            https://arxiv.org/abs/2210.11773).
        temperature: For `"softmax"`, in the units of the score: near 0 it takes the hardest, a large one draws almost
            uniformly.
        seed: Another seed draws others.
        by: For `"softmax"` and `"simans"`: `"score"` for the retriever's scores, or a teacher's name. None: the
            teacher's where the rows have `negative_teacher_scores`, else the retriever's.
        a: For `"simans"`: how sharply the chance falls with the distance, in the units of the score squared; the
            paper's default is 1 for dot products, and cosines need some 100.
        b: For `"simans"`: where the chance is highest, below (negative) or above the positive's score.

    Columns read:
        `negative_ids`, `query_id` or `query`; for `"softmax"` and `"simans"` the score column; for `"simans"` also that
        of the positives (of several the mean; a row without positives is drawn from uniformly); for sources
        `negative_<source>_ranks`, for bands `negative_ranks` or the score column.

    Columns written:
        All aligned `negative_*` columns.

    Raises:
        KeyError: A column is missing, such as that of a source that was not fused.
        ValueError: `n` is less than 1 or mixes sources and bands, a band is empty, the strategy is unknown, or the
            temperature is not greater than 0.

    Example:
        >>> batch = {"query": ["what causes earthquakes?"], "negative_ids": [["a", "b", "c", "d"]]}
        >>> sampled = SampleNegatives(2, seed=3)(batch)
        >>> len(sampled["negative_ids"][0]), sampled == SampleNegatives(2, seed=3)(batch)
        (2, True)
        >>> SampleNegatives({(1, 10): 1, (11, 50): 1})(batch | {"negative_ranks": [[3, 40, 60, 70]]})["negative_ids"]
        [['a', 'b']]
    """

    n: int | Mapping[str, int] | Mapping[tuple[float, float], int]
    strategy: str = "uniform"
    temperature: float = 1.0
    seed: int = 0
    by: str | None = None
    a: float = 1.0
    b: float = 0.0
    bands: str = "rank"

    @property
    def input_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step reads, and beside them `query_id` or `query`."""
        return self._inputs(self.by or "score")

    def _inputs(self, by: str) -> tuple[str, ...]:
        scores = {"softmax": ("negative",), "simans": ("negative", "positive")}.get(self.strategy, ())
        columns = (
            NEGATIVE_IDS,
            *(score_column(by, of=part) for part in scores),
            *map(self._column_of, self._strata),
        )
        return tuple(dict.fromkeys(columns))

    def _required(self, names: Sequence[str]) -> tuple[str, ...]:
        return self._inputs(score_name(self.by, names))

    def _option_of(self, name: str) -> str:
        return "bands" if name in map(self._column_of, self._strata) else "by"

    @property
    def _strata(self) -> tuple[_Stratum, ...]:
        return tuple(self.n) if isinstance(self.n, Mapping) else ()

    def _column_of(self, stratum: _Stratum) -> str:
        """Name the column that tells which candidates belong to a stratum."""
        if isinstance(stratum, str):
            return f"negative_{stratum}_ranks"
        return NEGATIVE_RANKS if self.bands == "rank" else score_column(self.bands)

    def __post_init__(self) -> None:
        name = "SampleNegatives"
        if not isinstance(self.bands, str) or not self.bands:
            raise TypeError(f"{name}: bands must be 'rank', 'score' or a teacher's name, got {self.bands!r}.")
        checks.score_option(name, "by", self.by)
        self._set(
            n=_checked_counts(self.n) if isinstance(self.n, Mapping) else checks.whole_number(name, "n", self.n, low=1),
            strategy=checks.one_of(name, "strategy", self.strategy, _STRATEGIES),
            temperature=checks.real_number(name, "temperature", self.temperature, above=0),
            a=checks.real_number(name, "a", self.a, above=0),
            b=checks.real_number(name, "b", self.b),
            seed=checks.whole_number(name, "seed", self.seed, low=0),
        )

    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        keep = np.empty(len(candidates.values), dtype=bool)
        by = score_name(self.by, batch.names)
        if self.strategy == "softmax":
            scores = batch.scores(score_column(by), finite=True).values
            weights = scores.astype(np.float64) / self.temperature
        elif self.strategy == "simans":
            own = batch.scores(score_column(by), finite=True).values.astype(np.float64)
            aims = _means(batch.scores(score_column(by, of="positive"), finite=True))[candidates.owners] + self.b
            weights = np.where(np.isnan(aims), 0, -self.a * (own - aims) ** 2)
        else:
            weights = np.zeros(len(keep))
        strata, counts = np.ones((1, len(keep)), dtype=bool), np.array([self.n])
        if isinstance(self.n, Mapping):
            strata = np.array([self._members(batch, stratum) for stratum in self.n])
            counts = np.array(list(self.n.values()))
        sample_mask(candidates.offsets, weights, batch.row_keys(), self.seed, strata, counts, keep)
        return keep

    def _tell_left(self, batch: Batch, candidates: Ragged[pa.Array], left: NDArray[np.int64]) -> None:
        super()._tell_left(batch, candidates, left)
        if isinstance(self.n, Mapping):
            had = candidates.lengths > 0
            short = had & (left < sum(self.n.values()))
            if 2 * short.sum() > had.sum():
                why = partial(self._members_of, batch, candidates, short)
                self._tell("short", "fewer than wanted can be drawn in", short, had, why)

    def _members_of(self, batch: Batch, candidates: Ragged[pa.Array], rows: NDArray[np.bool_]) -> str:
        """Say how many candidates of each source or band these rows have."""
        said = []
        for stratum, n in self.n.items() if isinstance(self.n, Mapping) else ():
            sizes = np.diff(kept_offsets(candidates.offsets, self._members(batch, stratum)))[rows]
            name = f"the source {stratum!r}"
            if not isinstance(stratum, str):
                name = "the band of {} {:g} to {:g}".format(self.bands, *stratum)
            said.append(f"{n} of {name}, of which they have {span(sizes)}, {sizes.mean():.3g} on average")
        return (
            f"wanted are {'; '.join(said)}. Mine more candidates with a larger k=, put filters after this step, or ask "
            f"for fewer."
        )

    def _why_dropped(self, batch: Batch, candidates: Ragged[pa.Array], dropped: NDArray[np.int64]) -> list[str]:
        return ["not drawn"] * len(dropped)

    def _members(self, batch: Batch, stratum: _Stratum) -> NDArray[np.bool_]:
        """Tell which candidates belong to a stratum. Shape (C,)."""
        values: NDArray[Any] = batch.scores(self._column_of(stratum)).values
        # What a source did not find has rank 0 in it.
        return values > 0 if isinstance(stratum, str) else within(values, *stratum)


def _checked_counts(counts: Mapping[Any, Any]) -> Ordered:
    """Return plain numbers by source or band."""
    name = "SampleNegatives"
    example = "{'bm25': 2, 'dense': 3} for sources or {(1, 10): 2, (11, 100): 4} for bands"
    if not counts or len({isinstance(stratum, str) for stratum in counts}) > 1:
        raise ValueError(f"{name}: n must be a whole number, or a number per source or per band: {example}.")
    checked = Ordered()
    for stratum, n in counts.items():
        if not isinstance(stratum, str):
            if not isinstance(stratum, tuple) or len(stratum) != 2:
                raise TypeError(f"{name}: {stratum!r} is no source and no band; n is such as {example}.")
            low, high = (
                end if end in (-math.inf, math.inf) else checks.real_number(name, f"an end of the band {stratum}", end)
                for end in stratum
            )
            if high < low:
                raise ValueError(f"{name}: the band {stratum} is empty; its second number must reach the first.")
            stratum = (low, high)
        checked[stratum] = checks.whole_number(name, f"n[{stratum!r}]", n, low=1)
    return checked
