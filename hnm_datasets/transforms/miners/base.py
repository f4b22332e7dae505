"""What every miner does: exclude what is known to be relevant, and search until there are k candidates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged, list_array, offsets_of, part_of, turns
from hnm_datasets.batch import Batch
from hnm_datasets.columns import (
    NEGATIVE_IDS,
    NEGATIVE_RANKS,
    NEGATIVE_SCORES,
    NEGATIVE_SOURCE,
    POSITIVE_IDS,
    POSITIVE_SCORES,
    QUERY,
)
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.indexes.base import Hits
from hnm_datasets.transforms.base import Transform
from hnm_datasets.transforms.miners.search import Candidates, joined_candidates, mine_candidates

#: Places of a search that are held at once, 12 bytes each: some millions, whatever k and the batch are.
_PLACES = 1 << 22


class Mined(NamedTuple):
    """What a miner found for B rows.

    Attributes:
        queries: B texts.
        positives: The row numbers of each row's positives.
        candidates: The candidates of each row.
    """

    queries: list[str]
    positives: Ragged[NDArray[np.int64]]
    candidates: Candidates


@dataclass(frozen=True)
class Miner(Transform):
    """A step that finds candidates for each query in the whole corpus.

    Known positives, passages with the same text as one, passages with the query's own text and, when asked, other
    passages of a positive's document are never candidates, and no text is a candidate twice. The search goes on until
    there are k candidates or the retriever finds no more.

    Subclasses fill in `_hits` and `scores_of`.
    """

    input_columns: ClassVar[tuple[str, ...]] = (QUERY, POSITIVE_IDS)
    output_columns: ClassVar[tuple[str, ...]] = (
        NEGATIVE_IDS,
        NEGATIVE_SCORES,
        NEGATIVE_RANKS,
        NEGATIVE_SOURCE,
        POSITIVE_SCORES,
    )
    #: What `negative_source` says.
    source: ClassVar[str]

    corpus: Corpus
    _: KW_ONLY
    k: int = 100
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
    def _hits(self, queries: list[str], keys: NDArray[np.uint64], depth: int) -> Hits:
        """Search for some of the batch's queries; `keys` are their row keys."""

    @abstractmethod
    def scores_of(self, queries: list[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the retriever's score of certain passages of each query."""

    def mine(self, batch: Batch) -> Mined:
        """Find the candidates of a batch of rows, as row numbers of the corpus."""
        queries = self._queries(batch)
        keys = batch.row_keys()
        positives = self.corpus.rows_of_lists(
            POSITIVE_IDS, batch.string_lists(POSITIVE_IDS), batch.step, batch.describe
        )
        # A search returns as many places as candidates are wanted, and more where many positives are in the way.
        parts = turns(self.k + positives.lengths, _PLACES)
        found = [self._mine(queries[rows], keys[rows], part_of(positives, rows)) for rows in parts]
        return Mined(queries, positives, joined_candidates(found))

    def _mine(self, queries: list[str], keys: NDArray[np.uint64], positives: Ragged[NDArray[np.int64]]) -> Candidates:
        return mine_candidates(
            lambda which, depth: self._hits([queries[i] for i in which], keys[which], depth),
            self.corpus,
            self.k,
            self._excluded_texts(queries, positives),
            Ragged(positives.offsets, self.corpus.group_codes[positives.values]) if self.exclude_group else None,
        )

    def _apply(self, batch: Batch) -> Mapping[str, pa.Array]:
        queries, positives, found = self.mine(batch)
        source = pa.repeat(pa.scalar(self.source), len(found.rows))
        return {
            NEGATIVE_IDS: list_array(found.offsets, self.corpus.ids(found.rows)),
            NEGATIVE_SCORES: list_array(found.offsets, pa.array(found.scores)),
            NEGATIVE_RANKS: list_array(found.offsets, pa.array(found.ranks)),
            NEGATIVE_SOURCE: list_array(found.offsets, source),
            POSITIVE_SCORES: list_array(positives.offsets, pa.array(self.scores_of(queries, positives))),
        }

    def _queries(self, batch: Batch) -> list[str]:
        queries: list[str] = batch.strings(QUERY).to_pylist()
        for row, query in enumerate(queries):
            if not query or query.isspace():
                raise ValueError(
                    f"{batch.step}: the column 'query' is empty in {batch.describe(row)}. Filter such rows out: "
                    f"dataset.filter(lambda row: row['query'].strip())."
                )
        return queries

    def _excluded_texts(self, queries: list[str], positives: Ragged[NDArray[np.int64]]) -> Ragged[NDArray[np.int64]]:
        own = self.corpus.find_texts(queries)
        lengths = positives.lengths + 1
        values = np.insert(self.corpus.text_codes[positives.values], positives.offsets[1:], own)
        return Ragged(offsets_of(lengths), values)
