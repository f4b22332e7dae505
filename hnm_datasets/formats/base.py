"""The base class of formats of mined data, and the rows that are read from any format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features
from numpy.typing import NDArray

from hnm_datasets.batch import Batch
from hnm_datasets.columns import QUERY_ID
from hnm_datasets.corpus.text import passage_texts

#: The columns that the trainers of sentence-transformers read as labels, in any format.
TRAINER_LABELS = ("label", "labels", "score", "scores")


# ---- what is read and written ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """The positives or the negatives of B rows, P in all.

    Attributes:
        offsets: The offsets of each row's passages. Shape (B + 1,).
        ids: The ids of the passages. Shape (P,). None if the format has no ids.
        texts: The texts of the passages. Shape (P,). None if the format has only ids.
        titles: The titles of the passages, if the format stores them separately. Shape (P,).
        scores: The scores of each scorer, `"score"` for the retriever; NaN for missing scores. Shape (P,) each.
        ranks: The ranks in the retriever's list. Shape (P,).
        sources: The retriever that found each passage. Shape (P,).
    """

    offsets: NDArray[np.int64]
    ids: pa.Array | None = None
    texts: pa.Array | None = None
    titles: pa.Array | None = None
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    ranks: NDArray[np.int64] | None = None
    sources: pa.Array | None = None

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of passages of each row. Shape (B,)."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> NDArray[np.int64]:
        """The row of each passage. Shape (P,)."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)

    @property
    def named(self) -> pa.Array:
        """The ids, for formats that have them. Shape (P,)."""
        assert self.ids is not None
        return self.ids

    @property
    def full_texts(self) -> pa.Array | None:
        """The titles and texts as a model reads them. Shape (P,). None if the format has only ids."""
        return None if self.texts is None else passage_texts(self.titles, self.texts)


@dataclass(frozen=True)
class QueryRows:
    """B queries with their passages, read from rows of any format.

    Attributes:
        queries: The texts of the queries. Shape (B,).
        query_ids: The ids of the queries. Shape (B,). None if the rows have none.
        positives: The passages known to be relevant.
        negatives: The passages used as negatives.
    """

    queries: pa.Array
    query_ids: pa.Array | None
    positives: Side
    negatives: Side


class Written(NamedTuple):
    """M rows of a format.

    Attributes:
        owners: The number of the query of each row. Shape (M,).
        columns: The format's columns. Shape (M,) each.
    """

    owners: NDArray[np.int64]
    columns: dict[str, pa.Array]


@dataclass(frozen=True)
class Layout:
    """The format of a dataset, and the names of its columns.

    Attributes:
        format: The format.
        query: The column of queries.
        query_id: The column of query ids; None if there is none.
        positives: The columns of positives; in labeled formats, the column of all passages.
        negatives: The columns of negatives; empty in labeled formats.
        label: In labeled formats, the column of labels, 1 for positives and 0 for negatives.
        names: All columns of the dataset.
    """

    format: Format
    query: str
    query_id: str | None
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    label: str | None
    names: tuple[str, ...]

    def read(self, batch: Batch) -> QueryRows:
        """Read a batch of the dataset.

        Raises:
            TypeError: A column has another type than the format requires.
            ValueError: A query is null, or lists that must be aligned differ in length.
        """
        ids = batch.ids(self.query_id) if self.query_id else None
        positives, negatives = self.format.read(self, batch)
        return QueryRows(batch.strings(self.query), ids, positives, negatives)

    def describe(self) -> str:
        """Return the name of the format and the columns by which it was recognized."""
        columns = [self.query, *self.positives, *self.negatives, *([self.label] if self.label else [])]
        shown = columns if len(columns) <= 6 else [*columns[:4], "…", columns[-1]]
        return f"{self.format.name} ({', '.join(shown)})"


# ---- a format ----------------------------------------------------------------------------------------------------


class Format(ABC):
    """A format of mined data.

    A subclass sets the attributes below, and recognizes, reads and writes the format. `convert`, the audit and the
    dataset card need no more than an instance in `registry.FORMATS`. The defaults fit a format with one row per query
    and lists of texts.

    Attributes:
        name: The name of the format in `convert`.
        columns: The required columns, for error messages.
        title: The name of the format on a dataset card.
        tasks: The task categories of the Hub for this format.
        precedence: If the columns of a dataset fit several formats, the format with the lowest number is recognized.
        needs_corpus: Passages are given by id only, and their texts are in a corpus.
        labeled: Positives and negatives are in the same column, and a label distinguishes them.
        trainable: The trainers of sentence-transformers accept its rows.
        keeps_titles: Titles are stored separately from texts.
        merges_rows: `convert` merges the rows of a query before it writes them.
        one_negative: A row has at most one negative, so the negatives of a query are in several rows.
        one_passage: A row has either a positive or a negative, never both.
        loss: The loss of sentence-transformers for its rows.
        teacher_loss: The loss if the labels are a teacher's scores.
    """

    name: ClassVar[str]
    columns: ClassVar[str]
    title: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]] = ("text-retrieval",)
    precedence: ClassVar[int]
    needs_corpus: ClassVar[bool] = False
    labeled: ClassVar[bool] = False
    trainable: ClassVar[bool] = False
    keeps_titles: ClassVar[bool] = False
    merges_rows: ClassVar[bool] = True
    one_negative: ClassVar[bool] = False
    one_passage: ClassVar[bool] = False
    loss: ClassVar[str] = "MultipleNegativesRankingLoss"
    teacher_loss: ClassVar[str] = "MarginMSELoss"

    # ---- recognizing, reading and writing ----

    @abstractmethod
    def recognize(self, names: tuple[str, ...], owner: str) -> Layout | None:
        """Find the columns of this format.

        Args:
            names: The columns of a dataset, in order.
            owner: The name of the calling function, for error messages.

        Returns:
            The layout of the dataset; None if it is in another format.

        Raises:
            KeyError: The dataset is in this format, but a required column is missing.
        """

    @abstractmethod
    def read(self, layout: Layout, batch: Batch) -> tuple[Side, Side]:
        """Read the positives and the negatives of a batch."""

    @abstractmethod
    def write(self, rows: QueryRows, width: int | None) -> Written:
        """Write queries with their passages, to columns that `recognize` finds.

        Args:
            rows: The queries; with ids for formats that store only ids, and with texts for all others.
            width: The result of `width` for the first query of the dataset; None if `rows` are the first.
        """

    def fits(self, layout: Layout, batch: Batch, rows: QueryRows) -> bool:
        """Return whether rows have the form that `write` produces; otherwise `convert` rewrites them.

        A format may read more than it writes, such as lists instead of texts.

        Args:
            layout: The layout of the dataset.
            batch: The rows.
            rows: The queries and passages read from the rows.
        """
        return True

    def width(self, first: QueryRows) -> int | None:
        """Return the number of negatives per row, if the columns depend on it; None otherwise.

        Args:
            first: The first query of the dataset, without rows if the dataset is empty.
        """
        return None

    # ---- columns ----

    def id_columns(self, layout: Layout) -> set[str]:
        """Return the names of the columns with passage ids, in formats that also have texts."""
        return set()

    def score_columns(self, layout: Layout, by: str = "score") -> set[str]:
        """Return the names of the columns with one scorer's scores. Most formats store one scorer only."""
        return set()

    def own_columns(self, layout: Layout) -> set[str]:
        """Return the names with a meaning in this format; all other columns are the user's."""
        own = {layout.query, layout.query_id, layout.label, *layout.positives, *layout.negatives}
        own |= self.id_columns(layout) | self.score_columns(layout)
        if self.trainable:
            own |= {QUERY_ID, "anchor_id", *TRAINER_LABELS}
        return {name for name in own if name is not None}

    def unread_fields(self, layout: Layout, features: Features) -> list[str]:
        """Return the fields inside the format's columns that are not read, for a warning."""
        return []

    def written_scorer(self, rows: QueryRows) -> str | None:
        """Return the scorer to write, in formats that store one scorer; None if there are no scores.

        The retriever takes precedence.
        """
        return min(_scorers(rows), key=lambda name: name != "score", default=None)

    # ---- training and display ----

    def training_label(self, layout: Layout) -> str | None:
        """Return the column that the trainers of sentence-transformers read as the label; None if there is none."""
        return layout.label

    def is_graded(self, layout: Layout, dataset: Dataset) -> bool:
        """Return whether there are labels other than 0 and 1, such as a teacher's scores."""
        return False

    def shown(self, layout: Layout, row: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the passages of one row for display, each with its kind, such as `"positive"`, and its text or id."""
        return [
            (kind, passage)
            for kind, columns in (("positive", layout.positives), ("negative", layout.negatives))
            for column in columns
            for passage in self._passages(row[column])
        ]

    def _passages(self, value: Any) -> list[str]:
        return [value] if isinstance(value, str) else list(value or ())


def teacher_first(rows: QueryRows) -> str | None:
    """Return the scorer to write, like `Format.written_scorer`, but a teacher takes precedence over the retriever."""
    return min(_scorers(rows), key=lambda name: name == "score", default=None)


def _scorers(rows: QueryRows) -> list[str]:
    """Return the scorers with scores of both sides, or else those with scores of one side."""
    both = [name for name in rows.positives.scores if name in rows.negatives.scores]
    return both or [*rows.positives.scores, *rows.negatives.scores]
