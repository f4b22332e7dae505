"""Counts over all rows of a dataset, in two passes, with some bytes of memory per row."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.audit.audited_batch import AuditedBatch, describer, has_any
from hnm_datasets.audit.counting import Counter, Found, ScoreCounts
from hnm_datasets.audit.defects import DEFECTS
from hnm_datasets.audit.describing import describe_row, name_passage, name_row
from hnm_datasets.audit.judgments import Judgments
from hnm_datasets.audit.reading import (
    PassageKeys,
    is_among,
    iter_rows,
    pair_keys,
    passages_of,
    queries_as_passages,
    query_keys,
)
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.formats.base import Layout, QueryRows, Side
from hnm_datasets.runtime.bars import ProgressBar


@dataclass
class Tally:
    """The counts of two passes over a dataset.

    Attributes:
        found: The defects, by name.
        positive_pairs: The keys of all (query, positive) pairs by `PassageKeys.own`, ascending.
        positive_texts: The same by `PassageKeys.text` and by `PassageKeys.copy`.
        of_questions: The same by all three keys, with questions instead of queries; only for questions that several
            queries share.
        queries: The key of each row's query. Shape (B,).
        questions: The key of each row's question, shared by queries with the same normalized text. Shape (B,).
        negatives_per_row: The number of negatives of each row. Shape (B,).
        negatives_per_query: The number of distinct negatives of each query. Shape (Q,).
        false_per_row: The number of negatives of each row that are judged relevant. Shape (B,).
        teacher_per_row: The number of negatives of each row that are relevant according to the teacher, and the number
            of those with a score. Shape (2, B).
        negatives: The number of queries of which each passage is a negative.
        positives: How often each passage is a positive.
        judged_false: The negatives that are judged relevant.
        teacher_false: The negatives that are relevant according to the teacher.
        scores: The comparisons with the positives, by scorer.
        sources: The number of negatives by source.
    """

    dataset: Dataset
    form: Layout
    corpus: Corpus | None
    judgments: Judgments | None
    teacher: str
    threshold: float | None
    owner: str
    found: dict[str, Found] = field(default_factory=dict)
    judged_false: Found = field(default_factory=Found)
    teacher_false: Found = field(default_factory=Found)
    negatives: Counter = field(default_factory=Counter)
    positives: Counter = field(default_factory=Counter)
    scores: dict[str, ScoreCounts] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = len(self.dataset)
        self.queries = np.empty(rows, dtype=np.uint64)
        self.questions = np.empty(rows, dtype=np.uint64)
        self.negatives_per_row = np.empty(rows, dtype=np.int32)
        self.false_per_row = np.zeros(rows, dtype=np.int32)
        self.teacher_per_row = np.zeros((2, rows), dtype=np.int32)
        self.n_positives = 0
        self.row_keys = np.empty(rows, dtype=np.uint64)
        #: The negatives of queries with several rows: the keys of the pair, the passage and the query.
        self._pairs: list[tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]] = []

    def run(self) -> Tally:
        """Run both passes."""
        self._read_positives()
        numbers, code, rows_of_query = np.unique(self.queries, return_inverse=True, return_counts=True)
        self._in_several_rows = rows_of_query[code] > 1
        with ProgressBar(len(self.dataset), "Auditing negatives", "rows") as bar:
            start = 0
            for rows in iter_rows(self.dataset, self.form, self.owner):
                self._read(rows, start)
                start += len(rows.queries)
                bar.update(len(rows.queries))
        pairs, own, queries = (np.concatenate(parts) for parts in zip(*self._pairs, strict=True))
        once = np.unique(pairs, return_index=True)[1]
        self.negatives.add(own[once])
        single = np.where(self._in_several_rows, 0, self.negatives_per_row)
        self.negatives_per_query = np.bincount(code, weights=single).astype(np.int32)
        np.add.at(self.negatives_per_query, np.searchsorted(numbers, queries[once]), 1)
        self.negatives.merge()
        return self

    # ---- first pass: the known positives -------------------------------------------------------------------------

    def _read_positives(self) -> None:
        own, text, start = [], [], 0
        self._query_texts, self._positive_texts_seen = Counter(), Counter()
        with ProgressBar(len(self.dataset), "Reading positives", "rows") as bar:
            for rows in iter_rows(self.dataset, self.form, self.owner):
                keys = query_keys(rows)
                self.queries[start : start + len(keys)] = keys
                queries = self._as_passages(rows)
                self.questions[start : start + len(keys)] = queries.own
                start += len(keys)
                passages = passages_of(rows.positives, self.corpus)
                owners = keys[rows.positives.owners]
                own.append(pair_keys(owners, passages.own))
                text.append(pair_keys(owners, passages.text))
                if passages.copy is not passages.text:
                    text.append(pair_keys(owners, passages.copy))
                self.positives.add(passages.own)
                self.n_positives += len(rows.positives)
                self._query_texts.add(queries.text)
                self._positive_texts_seen.add(passages.text)
                bar.update(len(keys))
        for counter in (self.positives, self._query_texts, self._positive_texts_seen):
            counter.merge()
        self.positive_pairs = np.unique(np.concatenate(own))
        self.positive_texts = np.unique(np.concatenate(text))
        self.of_questions = self._positives_of_questions()

    def _positives_of_questions(self) -> NDArray[np.uint64]:
        """Return the keys of all (question, positive) pairs, ascending, for questions that several queries share."""
        several = several_queries(self.queries, self.questions)
        pairs, start = [np.empty(0, dtype=np.uint64)], 0
        for rows in iter_rows(self.dataset, self.form, self.owner) if several.any() else ():
            part = slice(start, start + len(rows.queries))
            start = part.stop
            used = several[part][rows.positives.owners]
            owners = self.questions[part][rows.positives.owners][used]
            passages = passages_of(rows.positives, self.corpus)
            pairs += [pair_keys(owners, keys[used]) for keys in (passages.own, passages.text, passages.copy)]
        return np.unique(np.concatenate(pairs))

    # ---- second pass: the negatives ------------------------------------------------------------------------------

    def _read(self, rows: QueryRows, start: int) -> None:
        part = slice(start, start + len(rows.queries))
        queries = self.queries[part]
        batch = AuditedBatch(
            rows,
            self.form,
            self.corpus,
            self.judgments,
            queries,
            self.questions[part],
            self._as_passages(rows),
            passages_of(rows.positives, self.corpus),
            passages_of(rows.negatives, self.corpus),
            self.positive_pairs,
            self.positive_texts,
            self.of_questions,
            self._query_texts,
            self._positive_texts_seen,
        )
        for defect in DEFECTS:
            if defect.in_batch is not None:
                for kind, mask in defect.in_batch(batch):
                    self.found.setdefault(defect.name, Found()).add(mask, describer(rows, kind, self.corpus))
        self.judged_false.add(batch.judged_relevant["negative"], describer(rows, "negative", self.corpus))
        self.negatives_per_row[part] = rows.negatives.lengths
        self._count_negatives(batch, self._in_several_rows[part][rows.negatives.owners])
        self.false_per_row[part] = np.bincount(
            rows.negatives.owners[batch.judged_relevant["negative"]], minlength=len(queries)
        )
        self._count_scores(rows, part)
        self.row_keys[part] = _row_keys(queries, rows, batch.positives, batch.negatives)

    def _count_negatives(self, batch: AuditedBatch, again: NDArray[np.bool_]) -> None:
        """Count each passage once per query; collect the pairs of queries with several rows, to count them later."""
        first, own = batch.first_of_text, batch.negatives.own
        self.negatives.add(own[first & ~again])
        again = again & first
        queries, own = batch.queries[batch.rows.negatives.owners][again], own[again]
        self._pairs.append((pair_keys(queries, own), own, queries))

    def _as_passages(self, rows: QueryRows) -> PassageKeys:
        """Return the keys that the queries would have as passages."""
        return queries_as_passages(rows.queries, self.corpus, by_text=rows.negatives.texts is not None)

    def _count_scores(self, rows: QueryRows, part: slice) -> None:
        side = rows.negatives
        for name, negative in side.scores.items():
            counts = self.scores.setdefault(name, ScoreCounts())
            if name in rows.positives.scores:
                limits = mean_of_rows(rows.positives.scores[name], rows.positives)[side.owners]
                counts.compared += int(np.isfinite(negative - limits).sum())
                counts.above += int((np.isfinite(negative - limits) & (negative > limits)).sum())
            if name == self.teacher and (self.threshold is not None or name in rows.positives.scores):
                false, known = false_by_teacher(rows, name, self.threshold)
                self.teacher_false.add(false, describer(rows, "negative", self.corpus))
                self.teacher_per_row[:, part] = counts_per_row(rows, false, known)
        if side.sources is not None and len(side.sources):
            for counted in pc.value_counts(side.sources).to_pylist():
                self.sources[counted["values"]] = self.sources.get(counted["values"], 0) + counted["counts"]

    def is_positive(self, queries: NDArray[np.uint64], passages: PassageKeys) -> NDArray[np.bool_]:
        """Mark the (query, passage) pairs that are known positives, or copies of one. Shape (P,)."""
        known = is_among(pair_keys(queries, passages.own), self.positive_pairs)
        return known | has_any(queries, passages[1:3], self.positive_texts)

    def describe_first_row(self) -> str:
        """Describe the first row, for errors."""
        return describe_row(next(iter(iter_rows(self.dataset, self.form, self.owner))), 0)

    def name_of(self, keys: NDArray[np.uint64]) -> list[str]:
        """Describe negatives by their keys, as in `PassageKeys.own`."""
        if self.form.format.needs_corpus and self.corpus is not None:
            inside = keys < len(self.corpus)
            if inside.all():
                return [name_row(self.corpus, row) for row in keys.astype(np.int64).tolist()]
        names: dict[int, str] = {}
        wanted = np.sort(keys)
        # Frequent passages occur early.
        for rows in iter_rows(self.dataset, self.form, self.owner):
            own = passages_of(rows.negatives, self.corpus).own
            for position in np.flatnonzero(is_among(own, wanted)).tolist():
                names.setdefault(int(own[position]), name_passage(rows.negatives, position, self.corpus))
            if len(names) == len(keys):
                break
        return [names[key] for key in keys.tolist()]


def several_queries(queries: NDArray[np.uint64], questions: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Mark the rows with a question that several queries share. Shape (B,)."""
    numbers, code = np.unique(questions, return_inverse=True)
    lowest = np.full(len(numbers), np.iinfo(np.uint64).max)
    highest = np.zeros(len(numbers), dtype=np.uint64)
    np.minimum.at(lowest, code, queries)
    np.maximum.at(highest, code, queries)
    return np.asarray((lowest != highest)[code])


def mean_of_rows(values: NDArray[np.float64], side: Side) -> NDArray[np.float64]:
    """Return the mean of each row's values; NaN for a row without values. Shape (P,) → (B,)."""
    totals = np.bincount(side.owners, weights=values, minlength=len(side.lengths))
    with np.errstate(invalid="ignore"):
        return totals / np.where(side.lengths > 0, side.lengths, np.nan)


def false_by_teacher(
    rows: QueryRows, teacher: str, threshold: float | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Mark the negatives that are relevant according to a teacher, and those that it scored. Shape (P,) each.

    Args:
        rows: Rows with the teacher's scores.
        teacher: The name of the teacher.
        threshold: The minimum score of a relevant negative; None: the mean of the row's positives.
    """
    side = rows.negatives
    scores = side.scores[teacher]
    if threshold is None:
        limits = mean_of_rows(rows.positives.scores[teacher], rows.positives)[side.owners]
    else:
        limits = np.full(len(side), threshold)
    known = np.isfinite(scores) & np.isfinite(limits)
    return known & (scores >= limits), known


def counts_per_row(rows: QueryRows, *masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count the marked negatives of each row. M masks of shape (P,) → (M, B)."""
    side = rows.negatives
    return np.stack([np.bincount(side.owners[mask], minlength=len(side.lengths)) for mask in masks])


def _row_keys(
    queries: NDArray[np.uint64], rows: QueryRows, positives: PassageKeys, negatives: PassageKeys
) -> NDArray[np.uint64]:
    """Return the key of each row, equal for rows with the same query, positives and negatives in any order."""
    keys = queries
    for side, passages in ((rows.positives, positives), (rows.negatives, negatives)):
        # A sum does not depend on the order; hash the summands so that different sets have different sums.
        sums = np.zeros(len(queries), dtype=np.uint64)
        np.add.at(sums, side.owners, pair_keys(queries[side.owners], passages.own))
        keys = pair_keys(keys, sums)
    return keys
