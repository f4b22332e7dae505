"""`compare_negatives`: the overlap and hardness of two sets of negatives for the same queries."""

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
#: Rows to read for the names of the retrievers.
_PROBED = 100


@dataclass(frozen=True)
class Difference:
    """A query for which two sets of negatives differ.

    Attributes:
        query: The query.
        only_first: Negatives that are only in the first set, as text.
        only_second: Negatives that are only in the second set, as text.
    """

    query: str
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Comparison(Report):
    """The result of `compare_negatives`. It prints as tables, and shows HTML in a notebook.

    Args:
        names: The names of the two sets.
        queries: The number of common queries, and of queries that are only in the first and only in the second set.
        compared: The number of common queries compared.
        overlap: The Jaccard overlap of the negatives of a query in both sets, mean over queries.
        in_other: The share of the first set's negatives that are in the second, and the reverse.
        by: The scores that measure hardness; None if no scorer has scored both sets.
        hardness: For each set, the mean score of the negatives minus that of the positives.
        difference: How much harder the first set is: the mean difference over queries and its 95% interval. The ends
            of the interval are None if only one query can be compared.
        examples: The queries for which the sets differ most.

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
            return "Which is harder is unknown: score both with the same teacher."
        mean, low, high = self.difference
        if low is None or high is None:
            return "Which is harder is unknown: one query is not enough."
        if low <= 0 <= high:
            return f"Neither is harder (by {self.by})."
        return f"{self.names[0] if mean > 0 else self.names[1]} is harder (by {self.by})."

    def _tables(self) -> list[Table]:
        first, second = self.names
        rows = [
            (f"queries only in {first}", number(self.queries[1])),
            (f"queries only in {second}", number(self.queries[2])),
            ("overlap of negatives (Jaccard)", percent(self.overlap)),
            (f"negatives of {first} also in {second}", percent(self.in_other[0])),
            (f"negatives of {second} also in {first}", percent(self.in_other[1])),
        ]
        if self.hardness is not None and self.difference is not None:
            rows += [
                (f"{self.by} of negatives minus positives, {name}", number(value))
                for name, value in zip(self.names, self.hardness, strict=True)
            ]
            mean, low, high = map(number, self.difference)
            interval = "" if self.difference[1] is None else f" (95% interval {low} to {high})"
            rows.append((f"{first} minus {second}", f"{mean}{interval}"))
        note = f"On a sample of {self.compared:,} queries." if self.compared < self.queries[0] else ""
        tables = [Table("Overlap and hardness", ("", ""), tuple(rows), note=note)]
        if self.examples:
            cells = tuple((one.query, "; ".join(one.only_first), "; ".join(one.only_second)) for one in self.examples)
            tables.append(Table("Where they differ", ("query", f"only in {first}", f"only in {second}"), cells))
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
    """Compare two sets of negatives for the same queries: their overlap, which is harder, and where they differ.

    Args:
        first: Mined rows in any format that `audit_negatives` recognizes.
        second: Other mined rows. Queries are matched by id if both have ids, else by text.
        corpus: The passages; needed if one set has only ids and the other texts, and to show texts in examples.
        names: The names of the two sets in the result.
        by: The scores that measure hardness: the name of a teacher, or `"score"`. None: a teacher that scored both
            sets, or else the retriever, if it is the same in both.
        sample: The maximum number of common queries to compare.
        seed: Seed for the sample.

    Returns:
        A `Comparison`: it prints as tables, shows HTML in a notebook, and has `.to_dict()` and `.to_markdown()`.

    Raises:
        KeyError: A format is not recognized, or one set has no scores named `by`.
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
        raise ValueError(f"{_NAME}: names must be two non-empty strings, got {names!r}.")
    given = {"first": first, "second": second}
    sides = [_Side(given_rows(_NAME, rows, name), corpus) for name, rows in given.items()]
    by_id = all(side.form.query_id is not None for side in sides)
    for side in sides:
        side.read_queries(by_id)
    common = np.intersect1d(sides[0].queries, sides[1].queries)
    if not len(common):
        raise ValueError(
            f"{_NAME}: the two datasets have no query in common, matched by {'ids' if by_id else 'texts'}. Pass two "
            f"datasets with the same queries."
        )
    alone = [len(np.setdiff1d(side.queries, common)) for side in sides]
    chosen = common
    if len(common) > sample:
        chosen = np.sort(np.random.default_rng(seed).choice(common, sample, replace=False))
    by = _scorer(sides, by)
    by_text = corpus is not None or not all(side.form.format.needs_corpus for side in sides)
    if corpus is None and len({side.form.format.needs_corpus for side in sides}) > 1:
        raise ValueError(
            f"{_NAME}: one dataset has the format {sides[0].form.format.name!r} and the other "
            f"{sides[1].form.format.name!r}. To compare ids with texts, pass the corpus: "
            f"{_NAME}(first, second, corpus)."
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
    # Queries without negatives in both sets do not differ.
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
    """One of the two sets."""

    def __init__(self, dataset: Dataset, corpus: Corpus | None) -> None:
        self.form: Layout = recognize(dataset.column_names, _NAME)
        self.dataset, self.corpus = dataset, corpus

    def read_queries(self, by_id: bool) -> None:
        self.by_id = by_id
        self.keys = np.concatenate([query_keys(rows, by_id) for rows in iter_rows(self.dataset, self.form, _NAME)])
        self.queries = np.unique(self.keys)

    def scorers(self) -> set[str]:
        """The names of the scorers that scored both positives and negatives."""
        rows = next(iter_rows(self.dataset.select(range(1)), self.form, _NAME))
        return rows.positives.scores.keys() & rows.negatives.scores.keys()

    def sources(self) -> set[str]:
        """The retrievers of the negatives in the first rows."""
        first = self.dataset.select(range(min(_PROBED, len(self.dataset))))
        found = [rows.negatives.sources for rows in iter_rows(first, self.form, _NAME)]
        return {source for sources in found if sources is not None for source in sources.to_pylist()}

    def read(self, chosen: NDArray[np.uint64], by: str | None, by_text: bool) -> None:
        """Read the negatives of the chosen queries.

        Sets:
            chosen: The rows of these queries.
            owners: The query of each negative, as its position in `chosen`. Shape (P,).
            passages: The key of each negative. Shape (P,).
            gaps: The score of each negative minus the mean of its positives; None without `by`. Shape (P,).
        """
        rows_of_chosen = np.flatnonzero(np.isin(self.keys, chosen))
        self.chosen = self.dataset.select(rows_of_chosen)
        owners, passages, gaps = [], [], []
        for rows in iter_rows(self.chosen, self.form, _NAME):
            positions = np.searchsorted(chosen, query_keys(rows, self.by_id))
            of_negatives = positions[rows.negatives.owners]
            found = passages_of(rows.negatives, self.corpus, as_texts=by_text)
            owners.append(of_negatives.astype(np.uint64))
            passages.append(found.text if by_text else found.own)
            if by is not None:
                limits = mean_of_rows(rows.positives.scores[by], rows.positives)[rows.negatives.owners]
                gaps.append(rows.negatives.scores[by] - limits)
        self.owners, self.passages = np.concatenate(owners), np.concatenate(passages)
        self.gaps = np.concatenate(gaps) if gaps else None

    def hardness(self, n_queries: int) -> NDArray[np.float64]:
        """Return each query's mean score of negatives minus positives; NaN if unknown. Shape (Q,)."""
        assert self.gaps is not None
        known = np.isfinite(self.gaps)
        owners = self.owners.astype(np.int64)[known]
        totals = np.bincount(owners, weights=self.gaps[known], minlength=n_queries)
        counts = np.bincount(owners, minlength=n_queries)
        with np.errstate(invalid="ignore"):
            return totals / np.where(counts > 0, counts, np.nan)

    def of_query(self, query: int, key: np.uint64) -> tuple[str, dict[int, str]]:
        """Return the text of a query, and the descriptions of its negatives by key."""
        rows_of_query = np.flatnonzero(self.keys == key)
        text = ""
        named: dict[int, str] = {}
        flat = iter(self.passages[self.owners == query].tolist())
        for rows in iter_rows(self.dataset.select(rows_of_query), self.form, _NAME):
            text = rows.queries[0].as_py()
            for position in range(len(rows.negatives)):
                named.setdefault(next(flat), name_passage(rows.negatives, position, self.corpus))
        return text, named


def _scorer(sides: list[_Side], by: str | None) -> str | None:
    common = sides[0].scorers() & sides[1].scorers()
    if by is not None:
        if by not in common:
            raise KeyError(
                f"{_NAME}: not both datasets have scores of positives and negatives by {by!r}; common scores: "
                f"{sorted(common)}. Score both with the same step first."
            )
        return by
    teachers = sorted(common - {"score"})
    if teachers:
        return "teacher" if "teacher" in teachers else teachers[0]
    # Scores of different retrievers cannot be compared.
    same = sides[0].sources() == sides[1].sources() != set()
    return "score" if "score" in common and same else None


def _common(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the pairs that are in both arrays; each array has distinct pairs."""
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
