"""A batch of rows in the second pass of an audit, with the results of the first pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import first_of_runs
from hnm_datasets.audit.counting import Counter
from hnm_datasets.audit.describing import describe_pair, describe_row
from hnm_datasets.audit.judgments import Judgments
from hnm_datasets.audit.reading import PassageKeys, is_among, pair_keys
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.formats.base import Layout, QueryRows, Side


class Marked(NamedTuple):
    """Marked rows, positives or negatives of a batch.

    Attributes:
        kind: `"row"`, `"positive"` or `"negative"`.
        mask: True for the marked ones. Shape (B,) or (P,).
    """

    kind: str
    mask: NDArray[np.bool_]


def describer(rows: QueryRows, kind: str, corpus: Corpus | None) -> Callable[[int], str]:
    """Return a function that describes the rows, positives or negatives of a batch for display."""
    if kind == "row":
        return partial(describe_row, rows)
    return partial(describe_pair, rows, rows.positives if kind == "positive" else rows.negatives, corpus=corpus)


@dataclass(frozen=True)
class AuditedBatch:
    """B rows in the second pass of an audit.

    Attributes:
        rows: The rows.
        layout: The layout of the dataset's columns.
        corpus: The passages, if given.
        judgments: The judgments, if given.
        queries: The key of each row's query. Shape (B,).
        questions: The key of each row's question, shared by queries with the same normalized text. Shape (B,).
        as_passages: The keys that the queries would have as passages.
        positives: The keys of the positives.
        negatives: The keys of the negatives.
        positive_pairs: The keys of all (query, positive) pairs of the dataset by `PassageKeys.own`, ascending.
        positive_texts: The same by `PassageKeys.text` and by `PassageKeys.copy`.
        of_questions: The same by all three keys, with questions instead of queries; only for questions that several
            queries share.
        texts_as_queries: How often each text is a query in the dataset.
        texts_as_positives: How often each text is a positive in the dataset.
    """

    rows: QueryRows
    layout: Layout
    corpus: Corpus | None
    judgments: Judgments | None
    queries: NDArray[np.uint64]
    questions: NDArray[np.uint64]
    as_passages: PassageKeys
    positives: PassageKeys
    negatives: PassageKeys
    positive_pairs: NDArray[np.uint64]
    positive_texts: NDArray[np.uint64]
    of_questions: NDArray[np.uint64]
    texts_as_queries: Counter
    texts_as_positives: Counter

    @property
    def sides(self) -> dict[str, tuple[Side, PassageKeys]]:
        """The positives and the negatives, with their keys."""
        return {"positive": (self.rows.positives, self.positives), "negative": (self.rows.negatives, self.negatives)}

    @cached_property
    def known_positives(self) -> NDArray[np.bool_]:
        """Marks the negatives that are a known positive of their query. Shape (P,)."""
        return is_among(pair_keys(self.queries[self.rows.negatives.owners], self.negatives.own), self.positive_pairs)

    @cached_property
    def copies_of_positives(self) -> NDArray[np.bool_]:
        """Marks other negatives with the text of a known positive of their query, or copies of one. Shape (P,)."""
        owners = self.queries[self.rows.negatives.owners]
        return ~self.known_positives & has_any(owners, self.negatives[1:3], self.positive_texts)

    @cached_property
    def positives_of_question(self) -> NDArray[np.bool_]:
        """Marks other negatives that are a positive of another query with the same text, or a copy. Shape (P,)."""
        if not len(self.of_questions):
            return np.zeros(len(self.rows.negatives), dtype=bool)
        owners = self.questions[self.rows.negatives.owners]
        found = has_any(owners, self.negatives[:3], self.of_questions)
        return ~self.known_positives & ~self.copies_of_positives & found

    @cached_property
    def first_of_text(self) -> NDArray[np.bool_]:
        """Marks the negatives whose text does not occur earlier in their row. Shape (P,)."""
        return first_of_text(self.rows.negatives, self.negatives)

    @cached_property
    def judged(self) -> NDArray[np.bool_]:
        """Marks the rows whose query has judgments. Shape (B,)."""
        if self.judgments is None:
            return np.zeros(len(self.queries), dtype=bool)
        return is_among(self.queries, self.judgments.queries)

    @cached_property
    def judged_relevant(self) -> dict[str, NDArray[np.bool_]]:
        """Marks the positives and negatives that are judged relevant. Shape (P,) each."""
        return {
            kind: np.zeros(len(side), dtype=bool)
            if self.judgments is None
            else self.judgments.relevant(self.queries[side.owners], passages)
            for kind, (side, passages) in self.sides.items()
        }

    def rows_with(self, kind: str, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Mark the rows with a marked positive or negative. Shape (P,) → (B,)."""
        owners = self.sides[kind][0].owners
        return np.bincount(owners[mask], minlength=len(self.queries)) > 0


def has_any(
    queries: NDArray[np.uint64], passages: Sequence[NDArray[np.uint64]], known: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Mark the passages that form a known pair with their query, by any of their keys. Shape (P,)."""
    # The keys of passages are usually one and the same array.
    distinct = {id(keys): keys for keys in passages}.values()
    return np.asarray(np.any([is_among(pair_keys(queries, keys), known) for keys in distinct], axis=0))


def first_of_text(side: Side, passages: PassageKeys) -> NDArray[np.bool_]:
    """Mark the passages whose text does not occur earlier in their row. Shape (P,)."""
    order = np.lexsort((np.arange(len(side)), passages.text, side.owners))
    owners, text = side.owners[order], passages.text[order]
    first = np.empty(len(order), dtype=bool)
    first[order] = first_of_runs(owners, text)
    return first
