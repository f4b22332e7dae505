"""Mining: candidates for each query from the whole corpus, without anything known to be relevant."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.columns import (
    NEGATIVE_IDS,
    NEGATIVE_RANKS,
    NEGATIVE_SCORES,
    NEGATIVE_SOURCE,
    POSITIVE_IDS,
    POSITIVE_SCORES,
    QUERY,
    Batch,
)
from hnm_datasets.corpus import Corpus, check_corpus
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.bm25 import BM25Index
from hnm_datasets.indexes.sharded import ShardedIndex, is_index_of
from hnm_datasets.ragged import Ragged, list_array, offsets_of, part_of, turns
from hnm_datasets.transforms import kernels
from hnm_datasets.transforms.base import Transform

#: Places of a search that are held at once, 12 bytes each: some millions, whatever k and the batch are.
_PLACES = 1 << 22


class Candidates(NamedTuple):
    """The candidates of B queries, best first, C in all.

    Attributes:
        offsets: Where each query's candidates begin and end. Shape (B + 1,).
        rows: Row numbers in the corpus. Shape (C,).
        scores: The retriever's scores. Shape (C,).
        ranks: 1-based places in the retriever's list, before anything was removed. Shape (C,).
    """

    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    ranks: NDArray[np.int32]


def mine_candidates(
    search: Callable[[NDArray[np.int64], int], Hits],
    corpus: Corpus,
    k: int,
    excluded_texts: Ragged[NDArray[np.int64]],
    excluded_groups: Ragged[NDArray[np.int64]] | None = None,
) -> Candidates:
    """Search until each query has k allowed candidates or has seen everything that the retriever finds.

    Excluded passages and repeated texts leave gaps in the retriever's list; the queries that are short because of them
    are searched again, twice as deep each time.

    Args:
        search: Given the numbers of some queries and a depth, returns their hits. A deeper search must begin with the
            answer of a shallower one.
        corpus: The passages.
        k: Candidates per query.
        excluded_texts: Text codes (`Corpus.text_codes`) that are no candidates, per query.
        excluded_groups: Group codes that are no candidates, per query; None: groups do not matter.

    Returns:
        At most k candidates per query.
    """
    texts = _sorted_lists(excluded_texts)
    groups = None if excluded_groups is None else _sorted_lists(excluded_groups)
    group_codes = np.empty(0, dtype=np.int64) if groups is None else corpus.group_codes
    open_queries = np.arange(len(texts))
    found: list[tuple[NDArray[np.int64], Hits, NDArray[np.int64]]] = []
    depth = min(k + max(8, k // 4), len(corpus))
    while len(open_queries):
        hits = search(open_queries, depth)
        places = np.empty((len(open_queries), k), dtype=np.int64)
        mine = _take_lists(texts, open_queries)
        mine_groups = _no_lists(len(open_queries)) if groups is None else _take_lists(groups, open_queries)
        kernels.pick_candidates(
            hits.rows,
            corpus.text_codes,
            mine.offsets,
            mine.values,
            group_codes,
            mine_groups.offsets,
            mine_groups.values,
            k,
            places,
        )
        done = (places[:, -1] >= 0) | (hits.rows[:, -1] < 0) | (depth >= len(corpus))
        found.append((open_queries[done], Hits(hits.rows[done], hits.scores[done]), places[done]))
        open_queries = open_queries[~done]
        depth = min(2 * depth, len(corpus))
    return _assembled(found, len(texts))


def _assembled(found: list[tuple[NDArray[np.int64], Hits, NDArray[np.int64]]], n_queries: int) -> Candidates:
    owners, rows, scores, ranks = [], [], [], []
    for queries, hits, places in found:
        line, column = np.nonzero(places >= 0)
        place = places[line, column]
        owners.append(queries[line])
        rows.append(hits.rows[line, place])
        scores.append(hits.scores[line, place])
        ranks.append(place + 1)
    owner = np.concatenate(owners) if owners else np.empty(0, dtype=np.int64)
    if not owners:
        return Candidates(np.zeros(1, np.int64), owner, owner.astype(np.float32), owner.astype(np.int32))
    order = np.argsort(owner, kind="stable") if len(found) > 1 else slice(None)
    return Candidates(
        offsets_of(np.bincount(owner, minlength=n_queries)),
        np.concatenate(rows)[order],
        np.concatenate(scores)[order],
        np.concatenate(ranks)[order].astype(np.int32),
    )


def _joined(found: list[Candidates]) -> Candidates:
    """Put the candidates of consecutive queries together."""
    if len(found) == 1:
        return found[0]
    if not found:
        return _assembled([], 0)
    offsets = offsets_of(np.concatenate([np.diff(part.offsets) for part in found]))
    return Candidates(offsets, *(np.concatenate(arrays) for arrays in list(zip(*found, strict=True))[1:]))


def _sorted_lists(lists: Ragged[NDArray[np.int64]]) -> Ragged[NDArray[np.int64]]:
    return Ragged(lists.offsets, lists.values[np.lexsort((lists.values, lists.owners))])


def _take_lists(lists: Ragged[NDArray[np.int64]], which: NDArray[np.int64]) -> Ragged[NDArray[np.int64]]:
    if len(which) == len(lists):
        return lists
    chosen = np.isin(lists.owners, which)
    return Ragged(offsets_of(lists.lengths[which]), lists.values[chosen])


def _no_lists(count: int) -> Ragged[NDArray[np.int64]]:
    return Ragged(np.zeros(count + 1, dtype=np.int64), np.empty(0, dtype=np.int64))


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
        return Mined(queries, positives, _joined(found))

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


@dataclass(frozen=True)
class BM25Negatives(Miner):
    """Mine static lexical negatives: what BM25 finds for the query and is not known to be relevant.

    Cheap, done once, and a good start for any retriever (Karpukhin et al. 2020, *Dense Passage Retrieval*). Passages
    that share no token with the query are never candidates; a query that matches nothing gets an empty list.

    Args:
        corpus: The passages.
        k: Candidates per query. Mine deep (50 to 200) and let filters and samplers choose.
        exclude_group: Exclude also every passage of the documents that the positives were cut from. Needs a corpus
            with groups.
        index: The index to search, a `BM25Index` or a `ShardedIndex` of such; by default `BM25Index(corpus)`, built
            here once and kept in the cache directory.

    Columns read:
        `query`, `positive_ids`; `query_id` for error messages, if there.

    Columns written:
        `negative_ids` (best first), `negative_scores` (BM25), `negative_ranks` (1-based, in the list before anything
        was removed), `negative_source` (`"bm25"`), `positive_scores` (BM25, aligned with `positive_ids`).

    Raises:
        TypeError: `corpus` or `index` is something else, or an option is of the wrong type.
        ValueError: `k` is less than 1, the index is of another corpus, or `exclude_group` without groups.

    Example:
        >>> from hnm_datasets import load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=3), batched=True)
        >>> mined[0]["query"], mined[0]["positive_ids"]
        ('what causes earthquakes?', ['plate-boundaries'])
        >>> mined[0]["negative_ids"], mined[0]["negative_ranks"]
        (['richter-scale', 'tsunamis', 'san-francisco-1906'], [1, 2, 4])
    """

    source: ClassVar[str] = "bm25"

    _: KW_ONLY
    index: BM25Index | ShardedIndex | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.index is None:
            self._set(index=BM25Index(self.corpus))
        elif not is_index_of(BM25Index, self.index):
            raise TypeError(
                f"BM25Negatives: index must be a BM25Index, or a ShardedIndex of such, got {type(self.index).__name__}."
            )
        elif self.index.corpus != self.corpus:
            raise ValueError(
                "BM25Negatives: the index is of another corpus. Pass BM25Index(corpus, ...) of this corpus."
            )

    @property
    def _bm25(self) -> BM25Index | ShardedIndex:
        assert self.index is not None  # set in __post_init__
        return self.index

    def _hits(self, queries: list[str], keys: NDArray[np.uint64], depth: int) -> Hits:
        return self._bm25.search(queries, depth)

    def scores_of(self, queries: list[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the score of certain passages of each query."""
        return self._bm25.score(queries, rows)


@dataclass(frozen=True)
class RandomNegatives(Miner):
    """Draw random passages that are not known to be relevant: the baseline that mining has to beat.

    Which passages a row gets depends on the seed and on the row's `query_id` (or its `query`), not on its place in the
    dataset.

    Args:
        corpus: The passages.
        k: Passages per query.
        exclude_group: Exclude also every passage of the documents that the positives were cut from. Needs a corpus
            with groups.
        seed: Another seed draws other passages.

    Columns read:
        `query`, `positive_ids`; `query_id` as the row's key, if there.

    Columns written:
        The same as by `BM25Negatives`, with `negative_source` `"random"`, scores of 0, and as rank the place in the
        random order.

    Raises:
        TypeError: `corpus` is something else, or an option is of the wrong type.
        ValueError: `k` is less than 1, or `exclude_group` without groups.

    Example:
        >>> from hnm_datasets import load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(RandomNegatives(corpus, k=2, seed=7), batched=True)
        >>> len(mined[0]["negative_ids"]), mined[0]["negative_source"]
        (2, ['random', 'random'])
    """

    source: ClassVar[str] = "random"

    _: KW_ONLY
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(seed=checks.whole_number("RandomNegatives", "seed", self.seed, low=0))

    def _hits(self, queries: list[str], keys: NDArray[np.uint64], depth: int) -> Hits:
        rows = np.empty((len(keys), depth), dtype=np.int64)
        kernels.permuted_rows(keys, self.seed, len(self.corpus), rows)
        return Hits(rows, np.where(rows < 0, -np.inf, 0).astype(np.float32))

    def scores_of(self, queries: list[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the score of certain passages of each query."""
        return np.zeros(len(rows.values), dtype=np.float32)
