"""Negatives from any search engine."""

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


class _Asked:
    """The queries of a batch, each distinct one asked for once.

    Attributes:
        queries: The distinct ones.
        numbers: The number of each query among them. Shape (B,).
        first: The first answer of the engine, once it was asked.
    """

    def __init__(self, queries: list[str]) -> None:
        places: dict[str, int] = {}
        numbers = [places.setdefault(query, len(places)) for query in queries]
        self.queries, self.numbers = list(places), np.array(numbers, dtype=np.int64)
        self.first: Hits | None = None


@dataclass(frozen=True)
class SearchNegatives(Miner):
    """Mine what any search engine finds for the query and is not known to be relevant: Elasticsearch, Vespa, LanceDB.

    `search` is a function of yours, `(queries, depth) -> (ids, scores)`: from B texts and a number of hits to B lists
    of ids and B lists of scores. The ids are those of the corpus; hits come best first, and a higher score is better. A
    list of fewer hits ends there; of one with more the first `depth` are read. Unknown and repeated ids, and scores
    that rise, are NaN or infinite, are errors, which name the query.

    Each distinct query of a batch is asked for once, 1.75 k deep (k + 24 for a small k) whatever the batch is, with at
    most 260,000 hits in a call. Where known positives leave a query short of k, it is asked for again, twice as deep
    each time. Equal scores keep the engine's order, which may be another in each call. Retries, time-outs and parallel
    requests are the client's; an exception of the function ends the step with an error that repeats it.

    An engine scores only what it finds: the score of a positive is null unless it is among the first k hits. Margins
    need the scores of all positives: score the rows with `BiEncoderScores` or `CrossEncoderScores` first.

    `num_proc` forks the function with all that it holds, and few clients survive that: open them in the function, once
    a process, as below, or leave `num_proc` out, as LanceDB advises. Spawned processes do not have the function. With
    Ray, pass it to a pool as an argument of the class.

    Args:
        corpus: The passages that the engine has indexed.
        search: The function.
        k: Candidates per query.
        exclude_group: Exclude also every passage of the documents that the positives were cut from. Needs a corpus
            with groups.
        fingerprint: A name that changes whenever the answers do, such as the index, its version and the kind of query.

    Columns read:
        `query`, `positive_ids`; `query_id` for error messages, if there.

    Columns written:
        `negative_ids` (best first), `negative_scores` (the engine's), `negative_ranks` (1-based, in the engine's list),
        `negative_source` (`"search"`), `positive_scores` (the engine's, aligned with `positive_ids`; null where the
        positive is not among the first k hits).

    Raises:
        KeyError: A hit is not in the corpus.
        RuntimeError: The function raised an error.
        TypeError: `corpus` or `search` is something else, or the function returned something else.
        ValueError: `fingerprint` is missing, `k` is less than 1, or the hits are not as said above.

    Elasticsearch, not run here (OpenSearch has the same calls; `recipes/lancedb_search.py` is a whole run):

        from functools import cache
        from elasticsearch import Elasticsearch

        @cache
        def client():
            return Elasticsearch("http://localhost:9200", request_timeout=60, retry_on_timeout=True, max_retries=5)

        def search(queries, depth):
            searches = []
            for query in queries:
                searches.append({"index": "passages"})
                # The engine's limit: a list that is shorter than asked for ends there.
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
        # From here on the function pickles to its name.
        self._set(search=SearchFunction(self.search, self.fingerprint))

    def _encode(self, queries: list[str], keys: NDArray[np.uint64]) -> _Asked:
        return _Asked(queries)

    def _search(self, encoded: _Asked, which: NDArray[np.int64], depth: int) -> Hits:
        # An approximate index may answer otherwise at another depth. These depths do not depend on the batch.
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

    def _first(self, encoded: _Asked) -> Hits:
        if encoded.first is None:
            search: SearchFunction = self.search
            encoded.first = search.search(encoded.queries, self._first_depth, self.corpus)
        return encoded.first

    def _score(self, encoded: _Asked, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        hits = self._first(encoded)
        there = hits.rows[:, : self.k] >= 0
        found = Ragged(offsets_of(there.sum(axis=1)), hits.rows[:, : self.k][there])
        return scores_where_found(found, hits.scores[:, : self.k][there], encoded.numbers, rows)
