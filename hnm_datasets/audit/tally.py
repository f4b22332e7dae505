"""Counting over all rows of a dataset: two passes, in memory that grows by some bytes a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from datasets.utils import tqdm
from numpy.typing import NDArray

from hnm_datasets.audit.false_negatives import Judgements
from hnm_datasets.audit.reading import (
    Passages,
    is_among,
    iter_rows,
    pair_keys,
    passages_of,
    query_keys,
    text_keys,
)
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.corpus.text import is_blank
from hnm_datasets.formats.reading import Form, Rows, Side

_EXAMPLES = 3
_MERGE = 1 << 20


class Counter:
    """How often each of many numbers came, without keeping them all."""

    def __init__(self) -> None:
        self.keys = np.empty(0, dtype=np.uint64)
        self.counts = np.empty(0, dtype=np.int64)
        self._waiting: list[NDArray[np.uint64]] = []
        self._size = 0

    def add(self, keys: NDArray[np.uint64]) -> None:
        """Count some more."""
        self._waiting.append(keys)
        self._size += len(keys)
        if self._size > max(_MERGE, len(self.keys)):
            self.merge()

    def merge(self) -> None:
        """Bring `keys` (ascending) and `counts` up to date."""
        fresh, counts = np.unique(np.concatenate([*self._waiting, np.empty(0, dtype=np.uint64)]), return_counts=True)
        keys, back = np.unique(np.concatenate([self.keys, fresh]), return_inverse=True)
        weights = np.concatenate([self.counts, counts])
        self.keys, self.counts = keys, np.bincount(back, weights=weights, minlength=len(keys)).astype(np.int64)
        self._waiting, self._size = [], 0

    def of(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return how often each of these came, as of the last `merge`."""
        if not len(self.keys):
            return np.zeros(len(keys), dtype=np.int64)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, self.counts[places], 0)


@dataclass
class Found:
    """A number of things found, and the first of them, described."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, which: NDArray[np.bool_], describe: Callable[[int], str]) -> None:
        """Count what is marked, and describe the first few."""
        places = np.flatnonzero(which)
        self.count += len(places)
        for place in places[: _EXAMPLES - len(self.examples)]:
            self.examples.append(describe(int(place)))


@dataclass
class ScoreCounts:
    """How many negatives have a score beside one of a positive, and how many score above it."""

    compared: int = 0
    above: int = 0


@dataclass
class Tally:
    """What two passes over a dataset count.

    Attributes:
        found: Defects by name.
        positive_pairs: All pairs of query and positive by `Passages.own`, ascending.
        positive_texts: The same by `Passages.text`.
        queries: The number of each row's query. Shape (B,).
        negatives_per_row: Shape (B,).
        negatives_per_query: How many negatives each query has, those of several of its rows once. Shape (Q,).
        false_per_row: How many of them were judged relevant. Shape (B,).
        teacher_per_row: How many of them the teacher takes for relevant, and of how many. Shape (2, B).
        negatives: Of how many queries each passage is a negative.
        positives: How often each passage is a positive.
        scores: By scorer.
        sources: How many negatives each source found.
    """

    dataset: Dataset
    form: Form
    corpus: Corpus | None
    judgements: Judgements | None
    teacher: str
    threshold: float | None
    owner: str
    found: dict[str, Found] = field(default_factory=dict)
    negatives: Counter = field(default_factory=Counter)
    positives: Counter = field(default_factory=Counter)
    scores: dict[str, ScoreCounts] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = len(self.dataset)
        self.queries = np.empty(rows, dtype=np.uint64)
        self.negatives_per_row = np.empty(rows, dtype=np.int32)
        self.false_per_row = np.zeros(rows, dtype=np.int32)
        self.teacher_per_row = np.zeros((2, rows), dtype=np.int32)
        self.n_positives = 0
        self._row_keys = np.empty(rows, dtype=np.uint64)
        #: Negatives of queries that have several rows: the pair of query and passage, the passage, the query.
        self._pairs: list[tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]] = []

    def run(self) -> Tally:
        """Make both passes."""
        self._read_positives()
        numbers, code, rows_of_query = np.unique(self.queries, return_inverse=True, return_counts=True)
        self._asked_again = rows_of_query[code] > 1
        with tqdm(total=len(self.dataset), desc="Auditing negatives", unit=" rows") as bar:
            start = 0
            for rows in iter_rows(self.dataset, self.form, self.owner):
                self._read(rows, start)
                start += len(rows.queries)
                bar.update(len(rows.queries))
        pairs, own, asked = (np.concatenate(parts) for parts in zip(*self._pairs, strict=True))
        once = np.unique(pairs, return_index=True)[1]
        self.negatives.add(own[once])
        single = np.where(self._asked_again, 0, self.negatives_per_row)
        self.negatives_per_query = np.bincount(code, weights=single).astype(np.int32)
        np.add.at(self.negatives_per_query, np.searchsorted(numbers, asked[once]), 1)
        self.negatives.merge()
        self._find_repeated_rows()
        return self

    def _found(self, name: str) -> Found:
        return self.found.setdefault(name, Found())

    # ---- first pass: what is known to be relevant ----------------------------------------------------------------

    def _read_positives(self) -> None:
        own, text, start = [], [], 0
        self._query_texts, self._positive_texts_seen = Counter(), Counter()
        with tqdm(total=len(self.dataset), desc="Reading positives", unit=" rows") as bar:
            for rows in iter_rows(self.dataset, self.form, self.owner):
                keys = query_keys(rows)
                self.queries[start : start + len(keys)] = keys
                start += len(keys)
                passages = passages_of(rows.positives, self.corpus)
                owners = keys[rows.positives.owners]
                own.append(pair_keys(owners, passages.own))
                text.append(pair_keys(owners, passages.text))
                self.positives.add(passages.own)
                self.n_positives += len(rows.positives)
                self._query_texts.add(self._query_text_keys(rows))
                self._positive_texts_seen.add(passages.text)
                bar.update(len(keys))
        for counter in (self.positives, self._query_texts, self._positive_texts_seen):
            counter.merge()
        self.positive_pairs = np.unique(np.concatenate(own))
        self.positive_texts = np.unique(np.concatenate(text))

    # ---- second pass: the negatives ------------------------------------------------------------------------------

    def _read(self, rows: Rows, start: int) -> None:
        part = slice(start, start + len(rows.queries))
        queries = self.queries[part]
        positives, negatives = (passages_of(side, self.corpus) for side in (rows.positives, rows.negatives))
        self.negatives_per_row[part] = rows.negatives.lengths

        def describe_row(row: int) -> str:
            return _describe(rows, row)

        def describe(place: int) -> str:
            return describe_pair(rows, rows.negatives, place)

        owners = queries[rows.negatives.owners]
        known = is_among(pair_keys(owners, negatives.own), self.positive_pairs)
        same_text = ~known & is_among(pair_keys(owners, negatives.text), self.positive_texts)
        self._found("known-positives").add(known, describe)
        self._found("duplicates-of-positives").add(same_text, describe)
        query_texts = self._query_text_keys(rows)
        is_query = negatives.text == query_texts[rows.negatives.owners]
        self._found("queries-as-negatives").add(is_query & ~known & ~same_text, describe)
        first = _first_of_text(rows.negatives, negatives)
        self._found("repeated-negatives").add(~first, describe)
        again = self._asked_again[part][rows.negatives.owners]
        self.negatives.add(negatives.own[first & ~again])
        again &= first
        asked, own = owners[again], negatives.own[again]
        self._pairs.append((pair_keys(asked, own), own, asked))
        for side, passages in ((rows.positives, positives), (rows.negatives, negatives)):
            name = partial(describe_pair, rows, side)
            self._found("unknown-passages").add(~passages.known, name)
            if side.texts is not None:
                blank = is_blank(side.full_texts).to_numpy(zero_copy_only=False)
                self._found("empty-passages").add(blank, name)
        if self.form.name != "labeled-pairs":
            self._found("no-negatives").add(rows.negatives.lengths == 0, describe_row)
            self._found("no-positives").add(rows.positives.lengths == 0, describe_row)
        self._find_swapped(rows, queries, query_texts, positives, negatives, part)
        self._count_scores(rows, describe, part)
        self._row_keys[part] = _row_keys(queries, rows, positives, negatives)

    def _query_text_keys(self, rows: Rows) -> NDArray[np.uint64]:
        """Return what `Passages.text` would be if a query were a passage. Shape (B,)."""
        if rows.negatives.texts is not None or self.corpus is None:
            return text_keys(rows.queries)
        return self.corpus.find_texts(rows.queries.to_pylist()).astype(np.uint64)

    def _find_swapped(
        self,
        rows: Rows,
        queries: NDArray[np.uint64],
        query_texts: NDArray[np.uint64],
        positives: Passages,
        negatives: Passages,
        part: slice,
    ) -> None:
        """Find rows whose query is a passage and whose positive is not, or whose negatives are what is relevant."""
        swapped = np.zeros(len(queries), dtype=bool)
        owners = rows.positives.owners
        if self.corpus is not None and rows.positives.texts is not None:
            stranger = np.bincount(owners[~positives.known], minlength=len(queries)) > 0
            swapped |= stranger & (self.corpus.find_texts(rows.queries.to_pylist()) >= 0)
        elif rows.positives.texts is not None:
            # What is mostly a positive stands as the query, and what is mostly a query as the positive. In pairs that
            # are there in both directions, as those of paraphrases, neither is mostly one or the other.
            asked = self._query_texts.of(positives.text) > self._positive_texts_seen.of(positives.text)
            answers = self._query_texts.of(query_texts) < self._positive_texts_seen.of(query_texts)
            swapped |= (np.bincount(owners[asked], minlength=len(queries)) > 0) & answers
        if self.judgements is not None:
            relevant = self.judgements.relevant(queries[rows.negatives.owners], negatives)
            self.false_per_row[part] = np.bincount(rows.negatives.owners[relevant], minlength=len(queries))
            judged = is_among(queries, self.judgements.queries)
            right = self.judgements.relevant(queries[owners], positives)
            wrong = judged[owners] & ~right
            self._found("unjudged-positives").add(wrong, lambda p: describe_pair(rows, rows.positives, p))
            has_right = np.bincount(owners[right], minlength=len(queries)) > 0
            swapped |= judged & (rows.positives.lengths > 0) & ~has_right & (self.false_per_row[part] > 0)
        self._found("swapped-columns").add(swapped, lambda row: _describe(rows, row))

    def _count_scores(self, rows: Rows, describe: Callable[[int], str], part: slice) -> None:
        side = rows.negatives
        for name, positive in rows.positives.scores.items():
            if name in side.scores:
                self._found("bad-scores").add(~np.isfinite(positive), lambda p: describe_pair(rows, rows.positives, p))
        for name, negative in side.scores.items():
            self._found("bad-scores").add(~np.isfinite(negative), describe)
            counts = self.scores.setdefault(name, ScoreCounts())
            if name in rows.positives.scores:
                limits = mean_of_rows(rows.positives.scores[name], rows.positives)[side.owners]
                counts.compared += int(np.isfinite(negative - limits).sum())
                counts.above += int((np.isfinite(negative - limits) & (negative > limits)).sum())
            if name == self.teacher and (self.threshold is not None or name in rows.positives.scores):
                self.teacher_per_row[:, part] = false_by_teacher(rows, name, self.threshold)
        if side.ranks is not None:
            self._found("bad-ranks").add(side.ranks < 1, describe)
        if side.sources is not None and len(side.sources):
            for counted in pc.value_counts(side.sources).to_pylist():
                self.sources[counted["values"]] = self.sources.get(counted["values"], 0) + counted["counts"]

    def is_positive(self, queries: NDArray[np.uint64], passages: Passages) -> NDArray[np.bool_]:
        """Tell which pairs of query and passage are known positives, or the same text as one. Shape (P,)."""
        return is_among(pair_keys(queries, passages.own), self.positive_pairs) | is_among(
            pair_keys(queries, passages.text), self.positive_texts
        )

    def describe_first_row(self) -> str:
        """Name the first row for a person."""
        return _describe(next(iter(iter_rows(self.dataset, self.form, self.owner))), 0)

    def name_of(self, keys: NDArray[np.uint64]) -> list[str]:
        """Name negatives by their numbers, as `Passages.own` has them."""
        if self.form.has_ids and self.corpus is not None:
            inside = keys < len(self.corpus)
            if inside.all():
                return [repr(name) for name in self.corpus.ids(keys.astype(np.int64)).to_pylist()]
        names: dict[int, str] = {}
        wanted = np.sort(keys)
        # What is frequent is found early.
        for rows in iter_rows(self.dataset, self.form, self.owner):
            own = passages_of(rows.negatives, self.corpus).own
            for place in np.flatnonzero(is_among(own, wanted)).tolist():
                names.setdefault(int(own[place]), name_passage(rows.negatives, place))
            if len(names) == len(keys):
                break
        return [names[key] for key in keys.tolist()]

    def _find_repeated_rows(self) -> None:
        _, first = np.unique(self._row_keys, return_index=True)
        repeated = np.ones(len(self._row_keys), dtype=bool)
        repeated[first] = False
        self._found("repeated-rows").add(repeated, lambda row: f"row {row}")


def mean_of_rows(values: NDArray[np.float64], side: Side) -> NDArray[np.float64]:
    """Return the mean of each row's values; NaN for a row without. Shape (P,) → (B,)."""
    totals = np.bincount(side.owners, weights=values, minlength=len(side.lengths))
    with np.errstate(invalid="ignore"):
        return totals / np.where(side.lengths > 0, side.lengths, np.nan)


def false_by_teacher(rows: Rows, teacher: str, threshold: float | None) -> NDArray[np.int64]:
    """Count how many of each row's negatives a teacher takes for relevant, and of how many. Shape (2, B).

    Args:
        rows: Rows with the teacher's scores.
        teacher: Its name.
        threshold: The score from which on; None: the mean of the row's positives.
    """
    side = rows.negatives
    scores = side.scores[teacher]
    if threshold is None:
        limits = mean_of_rows(rows.positives.scores[teacher], rows.positives)[side.owners]
    else:
        limits = np.full(len(side), threshold)
    known = np.isfinite(scores) & np.isfinite(limits)
    false = known & (scores >= limits)
    counts = [np.bincount(side.owners[which], minlength=len(side.lengths)) for which in (false, known)]
    return np.stack(counts)


def _first_of_text(side: Side, passages: Passages) -> NDArray[np.bool_]:
    """Mark each passage that no earlier one of its row repeats. Shape (P,)."""
    order = np.lexsort((np.arange(len(side)), passages.text, side.owners))
    owners, text = side.owners[order], passages.text[order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (owners[1:] != owners[:-1]) | (text[1:] != text[:-1])
    first = np.empty(len(order), dtype=bool)
    first[order] = fresh
    return first


def _row_keys(queries: NDArray[np.uint64], rows: Rows, positives: Passages, negatives: Passages) -> NDArray[np.uint64]:
    """Return 64 bits per row that two rows share if query, positives and negatives are the same, in any order."""
    keys = queries
    for side, passages in ((rows.positives, positives), (rows.negatives, negatives)):
        # A sum does not depend on the order; what is summed is scrambled.
        sums = np.zeros(len(queries), dtype=np.uint64)
        np.add.at(sums, side.owners, pair_keys(queries[side.owners], passages.own))
        keys = pair_keys(keys, sums)
    return keys


def _describe(rows: Rows, row: int) -> str:
    text = _short(rows.queries[row].as_py())
    return f"query {text}" if rows.query_ids is None else f"query {rows.query_ids[row].as_py()!r} ({text})"


def describe_pair(rows: Rows, side: Side, place: int) -> str:
    """Name a passage of a row for a person."""
    return f"{_describe(rows, int(side.owners[place]))}: {name_passage(side, place)}"


def name_passage(side: Side, place: int) -> str:
    """Name a passage by its id, or by the beginning of its text."""
    if side.texts is not None and side.ids is None:
        return _short(side.texts[place].as_py())
    return repr(side.named[place].as_py())


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
