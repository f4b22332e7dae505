"""The base of all miners: exclude passages that are known to be relevant, and search until there are k candidates."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.arrow import list_array, score_array
from hnm_datasets.arrays.ragged import Ragged, offsets_of, runs_within, slice_lists
from hnm_datasets.batch import Batch
from hnm_datasets.columns import (
    JUDGED_NEGATIVE_IDS,
    KNOWN_POSITIVE_IDS,
    NEGATIVE_IDS,
    NEGATIVE_RANKS,
    NEGATIVE_SCORES,
    NEGATIVE_SOURCE,
    POSITIVE_IDS,
    POSITIVE_SCORES,
    QUERY,
    QUERY_ID,
)
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.corpus.questions import question_codes, rows_without_all_positives
from hnm_datasets.indexes.base import Hits
from hnm_datasets.runtime.notices import tell_of_batch, tell_once
from hnm_datasets.transforms.base import Transform
from hnm_datasets.transforms.miners.search import Candidates, joined_candidates, mine_candidates

logger = logging.getLogger(__name__)

#: The kind of warning about positives of other rows, for `one_call`.
UNPOOLED = "unpooled positives"

#: The maximum number of hits in memory at a time, 12 bytes each, for any k and batch size.
HITS = 1 << 22
#: The default k. It may exceed a small corpus without a warning, because nobody chose it.
_USUAL_K = 100


class MiningRows(NamedTuple):
    """B rows to mine for, resolved against the corpus.

    Attributes:
        queries: B texts.
        keys: 64 bits that identify each row. Shape (B,).
        positives: The row numbers of each row's positives in the corpus.
        known: The same, followed by the positives of other rows with the same question.
        excluded_copies: The copy codes that are never candidates: those of `known` and of the query's own text.
        judged: The row numbers of each row's judged negatives; None if no source reads them.
        query_ids: Shape (B,); None if no source reads them.
    """

    queries: list[str]
    keys: NDArray[np.uint64]
    positives: Ragged[NDArray[np.int64]]
    known: Ragged[NDArray[np.int64]]
    excluded_copies: Ragged[NDArray[np.int64]]
    judged: Ragged[NDArray[np.int64]] | None
    query_ids: pa.Array | None

    @classmethod
    def read(cls, batch: Batch, corpus: Corpus, columns: Collection[str]) -> MiningRows:
        """Read a batch.

        Args:
            batch: The rows.
            corpus: The passages.
            columns: The columns that the miners read. Judged negatives and query ids are read only if included.

        Raises:
            KeyError: A positive or judged negative is not in the corpus.
            ValueError: A query is empty.
        """
        queries = batch.queries()
        known = batch.known_positives_in(corpus)
        if not batch.has(KNOWN_POSITIVE_IDS):
            _warn_of_unpooled(batch.step, queries, known)
        positives = batch.rows_in(POSITIVE_IDS, corpus) if batch.has(KNOWN_POSITIVE_IDS) else known
        codes = np.insert(corpus.copy_codes[known.values], known.offsets[1:], corpus.find_copies(queries))
        excluded = Ragged(offsets_of(known.lengths + 1), codes)
        judged = batch.rows_in(JUDGED_NEGATIVE_IDS, corpus) if JUDGED_NEGATIVE_IDS in columns else None
        query_ids = batch.ids(QUERY_ID) if QUERY_ID in columns else None
        return cls(queries.to_pylist(), batch.row_keys(), positives, known, excluded, judged, query_ids)


def _warn_of_unpooled(step: str, queries: pa.Array, positives: Ragged[NDArray[np.int64]]) -> None:
    """Warn if a row lacks a positive of another row with the same question; other batches are not visible here."""
    questions = question_codes([queries])
    if np.array_equal(questions, np.arange(len(questions))):
        return
    lacking = rows_without_all_positives(questions, positives.owners, positives.values)
    if lacking.any():
        tell_of_batch(
            logger,
            UNPOOLED,
            "%s: %d of the %d rows in this batch have the same question as other rows, but not all of their positives, "
            "so these can become negatives. Call rows = pool_positives(rows) before map, or mine(rows, steps).",
            step,
            int(lacking.sum()),
            len(lacking),
        )


@dataclass(frozen=True)
class Miner(Transform):
    """A step that finds candidates for each query in the whole corpus. Derive your own sources from it.

    This class excludes known positives, copies of them, copies of the query and, with `exclude_group`, other passages
    from the document of a positive. No text is a candidate twice. Two passages are copies if their texts, with or
    without titles, differ only in Unicode form, case and white space. The search goes deeper until there are k
    candidates or the source finds no more.

    A subclass is a frozen dataclass that sets `source` and implements three hooks. `_encode` converts the queries of a
    batch once to the form that the other two use: vectors, tokens, or the texts themselves. `_search` returns the best
    passages for some queries; the result of a deeper search must begin with the result of a shallower one. `_score`
    returns the source's scores of given passages, for `positive_scores` and for fusion. `prepare` is optional.

    Args:
        corpus: The passages.
        k: Candidates per query.
        exclude_group: Also exclude all passages from the source documents of the positives.

    Columns read:
        `query`, `positive_ids`; `query_id` as the row's key and `known_positive_ids` (the positives of other rows with
        the same question, see `pool_positives`), if present.

    Columns written:
        `negative_ids`, `negative_scores`, `negative_ranks`, `negative_source`, `positive_scores`.

    Example:
        >>> from hnm_datasets import load_sample
        >>> from hnm_datasets.indexes.base import Hits
        >>> from hnm_datasets.transforms import Miner
        >>> @dataclass(frozen=True)
        ... class ShortestNegatives(Miner):
        ...     '''Mines the shortest passages, whatever the query.'''
        ...     source: ClassVar[str] = "shortest"
        ...     def _encode(self, queries, keys):
        ...         return queries
        ...     def _search(self, encoded, which, depth):
        ...         sizes = self.corpus.text_sizes(np.arange(len(self.corpus)))
        ...         order = np.argsort(sizes, kind="stable")[:depth]
        ...         scores = -sizes[order].astype(np.float32)
        ...         return Hits(np.tile(order, (len(which), 1)), np.tile(scores, (len(which), 1)))
        ...     def _score(self, encoded, rows):
        ...         return -self.corpus.text_sizes(rows.values).astype(np.float32)
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(ShortestNegatives(corpus, k=2), batched=True)
        >>> mined[0]["negative_ids"], mined[0]["negative_scores"]
        (['photosynthesis', 'sourdough'], [-88.0, -104.0])
    """

    version: ClassVar[int] = 2
    input_columns: ClassVar[tuple[str, ...]] = (QUERY, POSITIVE_IDS)
    output_columns: ClassVar[tuple[str, ...]] = (
        NEGATIVE_IDS,
        NEGATIVE_SCORES,
        NEGATIVE_RANKS,
        NEGATIVE_SOURCE,
        POSITIVE_SCORES,
    )
    #: The value of `negative_source`.
    source: ClassVar[str]

    corpus: Corpus
    _: KW_ONLY
    k: int = _USUAL_K
    exclude_group: bool = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_corpus(name, self.corpus)
        self._set(
            k=checks.whole_number(name, "k", self.k, low=1),
            exclude_group=checks.yes_or_no(name, "exclude_group", self.exclude_group),
        )
        if self.exclude_group:
            _ = self.corpus.group_codes  # raises if there are none

    @abstractmethod
    def _encode(self, queries: list[str], keys: NDArray[np.uint64]) -> Any:
        """Convert the queries of a batch to the form that `_search` and `_score` use.

        Args:
            queries: B texts.
            keys: 64 bits that identify each row. Shape (B,).
        """

    def _encode_rows(self, rows: MiningRows) -> Any:
        """Encode rows; override it for a source that needs more than `_encode` receives."""
        return self._encode(rows.queries, rows.keys)

    @abstractmethod
    def _search(self, encoded: Any, which: NDArray[np.int64], depth: int) -> Hits:
        """Return the best passages for some queries.

        Args:
            encoded: The result of `_encode` for B queries.
            which: The numbers of b of these queries, ascending.
            depth: Hits per query, K.

        Returns:
            Rows and scores of shape (b, K).
        """

    @abstractmethod
    def _score(self, encoded: Any, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the source's scores of the given passages of each query.

        Args:
            encoded: The result of `_encode` for B queries.
            rows: B lists of row numbers, C in total.

        Returns:
            Shape (C,), aligned with `rows.values`; NaN, which is written as null, where the source has no score.
        """

    def find(self, rows: MiningRows, encoded: Any) -> Candidates:
        """Find the candidates of some rows, as row numbers of the corpus."""
        if self.k > max(len(self.corpus), _USUAL_K):
            name = type(self).__name__
            tell_once(
                logger,
                f"{name}: k",
                "%s: k=%s, but the corpus has only %s passages, so every row gets fewer candidates.",
                name,
                f"{self.k:,}",
                f"{len(self.corpus):,}",
            )
        # A search returns at least k hits per query, and more if positives have to be skipped.
        parts = runs_within(self.k + rows.known.lengths, HITS)
        return joined_candidates([self._find_part(rows, encoded, part) for part in parts])

    def _find_part(self, rows: MiningRows, encoded: Any, part: slice) -> Candidates:
        known = slice_lists(rows.known, part)
        return mine_candidates(
            lambda which, depth: self._search(encoded, which + part.start, depth),
            self.corpus,
            self.k,
            slice_lists(rows.excluded_copies, part),
            Ragged(known.offsets, self.corpus.group_codes[known.values]) if self.exclude_group else None,
        )

    def _apply(self, batch: Batch) -> Mapping[str, pa.Array]:
        rows = MiningRows.read(batch, self.corpus, self.input_columns)
        encoded = self._encode_rows(rows)
        found = self.find(rows, encoded)
        source = pa.repeat(pa.scalar(self.source), len(found.rows))
        positive_scores = score_array(self._score(encoded, rows.positives))
        return {
            NEGATIVE_IDS: list_array(found.offsets, self.corpus.ids(found.rows)),
            NEGATIVE_SCORES: list_array(found.offsets, score_array(found.scores)),
            NEGATIVE_RANKS: list_array(found.offsets, pa.array(found.ranks)),
            NEGATIVE_SOURCE: list_array(found.offsets, source),
            POSITIVE_SCORES: list_array(rows.positives.offsets, positive_scores),
        }
