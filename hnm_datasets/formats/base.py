"""What a format of mined data declares, and what is read from any of them."""

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

#: The columns that the trainers of sentence-transformers read as labels, whatever the format.
TRAINER_LABELS = ("label", "labels", "score", "scores")


# ---- what is read and written ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """The positives or the negatives of B rows, P in all.

    Attributes:
        offsets: Where each row's passages begin and end. Shape (B + 1,).
        ids: Their ids. Shape (P,). None where the format has none.
        texts: Their texts. Shape (P,). None where the format has ids alone.
        titles: Their titles, where the format keeps them apart. Shape (P,).
        scores: Scores by name, `"score"` for the retriever's; NaN where there is none. Shape (P,) each.
        ranks: Ranks in the retriever's list. Shape (P,).
        sources: Which retriever found them. Shape (P,).
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
        """How many passages each row has. Shape (B,)."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> NDArray[np.int64]:
        """The row of each passage. Shape (P,)."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)

    @property
    def named(self) -> pa.Array:
        """Their ids, where the format has them. Shape (P,)."""
        assert self.ids is not None
        return self.ids

    @property
    def full_texts(self) -> pa.Array | None:
        """Their titles and texts, as a model reads them. Shape (P,). None where the format has ids alone."""
        return None if self.texts is None else passage_texts(self.titles, self.texts)


@dataclass(frozen=True)
class QueryRows:
    """B queries with their passages, read from rows of any format.

    Attributes:
        queries: Shape (B,).
        query_ids: Shape (B,); None where the rows have none.
        positives: The passages that are known to be relevant.
        negatives: The passages that count as not relevant.
    """

    queries: pa.Array
    query_ids: pa.Array | None
    positives: Side
    negatives: Side


class Written(NamedTuple):
    """M rows of a format.

    Attributes:
        owners: The query that each row belongs to. Shape (M,).
        columns: The format's columns. Shape (M,) each.
    """

    owners: NDArray[np.int64]
    columns: dict[str, pa.Array]


@dataclass(frozen=True)
class Layout:
    """Where a dataset of a known format has what: the names of its columns.

    Attributes:
        format: The format.
        query: The column of queries.
        query_id: The column of their ids; None if there is none.
        positives: The columns of positives; for labeled formats the column of all passages.
        negatives: The columns of negatives; empty for labeled formats.
        label: For labeled formats: the column of labels, 1 for positives and 0 for negatives.
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
            TypeError: A column holds something else than the format says.
            ValueError: A query is null, or aligned lists are not aligned.
        """
        ids = batch.ids(self.query_id) if self.query_id else None
        positives, negatives = self.format.read(self, batch)
        return QueryRows(batch.strings(self.query), ids, positives, negatives)

    def describe(self) -> str:
        """Name the format, and the columns that it was recognized by."""
        columns = [self.query, *self.positives, *self.negatives, *([self.label] if self.label else [])]
        shown = columns if len(columns) <= 6 else [*columns[:4], "…", columns[-1]]
        return f"{self.format.name} ({', '.join(shown)})"


# ---- a format ----------------------------------------------------------------------------------------------------


class Format(ABC):
    """A way in which tools keep mined data.

    A subclass declares the facts below, recognizes, reads and writes. An instance of it in `registry.FORMATS` is all
    that `convert`, the audit and the dataset card need. The defaults are those of a format that has one row per query
    with lists of texts.

    Attributes:
        name: What `convert` calls it.
        columns: The columns that it needs, for errors.
        title: What a dataset card calls it.
        tasks: The Hub's names of the tasks that it is for.
        precedence: A dataset may have the columns of two formats: the one of lower precedence is recognized.
        needs_corpus: Passages are named by ids alone, so that their texts are in a corpus.
        labeled: Positives and negatives are in one column, and a label tells them apart.
        trainable: The trainers of sentence-transformers take its rows as they are.
        keeps_titles: Titles are kept apart from texts.
        merges_rows: `convert` puts the rows of one query together before it writes.
        one_negative: A row has one negative at most, so that the negatives of a query are in several rows.
        one_passage: A row has a positive or a negative and never both.
        loss: The loss of sentence-transformers for its rows.
        teacher_loss: The loss where the label is a teacher's scores.
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
            owner: Who asks, for errors.

        Returns:
            The layout of the dataset; None if it is in another format.

        Raises:
            KeyError: The dataset is in this format and lacks one of its columns.
        """

    @abstractmethod
    def read(self, layout: Layout, batch: Batch) -> tuple[Side, Side]:
        """Read the positives and the negatives of a batch."""

    @abstractmethod
    def write(self, rows: QueryRows, width: int | None) -> Written:
        """Write queries with their passages, in names of columns that `recognize` finds.

        Args:
            rows: The queries; with ids where passages are named by ids alone, and with texts otherwise.
            width: What `width` returned for the first query of the dataset; None: these are the first.
        """

    def fits(self, layout: Layout, batch: Batch, rows: QueryRows) -> bool:
        """Return whether rows are as `write` writes them; otherwise `convert` writes them again.

        A format may read more than it writes, such as lists in place of texts.

        Args:
            layout: Where the dataset has what.
            batch: The rows.
            rows: What was read from them.
        """
        return True

    def width(self, first: QueryRows) -> int | None:
        """Return how many negatives each row has, if the columns depend on it; None otherwise.

        Args:
            first: The first query of the dataset, or none if there is none.
        """
        return None

    # ---- what its columns are ----

    def id_columns(self, layout: Layout) -> set[str]:
        """Return the names that columns of passage ids have beside the texts."""
        return set()

    def score_columns(self, layout: Layout, by: str = "score") -> set[str]:
        """Return the names that columns of one scorer's scores have; most formats have room for one scorer."""
        return set()

    def own_columns(self, layout: Layout) -> set[str]:
        """Return the names that mean something in this format; all other columns are the user's."""
        own = {layout.query, layout.query_id, layout.label, *layout.positives, *layout.negatives}
        own |= self.id_columns(layout) | self.score_columns(layout)
        if self.trainable:
            own |= {QUERY_ID, "anchor_id", *TRAINER_LABELS}
        return {name for name in own if name is not None}

    def unread_fields(self, layout: Layout, features: Features) -> list[str]:
        """Return what is inside of the format's columns and is not read, for a warning."""
        return []

    def written_scorer(self, rows: QueryRows) -> str | None:
        """Return whose scores are written where there is room for one scorer; None if there are no scores.

        The retriever's go first.
        """
        return min(_scorers(rows), key=lambda name: name != "score", default=None)

    # ---- training on it, and showing it ----

    def training_label(self, layout: Layout) -> str | None:
        """Return the column that the trainers of sentence-transformers learn from; None if there is none."""
        return layout.label

    def is_graded(self, layout: Layout, dataset: Dataset) -> bool:
        """Return whether labels are other numbers than 0 and 1, such as a teacher's scores."""
        return False

    def shown(self, layout: Layout, row: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the passages of one row for a person: what each is, such as `"positive"`, and its text or id."""
        return [
            (kind, passage)
            for kind, columns in (("positive", layout.positives), ("negative", layout.negatives))
            for column in columns
            for passage in self._passages(row[column])
        ]

    def _passages(self, value: Any) -> list[str]:
        return [value] if isinstance(value, str) else list(value or ())


def teacher_first(rows: QueryRows) -> str | None:
    """Return a scorer as `Format.written_scorer` does, a teacher before the retriever."""
    return min(_scorers(rows), key=lambda name: name == "score", default=None)


def _scorers(rows: QueryRows) -> list[str]:
    """Return the scorers that have scored both sides, or else those that have scored one."""
    both = [name for name in rows.positives.scores if name in rows.negatives.scores]
    return both or [*rows.positives.scores, *rows.negatives.scores]
