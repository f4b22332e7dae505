"""`compare_negatives`: what two minings of the same queries have in common, and which is harder."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.audit.describing import name_passage
from hnm_datasets.audit.reading import given_rows, iter_rows, passages_of, query_keys
from hnm_datasets.audit.tables import Report, Table, number, percent
from hnm_datasets.audit.tally import mean_of_rows
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.formats.base import Layout
from hnm_datasets.formats.registry import recognize
from hnm_datasets.rows import Rows

_NAME = "compare_negatives"
_EXAMPLES, _SHOWN = 3, 2
#: Rows that tell which retrievers there are.
_PROBED = 100


@dataclass(frozen=True)
class Difference:
    """A query on which two minings differ.

    Attributes:
        query: The query.
        only_first: Negatives that the first has alone, described.
        only_second: Negatives that the second has alone.
    """

    query: str
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Comparison(Report):
    """What `compare_negatives` found. It shows itself in a terminal, and as HTML in a notebook.

    Args:
        names: The names of the two.
        queries: Queries that both have, and those that one has alone.
        compared: How many of the common ones were compared.
        overlap: The share of both lists' negatives that are common (Jaccard), mean over queries.
        in_other: Which share of the first's negatives the second has, and of the second's the first.
        by: The scorer that compares their hardness; None where no scorer has scored both.
        hardness: The mean score of the negatives of each, less that of the positives.
        difference: How much harder the first is: the mean difference over queries, and its 95% interval, whose bounds
            are None where one query alone could be compared.
        examples: The queries on which they differ most.

    Example:
        >>> from hnm_datasets import BM25Negatives, RandomNegatives, compare_negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> bm25 = queries.map(BM25Negatives(corpus, k=4), batched=True)
        >>> compare_negatives(bm25, bm25, corpus).overlap
        1.0
    """

    names: tuple[str, str]
    queries: tuple[int, int, int]
    compared: int
    overlap: float
    in_other: tuple[float, float]
    by: str | None
    hardness: tuple[float, float] | None
    difference: tuple[float, float | None, float | None] | None
    examples: tuple[Difference, ...]

    def _heading(self) -> str:
        return f"{self.names[0]} against {self.names[1]}: {self.queries[0]:,} common queries. {self._verdict()}"

    def _verdict(self) -> str:
        if self.difference is None:
            return "Which is harder is unknown: let one teacher score both."
        mean, low, high = self.difference
        if low is None or high is None:
            return "Which is harder is unknown: one query tells too little."
        if low <= 0 <= high:
            return f"By {self.by} neither is harder."
        return f"By {self.by} {self.names[0] if mean > 0 else self.names[1]} is harder."

    def _tables(self) -> list[Table]:
        first, second = self.names
        rows = [
            (f"queries in {first} alone", number(self.queries[1])),
            (f"queries in {second} alone", number(self.queries[2])),
            ("common share of negatives (Jaccard)", percent(self.overlap)),
            (f"negatives of {first} that {second} has", percent(self.in_other[0])),
            (f"negatives of {second} that {first} has", percent(self.in_other[1])),
        ]
        if self.hardness is not None and self.difference is not None:
            rows += [
                (f"{self.by} of negatives less that of positives, {name}", number(value))
                for name, value in zip(self.names, self.hardness, strict=True)
            ]
            mean, low, high = map(number, self.difference)
            interval = "" if self.difference[1] is None else f" (95% interval {low} to {high})"
            rows.append((f"{first} less {second}", f"{mean}{interval}"))
        note = f"Of {self.compared:,} sampled queries." if self.compared < self.queries[0] else ""
        tables = [Table("Overlap and hardness", ("", ""), tuple(rows), note=note)]
        if self.examples:
            cells = tuple((one.query, "; ".join(one.only_first), "; ".join(one.only_second)) for one in self.examples)
            tables.append(Table("Where they differ", ("query", f"{first} alone", f"{second} alone"), cells))
        return tables


def compare_negatives(
    first: Rows,
    second: Rows,
    corpus: Corpus | None = None,
    *,
    names: tuple[str, str] = ("first", "second"),
    by: str | None = None,
    sample: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two minings of the same queries: their overlap, which is harder, and where they differ.

    Args:
        first: Mined rows in any form that `audit_negatives` knows.
        second: Others; queries are matched by their ids if both have them, else by their texts.
        corpus: The passages; needed where one has ids alone and the other texts, and for examples with texts.
        names: The names of the two in the result.
        by: The scores that measure hardness: a teacher's name, or `"score"`. None: a teacher that both have;
            or the retriever, if it is the same one.
        sample: How many of the common queries are compared.
        seed: For the sample.

    Returns:
        A `Comparison`: it prints itself, shows itself in a notebook, and has `.to_dict()` and `.to_markdown()`.

    Raises:
        KeyError: The columns are in no known form, or one has no scores of the name `by`.
        ValueError: There is no common query, or ids cannot be compared with texts.

    Example:
        >>> rows = {"anchor": ["a?", "b?"], "positive": ["A.", "B."], "negative": ["C.", "D."]}
        >>> found = compare_negatives(Dataset.from_dict(rows), Dataset.from_dict(rows | {"negative": ["C.", "E."]}))
        >>> found.overlap, found.in_other
        (0.5, (0.5, 0.5))
        >>> found.examples
        (Difference(query='b?', only_first=("'D.'",), only_second=("'E.'",)),)
    """
    sample = checks.whole_number(_NAME, "sample", sample, low=1)
    seed = checks.whole_number(_NAME, "seed", seed, low=0)
    if corpus is not None:
        check_corpus(_NAME, corpus)
    if len(names) != 2 or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{_NAME}: names must be two, got {names!r}.")
    given = {"first": first, "second": second}
    sides = [_Side(given_rows(_NAME, rows, name), corpus) for name, rows in given.items()]
    by_id = all(side.form.query_id is not None for side in sides)
    for side in sides:
        side.read_queries(by_id)
    common = np.intersect1d(sides[0].queries, sides[1].queries)
    if not len(common):
        raise ValueError(
            f"{_NAME}: the two have no query in common, by {'their ids' if by_id else 'their texts'}. Are both of the "
            f"same queries?"
        )
    alone = [len(np.setdiff1d(side.queries, common)) for side in sides]
    chosen = common
    if len(common) > sample:
        chosen = np.sort(np.random.default_rng(seed).choice(common, sample, replace=False))
    by = _scorer(sides, by)
    by_text = corpus is not None or not all(side.form.format.needs_corpus for side in sides)
    if corpus is None and len({side.form.format.needs_corpus for side in sides}) > 1:
        raise ValueError(
            f"{_NAME}: one dataset is in the form {sides[0].form.format.name!r} and the other in "
            f"{sides[1].form.format.name!r}: ids and texts are compared by the corpus: {_NAME}(first, second, corpus)."
        )
    for side in sides:
        side.read(chosen, by, by_text)
    pairs = [np.unique(np.stack([side.owners, side.passages], axis=1), axis=0) for side in sides]
    both = _common(*pairs)
    counts = [np.bincount(part[:, 0].astype(np.int64), minlength=len(chosen)) for part in (*pairs, both)]
    union = counts[0] + counts[1] - counts[2]
    overlap = counts[2][union > 0] / union[union > 0]
    hardness = difference = None
    if by is not None:
        gaps = [side.hardness(len(chosen)) for side in sides]
        known = np.isfinite(gaps[0]) & np.isfinite(gaps[1])
        if known.any():
            hardness = (float(gaps[0][known].mean()), float(gaps[1][known].mean()))
            difference = _interval(gaps[0][known] - gaps[1][known])
    # Queries without negatives in either are the same in both.
    order = np.argsort(np.where(union > 0, counts[2] / np.maximum(union, 1), 1.0), kind="stable")[:_EXAMPLES]
    differing = [query for query in order.tolist() if union[query] > counts[2][query]]
    return Comparison(
        names=(names[0], names[1]),
        queries=(len(common), alone[0], alone[1]),
        compared=len(chosen),
        overlap=float(overlap.mean()) if len(overlap) else 0.0,
        in_other=(len(both) / max(len(pairs[0]), 1), len(both) / max(len(pairs[1]), 1)),
        by=by,
        hardness=hardness,
        difference=difference,
        examples=_examples(sides, chosen, differing),
    )


class _Side:
    """One of the two minings."""

    def __init__(self, dataset: Dataset, corpus: Corpus | None) -> None:
        self.form: Layout = recognize(dataset.column_names, _NAME)
        self.dataset, self.corpus = dataset, corpus

    def read_queries(self, by_id: bool) -> None:
        self.by_id = by_id
        self.keys = np.concatenate([query_keys(rows, by_id) for rows in iter_rows(self.dataset, self.form, _NAME)])
        self.queries = np.unique(self.keys)

    def scorers(self) -> set[str]:
        """The scorers that have scored positives and negatives."""
        rows = next(iter_rows(self.dataset.select(range(1)), self.form, _NAME))
        return rows.positives.scores.keys() & rows.negatives.scores.keys()

    def sources(self) -> set[str]:
        """The retrievers that found the negatives of the first rows."""
        first = self.dataset.select(range(min(_PROBED, len(self.dataset))))
        found = [rows.negatives.sources for rows in iter_rows(first, self.form, _NAME)]
        return {source for sources in found if sources is not None for source in sources.to_pylist()}

    def read(self, chosen: NDArray[np.uint64], by: str | None, by_text: bool) -> None:
        """Read the negatives of the chosen queries.

        Sets:
            owners: The query of each negative, as its place in `chosen`. Shape (P,).
            passages: Its number. Shape (P,).
            names: Its description. Shape (P,).
            texts: The chosen queries' texts, by place.
        """
        rows_of_chosen = np.flatnonzero(np.isin(self.keys, chosen))
        self.chosen = self.dataset.select(rows_of_chosen)
        owners, passages, gaps = [], [], []
        for rows in iter_rows(self.chosen, self.form, _NAME):
            places = np.searchsorted(chosen, query_keys(rows, self.by_id))
            of_negatives = places[rows.negatives.owners]
            found = passages_of(rows.negatives, self.corpus, as_texts=by_text)
            owners.append(of_negatives.astype(np.uint64))
            passages.append(found.text if by_text else found.own)
            if by is not None:
                limits = mean_of_rows(rows.positives.scores[by], rows.positives)[rows.negatives.owners]
                gaps.append(rows.negatives.scores[by] - limits)
        self.owners, self.passages = np.concatenate(owners), np.concatenate(passages)
        self.gaps = np.concatenate(gaps) if gaps else None

    def hardness(self, n_queries: int) -> NDArray[np.float64]:
        """Return each query's mean of its negatives' scores less those of its positives; NaN where unknown."""
        assert self.gaps is not None
        known = np.isfinite(self.gaps)
        owners = self.owners.astype(np.int64)[known]
        totals = np.bincount(owners, weights=self.gaps[known], minlength=n_queries)
        counts = np.bincount(owners, minlength=n_queries)
        with np.errstate(invalid="ignore"):
            return totals / np.where(counts > 0, counts, np.nan)

    def of_query(self, query: int, key: np.uint64) -> tuple[str, dict[int, str]]:
        """Return a query's text and its negatives: number to description."""
        rows_of_query = np.flatnonzero(self.keys == key)
        text = ""
        named: dict[int, str] = {}
        flat = iter(self.passages[self.owners == query].tolist())
        for rows in iter_rows(self.dataset.select(rows_of_query), self.form, _NAME):
            text = rows.queries[0].as_py()
            for place in range(len(rows.negatives)):
                named.setdefault(next(flat), name_passage(rows.negatives, place, self.corpus))
        return text, named


def _scorer(sides: list[_Side], by: str | None) -> str | None:
    common = sides[0].scorers() & sides[1].scorers()
    if by is not None:
        if by not in common:
            raise KeyError(
                f"{_NAME}: not both datasets have scores of positives and negatives by {by!r}; common are "
                f"{sorted(common)}. Score both with the same step first."
            )
        return by
    teachers = sorted(common - {"score"})
    if teachers:
        return "teacher" if "teacher" in teachers else teachers[0]
    # Scores of two retrievers cannot be compared.
    same = sides[0].sources() == sides[1].sources() != set()
    return "score" if "score" in common and same else None


def _common(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the pairs that are in both, each of which has none twice."""
    pairs, counts = np.unique(np.concatenate([first, second]), axis=0, return_counts=True)
    return np.asarray(pairs[counts == 2])


def _interval(differences: NDArray[np.float64]) -> tuple[float, float | None, float | None]:
    mean = float(differences.mean())
    if len(differences) < 2:
        return mean, None, None
    half = 1.96 * float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return mean, mean - half, mean + half


def _examples(sides: list[_Side], chosen: NDArray[np.uint64], queries: list[int]) -> tuple[Difference, ...]:
    examples = []
    for query in queries:
        (text, one), (_, other) = (side.of_query(query, chosen[query]) for side in sides)
        only_one = tuple(name for key, name in one.items() if key not in other)[:_SHOWN]
        only_other = tuple(name for key, name in other.items() if key not in one)[:_SHOWN]
        examples.append(Difference(text, only_one, only_other))
    return tuple(examples)
