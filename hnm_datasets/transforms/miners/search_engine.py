"""Negatives from a search engine."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.search_function import SearchFunction
from hnm_datasets.transforms.miners.base import Miner
from hnm_datasets.transforms.miners.found_scores import scores_where_found
from hnm_datasets.transforms.miners.search import first_depth


class _DistinctQueries:
    """The queries of a batch, without duplicates.

    Attributes:
        queries: The distinct queries.
        numbers: The number of each query in `queries`. Shape (B,).
        first: The hits of the first search; None before it.
    """

    def __init__(self, queries: list[str]) -> None:
        distinct: dict[str, int] = {}
        numbers = [distinct.setdefault(query, len(distinct)) for query in queries]
        self.queries, self.numbers = list(distinct), np.array(numbers, dtype=np.int64)
        self.first: Hits | None = None


@dataclass(frozen=True)
class SearchNegatives(Miner):
    """Mine negatives with any search engine, such as Elasticsearch, Vespa or LanceDB, without known positives.

    `search` is your function `(queries, depth) -> (ids, scores)`. Given B texts and a number of hits, it returns B
    lists of ids and B lists of scores. The ids must be ids of the corpus. Hits must be sorted best first, and higher
    scores are better. A list with fewer hits than `depth` is considered complete; from a longer list the first `depth`
    hits are used. Unknown or repeated ids, and scores that increase, are NaN or infinite, raise an error that names the
    query.

    Each distinct query of a batch is searched once, to a depth of 1.75·k (k + 24 for a small k) for any batch, with at
    most 260,000 hits per call. If excluding known positives leaves fewer than k, the query is searched again, each time
    to twice the depth. Ties keep the engine's order, which may differ between calls. The client is responsible for
    retries, time-outs and parallel requests. An exception in the function is raised as an error of the step.

    An engine scores only the passages it finds, so the score of a positive is null unless it is among the first k hits.
    Margins require the scores of all positives: score the rows with `BiEncoderScores` or `CrossEncoderScores` first.

    `num_proc` forks the function with its open connections, which few clients support. Open the client inside the
    function, once per process, as below, or do not use `num_proc`, as LanceDB recommends. Spawned processes do not have
    the function. With Ray, pass it to an actor pool as an argument of the class.

    Args:
        corpus: The passages that the engine has indexed.
        search: The function.
        k: Candidates per query.
        exclude_group: Also exclude all passages from the source documents of the positives. Requires a corpus with
            groups.
        fingerprint: A name that changes whenever the results change, for example composed of the index, its version and
            the kind of query.

    Columns read:
        `query`, `positive_ids`; `query_id` for error messages, if present.

    Columns written:
        `negative_ids` (best first), `negative_scores` (the engine's), `negative_ranks` (1-based, in the engine's list),
        `negative_source` (`"search"`), `positive_scores` (the engine's, aligned with `positive_ids`; null for positives
        that are not among the first k hits).

    Raises:
        KeyError: A hit is not in the corpus.
        RuntimeError: The function raised an error.
        TypeError: `corpus`, `search` or the function's return value is of the wrong type.
        ValueError: `fingerprint` is missing, `k` is less than 1, or the hits violate the rules above.

    An example for Elasticsearch, not run here (OpenSearch has the same API; `recipes/lancedb_search.py` is complete):

        from functools import cache
        from elasticsearch import Elasticsearch

        @cache
        def client():
            return Elasticsearch("http://localhost:9200", request_timeout=60, retry_on_timeout=True, max_retries=5)

        def search(queries, depth):
            searches = []
            for query in queries:
                searches.append({"index": "passages"})
                # The engine's limit; a shorter list is considered complete.
                size = min(depth, 10_000)
                searches.append({"query": {"match": {"text": query}}, "size": size, "_source": False})
            found = [answer["hits"]["hits"] for answer in client().msearch(searches=searches)["responses"]]
            return [[hit["_id"] for hit in hits] for hits in found], [[hit["_score"] for hit in hits] for hits in found]

        step = SearchNegatives(corpus, search, fingerprint="passages-2024-05, match")

    Example:
        >>> from hnm_datasets import load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> def search(queries, depth):
        ...     '''Find the passages that have a word of the query in their ids.'''
        ...     ids = [passage["id"] for passage in corpus]
        ...     found = [[one for one in ids if set(one.split("-")) & set(query.split())] for query in queries]
        ...     return [own[:depth] for own in found], [[1.0] * len(own[:depth]) for own in found]
        >>> row = {"query": ["how is the richter scale defined?"], "positive_ids": [["tsunamis"]]}
        >>> mined = SearchNegatives(corpus, search, k=3, fingerprint="ids-1")(row)
        >>> mined["negative_ids"], mined["negative_scores"], mined["positive_scores"]
        ([['richter-scale']], [[1.0]], [[None]])
    """

    source: ClassVar[str] = "search"

    search: Any
    _: KW_ONLY
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        # The wrapped function pickles to its fingerprint.
        self._set(search=SearchFunction(self.search, self.fingerprint))

    def _encode(self, queries: list[str], keys: NDArray[np.uint64]) -> _DistinctQueries:
        return _DistinctQueries(queries)

    def _search(self, encoded: _DistinctQueries, which: NDArray[np.int64], depth: int) -> Hits:
        # The results of an approximate index can depend on the depth, so the depth must not depend on the batch.
        size = len(self.corpus)
        wide = first = self._first_depth
        while wide < depth:
            wide = min(2 * wide, size)
        if wide == first:
            hits, at = self._first(encoded), encoded.numbers[which]
        else:
            asked, at = np.unique(encoded.numbers[which], return_inverse=True)
            search: SearchFunction = self.search
            hits = search.search([encoded.queries[number] for number in asked], wide, self.corpus)
        return Hits(hits.rows[at], hits.scores[at])

    @property
    def _first_depth(self) -> int:
        return min(first_depth(self.k), len(self.corpus))

    def _first(self, encoded: _DistinctQueries) -> Hits:
        if encoded.first is None:
            search: SearchFunction = self.search
            encoded.first = search.search(encoded.queries, self._first_depth, self.corpus)
        return encoded.first

    def _score(self, encoded: _DistinctQueries, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        hits = self._first(encoded)
        there = hits.rows[:, : self.k] >= 0
        found = Ragged(offsets_of(there.sum(axis=1)), hits.rows[:, : self.k][there])
        return scores_where_found(found, hits.scores[:, : self.k][there], encoded.numbers, rows)
