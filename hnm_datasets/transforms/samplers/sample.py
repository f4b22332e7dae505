"""Samplers: select a number of candidates per row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.draws import sample_mask
from hnm_datasets.arrays.ragged import Ragged, kept_offsets, positions_within
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, NEGATIVE_RANKS, score_column, score_name
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.corpus.shingles import open_shingles
from hnm_datasets.models.embeddings import Embeddings
from hnm_datasets.transforms.base import CandidateFilter
from hnm_datasets.transforms.filters.limits import span, within
from hnm_datasets.transforms.samplers.kernels import diverse_mask
from hnm_datasets.transforms.samplers.strata import Stratum, by_value, checked_counts
from hnm_datasets.transforms.similarity import check_embeddings, compared_by, in_parts

_STRATEGIES = ("uniform", "softmax", "simans")


def first_mask(offsets: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    """Mark the first n values of each list. Shape (B + 1,) → (C,)."""
    return np.asarray(positions_within(offsets) < n)


def _means(lists: Ragged[NDArray[np.generic]]) -> NDArray[np.float64]:
    """Return the mean of each list, NaN for an empty list. Shape (B,)."""
    totals = np.bincount(lists.owners, weights=lists.values.astype(np.float64), minlength=len(lists))
    means = np.full(len(lists), np.nan)
    filled = lists.lengths > 0
    means[filled] = totals[filled] / lists.lengths[filled]
    return means


@dataclass(frozen=True)
class TopNegatives(CandidateFilter):
    """Keep the first n candidates of each row, which are the hardest. A row with fewer keeps all its candidates.

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
        numbers = positions_within(candidates.offsets)[dropped] + 1
        return [f"candidate {number} of n={self.n}" for number in numbers.tolist()]


@dataclass(frozen=True)
class SampleNegatives(CandidateFilter):
    """Sample n candidates of each row without replacement, keeping their order.

    The sample depends only on the seed, the row's `query_id` (or its `query`) and the row's candidates, not on the
    position of the row or on batching. A row with at most n candidates keeps all of them.

    Args:
        n: Candidates per row. Or a dict with the number of candidates per source merged by `FuseNegatives`, as in
            `{"bm25": 2, "dense": 3}`, or per band, both ends included, as in `{(1, 10): 2, (11, math.inf): 4}`. Sources
            and bands are sampled in this order, and a candidate from two sources counts for the first that draws it. If
            one has too few candidates, all of them are kept and the others do not compensate. With `per`, n is the
            number of candidates per value, or a dict of numbers as in `{"en": 2, "de": 3}`.
        bands: The quantity that defines bands: `"rank"`, `"score"` (the retriever's), or a teacher's name.
        strategy: `"uniform"` samples uniformly; `"softmax"` in proportion to exp(score / temperature); `"simans"` in
            proportion to exp(-a·(s⁻ - s⁺ - b)²), which favors candidates that score about as high as the positive,
            neither too easy nor likely false negatives (Zhou et al. 2022, *SimANS*, https://arxiv.org/abs/2210.11773).
        temperature: For `"softmax"`, in the units of the score. Near 0 the hardest candidates are taken; with a large
            value sampling is almost uniform.
        seed: The random seed.
        by: For `"softmax"` and `"simans"`: `"score"` for the retriever's scores, or a teacher's name. None uses the
            teacher's scores if the rows have `negative_teacher_scores`, else the retriever's.
        a: For `"simans"`: how sharply the probability falls with the squared score difference. The paper's default for
            dot products is 1; cosines need about 100.
        b: For `"simans"`: the offset from the positive's score at which the probability is highest; negative values are
            below it.
        per: A column of the corpus, such as `"language"` or `"site"` (`Corpus.from_dataset(columns=...)`), or
            `"group"`: sample n candidates for each of its values. `""` means no value.
        diversity: Penalizes similarity to candidates that are already drawn. The probability of a candidate is
            multiplied by exp(-diversity·s), where s is its similarity to the most similar drawn candidate, at most 1. 0
            disables it; with 5, the probability of a copy is reduced to less than a hundredth. With `"softmax"` and a
            low temperature this is maximal marginal relevance (Carbonell and Goldstein 1998), which maximizes
            score - temperature·diversity·s. Diverse negatives train better than random ones of the same hardness (Cohen
            et al. 2024, *InDi*, https://doi.org/10.1007/978-3-031-56063-7_16).
        corpus: The passages; required for `per` and `diversity`.
        embeddings: For `diversity`: compare by the cosine of these vectors, `corpus.embed(model)`. None compares by the
            word trigrams that two texts share (see `DropNearDuplicates`).

    Columns read:
        `negative_ids`, `query_id` or `query`; for `"softmax"` and `"simans"` the score column; for `"simans"` also the
        scores of the positives (their mean if there are several; rows without positives are sampled uniformly); for
        sources `negative_<source>_ranks`; for bands `negative_ranks` or the score column.

    Columns written:
        All aligned `negative_*` columns.

    Raises:
        KeyError: A column is missing from the rows (for example, of a source that was not fused) or from the corpus.
        ValueError: `n` is less than 1 or mixes sources and bands, a band is empty, the strategy is unknown, the
            temperature is not greater than 0, `diversity` is negative, or an option lacks another that it requires.

    Example:
        >>> batch = {"query": ["what causes earthquakes?"], "negative_ids": [["a", "b", "c", "d"]]}
        >>> sampled = SampleNegatives(2, seed=3)(batch)
        >>> len(sampled["negative_ids"][0]), sampled == SampleNegatives(2, seed=3)(batch)
        (2, True)
        >>> SampleNegatives({(1, 10): 1, (11, 50): 1})(batch | {"negative_ranks": [[3, 40, 60, 70]]})["negative_ids"]
        [['a', 'b']]
        >>> from datasets import Dataset
        >>> passages = {"id": ["a", "b", "c", "d"], "text": ["w", "x", "y", "z"], "site": ["s1", "s1", "s2", "s2"]}
        >>> corpus = Corpus.from_dataset(passages, columns=["site"])
        >>> SampleNegatives({"s1": 2, "s2": 1}, per="site", corpus=corpus, seed=3)(batch)["negative_ids"]
        [['a', 'b', 'd']]
    """

    n: int | Mapping[str, int] | Mapping[tuple[float, float], int]
    strategy: str = "uniform"
    temperature: float = 1.0
    seed: int = 0
    by: str | None = None
    a: float = 1.0
    b: float = 0.0
    bands: str = "rank"
    _: KW_ONLY
    per: str | None = None
    diversity: float = 0.0
    corpus: Corpus | None = None
    embeddings: Embeddings | None = None

    @property
    def input_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step reads in addition to `query_id` or `query`."""
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
    def _strata(self) -> tuple[Stratum, ...]:
        return tuple(self.n) if isinstance(self.n, Mapping) and self.per is None else ()

    def _column_of(self, stratum: Stratum) -> str:
        """Return the column that determines which candidates belong to a stratum."""
        if isinstance(stratum, str):
            return f"negative_{stratum}_ranks"
        return NEGATIVE_RANKS if self.bands == "rank" else score_column(self.bands)

    def __post_init__(self) -> None:
        name = "SampleNegatives"
        if not isinstance(self.bands, str) or not self.bands:
            raise TypeError(f"{name}: bands must be 'rank', 'score' or a teacher's name, got {self.bands!r}.")
        checks.score_option(name, "by", self.by)
        self._set(
            n=checked_counts(self.n, self.per)
            if isinstance(self.n, Mapping)
            else checks.whole_number(name, "n", self.n, low=1),
            strategy=checks.one_of(name, "strategy", self.strategy, _STRATEGIES),
            temperature=checks.real_number(name, "temperature", self.temperature, above=0),
            a=checks.real_number(name, "a", self.a, above=0),
            b=checks.real_number(name, "b", self.b),
            seed=checks.whole_number(name, "seed", self.seed, low=0),
            diversity=checks.real_number(name, "diversity", self.diversity),
        )
        self._check_corpus(name)

    def _check_corpus(self, name: str) -> None:
        if self.diversity < 0:
            raise ValueError(f"{name}: diversity must not be negative, got {self.diversity:g}.")
        if self.embeddings is not None and not self.diversity:
            raise ValueError(f"{name}: embeddings are only used with diversity=; pass both or neither.")
        if self.per is not None and not isinstance(self.per, str):
            raise TypeError(f"{name}: per must be the name of a column of the corpus, got {self.per!r}.")
        needed = self.per is not None or self.diversity > 0
        if self.corpus is None and needed:
            raise ValueError(f"{name}: per and diversity require the passages; pass corpus=.")
        if self.corpus is not None:
            check_corpus(name, self.corpus)
            if not needed:
                raise ValueError(
                    f"{name}: corpus is only used with per= or diversity=; pass one of them, or no corpus."
                )
            if self.per is not None:
                try:
                    self.corpus.value_codes(self.per)
                except KeyError as error:
                    raise KeyError(f"{name}: {error.args[0]}") from None
            if self.embeddings is not None:
                check_embeddings(name, self.corpus, self.embeddings)

    def prepare(self) -> None:
        """Hash the word trigrams of the corpus, if texts are compared and the hashes are not cached."""
        if self.corpus is not None and self.diversity and self.embeddings is None:
            open_shingles(self.corpus)

    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        keep = np.empty(len(candidates.values), dtype=bool)
        weights, keys, strata = self._log_weights(batch, candidates), batch.row_keys(), self._strata_in(batch)
        alike = None
        if self.corpus is not None and self.diversity:
            rows = batch.rows_in(NEGATIVE_IDS, self.corpus).values
            alike = compared_by(self.corpus, self.embeddings, rows)

        def draw(part: slice) -> None:
            ends = candidates.offsets[part.start : part.stop + 1]
            own = slice(ends[0], ends[-1])
            members, counts = strata(candidates.owners[own], own)
            taken = (ends - ends[0], weights[own], keys[part], self.seed, members, counts, keep[own])
            if alike is None:
                sample_mask(*taken)
            else:
                numbers, compared = alike
                diverse_mask(*taken, self.diversity, numbers[own], *compared)

        in_parts(draw, len(candidates))
        return keep

    def _log_weights(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.float64]:
        """Return the log-probability of each candidate, up to a constant per row. Shape (C,)."""
        by = score_name(self.by, batch.names)
        if self.strategy == "uniform":
            return np.zeros(len(candidates.values))
        scores = batch.scores(score_column(by), finite=True).values.astype(np.float64)
        if self.strategy == "softmax":
            return scores / self.temperature
        aims = _means(batch.scores(score_column(by, of="positive"), finite=True))[candidates.owners] + self.b
        return np.where(np.isnan(aims), 0, -self.a * (scores - aims) ** 2)

    def _strata_in(
        self, batch: Batch
    ) -> Callable[[NDArray[np.int64], slice], tuple[NDArray[np.bool_], NDArray[np.int64]]]:
        """Return a function from the owners and the slice of some candidates to their strata, see `sample_mask`."""
        if isinstance(self.n, Mapping):
            members = np.array([self._members(batch, stratum) for stratum in self.n])
            counts = np.array(list(self.n.values()))
            return lambda owners, own: (np.ascontiguousarray(members[:, own]), counts)
        n = self.n
        if self.corpus is None or self.per is None:
            return lambda owners, own: (np.ones((1, len(owners)), dtype=bool), np.array([n]))
        codes = self.corpus.value_codes(self.per)[batch.rows_in(NEGATIVE_IDS, self.corpus).values]

        def of_each(owners: NDArray[np.int64], own: slice) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
            values = by_value(owners, codes[own])
            return values, np.full(len(values), n)

        return of_each

    def _warn_if_emptied(self, batch: Batch, candidates: Ragged[pa.Array], left: NDArray[np.int64]) -> None:
        super()._warn_if_emptied(batch, candidates, left)
        if isinstance(self.n, Mapping):
            had = candidates.lengths > 0
            short = had & (left < sum(self.n.values()))
            if 2 * short.sum() > had.sum():
                why = partial(self._members_of, batch, candidates, short)
                self._warn("short", "have fewer than requested", short, had, why)

    def _members_of(self, batch: Batch, candidates: Ragged[pa.Array], rows: NDArray[np.bool_]) -> str:
        """Describe how many candidates of each source, band or value these rows have."""
        parts = []
        for stratum, n in self.n.items() if isinstance(self.n, Mapping) else ():
            sizes = np.diff(kept_offsets(candidates.offsets, self._members(batch, stratum)))[rows]
            name = f"the {self.per or 'source'} {stratum!r}"
            if not isinstance(stratum, str):
                name = "the {} band {:g} to {:g}".format(self.bands, *stratum)
            parts.append(f"{n} of {name} (they have {span(sizes)}, {sizes.mean():.3g} on average)")
        return (
            f"n requests {', '.join(parts)}. Mine more candidates with a larger k=, apply filters after this step, or "
            f"request fewer."
        )

    def _why_dropped(self, batch: Batch, candidates: Ragged[pa.Array], dropped: NDArray[np.int64]) -> list[str]:
        return ["not drawn"] * len(dropped)

    def _members(self, batch: Batch, stratum: Stratum) -> NDArray[np.bool_]:
        """Return which candidates belong to a stratum. Shape (C,)."""
        if self.per is not None and self.corpus is not None:
            rows = pa.array(batch.rows_in(NEGATIVE_IDS, self.corpus).values)
            own = self.corpus.columns[self.per].take(rows)
            return np.asarray(pc.equal(own, stratum).to_numpy(zero_copy_only=False))
        values: NDArray[Any] = batch.scores(self._column_of(stratum)).values
        # A candidate that a source did not find has rank 0.
        return values > 0 if isinstance(stratum, str) else within(values, *stratum)
