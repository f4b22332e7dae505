"""A batch of rows as the audit sees it, with everything that the first pass found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import first_of_runs
from hnm_datasets.audit.counting import Counter
from hnm_datasets.audit.describing import describe_pair, describe_row
from hnm_datasets.audit.false_negatives import Judgments
from hnm_datasets.audit.reading import PassageKeys, is_among, pair_keys
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.formats.base import Layout, QueryRows, Side


class Marked(NamedTuple):
    """Some rows, positives or negatives of a batch.

    Attributes:
        kind: `"row"`, `"positive"` or `"negative"`.
        mask: Which ones. Shape (B,) or (P,).
    """

    kind: str
    mask: NDArray[np.bool_]


def describer(rows: QueryRows, kind: str) -> Callable[[int], str]:
    """Return the function that names the rows, positives or negatives of a batch for a person."""
    if kind == "row":
        return partial(describe_row, rows)
    return partial(describe_pair, rows, rows.positives if kind == "positive" else rows.negatives)


@dataclass(frozen=True)
class AuditedBatch:
    """B rows in the second pass of an audit.

    Attributes:
        rows: The rows.
        layout: The layout of the dataset's columns.
        corpus: The passages, if given.
        judgments: The judgments, if given.
        queries: The number of each row's query. Shape (B,).
        query_texts: What `PassageKeys.text` would be if a query were a passage. Shape (B,).
        positives: The numbers of the positives.
        negatives: The numbers of the negatives.
        positive_pairs: All pairs of query and positive of the dataset by `PassageKeys.own`, ascending.
        positive_texts: The same by `PassageKeys.text`.
        texts_as_queries: How often each text is a query of the dataset.
        texts_as_positives: How often each text is a positive of the dataset.
    """

    rows: QueryRows
    layout: Layout
    corpus: Corpus | None
    judgments: Judgments | None
    queries: NDArray[np.uint64]
    query_texts: NDArray[np.uint64]
    positives: PassageKeys
    negatives: PassageKeys
    positive_pairs: NDArray[np.uint64]
    positive_texts: NDArray[np.uint64]
    texts_as_queries: Counter
    texts_as_positives: Counter

    @property
    def sides(self) -> dict[str, tuple[Side, PassageKeys]]:
        """Both sides by kind."""
        return {"positive": (self.rows.positives, self.positives), "negative": (self.rows.negatives, self.negatives)}

    @cached_property
    def known_positives(self) -> NDArray[np.bool_]:
        """Negatives that are a known positive of their query. Shape (P,)."""
        return is_among(pair_keys(self.queries[self.rows.negatives.owners], self.negatives.own), self.positive_pairs)

    @cached_property
    def copies_of_positives(self) -> NDArray[np.bool_]:
        """Other negatives that have the text of a known positive of their query. Shape (P,)."""
        pairs = pair_keys(self.queries[self.rows.negatives.owners], self.negatives.text)
        return ~self.known_positives & is_among(pairs, self.positive_texts)

    @cached_property
    def first_of_text(self) -> NDArray[np.bool_]:
        """Negatives whose text no earlier negative of their row has. Shape (P,)."""
        return first_of_text(self.rows.negatives, self.negatives)

    @cached_property
    def judged(self) -> NDArray[np.bool_]:
        """Rows whose query has judgments. Shape (B,)."""
        if self.judgments is None:
            return np.zeros(len(self.queries), dtype=bool)
        return is_among(self.queries, self.judgments.queries)

    @cached_property
    def judged_relevant(self) -> dict[str, NDArray[np.bool_]]:
        """Positives and negatives that were judged relevant. Shape (P,) each."""
        return {
            kind: np.zeros(len(side), dtype=bool)
            if self.judgments is None
            else self.judgments.relevant(self.queries[side.owners], passages)
            for kind, (side, passages) in self.sides.items()
        }

    def rows_with(self, kind: str, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which rows have a positive or negative that is marked. Shape (P,) → (B,)."""
        owners = self.sides[kind][0].owners
        return np.bincount(owners[mask], minlength=len(self.queries)) > 0


def first_of_text(side: Side, passages: PassageKeys) -> NDArray[np.bool_]:
    """Mark each passage that no earlier one of its row repeats. Shape (P,)."""
    order = np.lexsort((np.arange(len(side)), passages.text, side.owners))
    owners, text = side.owners[order], passages.text[order]
    first = np.empty(len(order), dtype=bool)
    first[order] = first_of_runs(owners, text)
    return first
