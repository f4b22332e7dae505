"""Search until each query has k allowed candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, offsets_of, take_lists
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.indexes.base import Hits
from hnm_datasets.transforms.known import sorted_lists
from hnm_datasets.transforms.miners.kernels import pick_candidates

#: The maximum number of gaps that a first search allows for, as a multiple of the minimum.
_MAX_GAPS = 3


class Candidates(NamedTuple):
    """The candidates of B queries, best first, C in total.

    Attributes:
        offsets: Where each query's candidates begin and end. Shape (B + 1,).
        rows: Row numbers in the corpus. Shape (C,).
        scores: The retriever's scores, NaN where there is none. Shape (C,).
        ranks: 1-based positions in the retriever's full list, before exclusions. Shape (C,).
    """

    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    ranks: NDArray[np.int32]


def mine_candidates(
    search: Callable[[NDArray[np.int64], int], Hits],
    corpus: Corpus,
    k: int,
    excluded_copies: Ragged[NDArray[np.int64]],
    excluded_groups: Ragged[NDArray[np.int64]] | None = None,
) -> Candidates:
    """Search until each query has k allowed candidates or the retriever finds no more.

    Excluded passages and repeated texts leave gaps in the retriever's list. The first search is deep enough for most
    queries. Queries with too few candidates are searched again, each time to twice the depth.

    Args:
        search: Given the numbers of some queries and a depth, returns at least that many hits. The result of a deeper
            search must begin with the result of a shallower one.
        corpus: The passages.
        k: Candidates per query.
        excluded_copies: Copy codes (`Corpus.copy_codes`) to exclude, per query.
        excluded_groups: Group codes to exclude, per query; None if groups are not excluded.

    Returns:
        At most k candidates per query.
    """
    copies = sorted_lists(excluded_copies)
    groups = None if excluded_groups is None else sorted_lists(excluded_groups)
    group_codes = np.empty(0, dtype=np.int64) if groups is None else corpus.group_codes
    open_queries = np.arange(len(copies))
    found: list[tuple[NDArray[np.int64], Hits, NDArray[np.int64]]] = []
    depth = min(k + _gaps(k, corpus, copies, groups), len(corpus))
    while len(open_queries):
        hits = search(open_queries, depth)
        columns = np.empty((len(open_queries), k), dtype=np.int64)
        is_first = len(open_queries) == len(copies)
        open_copies = copies if is_first else take_lists(copies, open_queries)
        open_groups = _no_lists(len(open_queries)) if groups is None else take_lists(groups, open_queries)
        pick_candidates(
            hits.rows,
            corpus.text_codes,
            corpus.copy_codes,
            open_copies.offsets,
            open_copies.values,
            group_codes,
            open_groups.offsets,
            open_groups.values,
            k,
            columns,
        )
        done = (columns[:, -1] >= 0) | (hits.rows[:, -1] < 0) | (depth >= len(corpus))
        found.append((open_queries[done], Hits(hits.rows[done], hits.scores[done]), columns[done]))
        open_queries = open_queries[~done]
        depth = min(2 * depth, len(corpus))
    return _assembled(found, len(copies))


def _gaps(k: int, corpus: Corpus, copies: Ragged[NDArray[np.int64]], groups: Ragged[NDArray[np.int64]] | None) -> int:
    """Return the number of gaps to expect in the first k hits of a query.

    All queries use the same depth, because searching a few of them again can cost nearly as much as searching all. The
    result has an upper bound, because a positive can have many copies that a search does not find.
    """
    least = _least_gaps(k)
    if not len(copies):
        return least
    counts = corpus.copy_counts(copies.values)
    excluded = np.bincount(copies.owners, weights=counts, minlength=len(copies))
    if groups is not None:
        excluded += np.bincount(groups.owners, weights=corpus.group_counts(groups.values), minlength=len(groups))
    return int(np.clip(np.quantile(excluded, 0.9), least, _MAX_GAPS * least))


def _least_gaps(k: int) -> int:
    return max(8, k // 4)


def first_depth(k: int) -> int:
    """Return the maximum depth of the first search for k candidates, for any batch."""
    return k + _MAX_GAPS * _least_gaps(k)


def _assembled(found: list[tuple[NDArray[np.int64], Hits, NDArray[np.int64]]], n_queries: int) -> Candidates:
    owners, rows, scores, ranks = [], [], [], []
    for queries, hits, columns in found:
        line, slot = np.nonzero(columns >= 0)
        column = columns[line, slot]
        owners.append(queries[line])
        rows.append(hits.rows[line, column])
        scores.append(hits.scores[line, column])
        ranks.append(column + 1)
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


def joined_candidates(found: list[Candidates]) -> Candidates:
    """Concatenate the candidates of consecutive queries."""
    if len(found) == 1:
        return found[0]
    if not found:
        return _assembled([], 0)
    offsets = offsets_of(np.concatenate([np.diff(part.offsets) for part in found]))
    return Candidates(offsets, *(np.concatenate(arrays) for arrays in list(zip(*found, strict=True))[1:]))


def _no_lists(count: int) -> Ragged[NDArray[np.int64]]:
    return Ragged(np.zeros(count + 1, dtype=np.int64), np.empty(0, dtype=np.int64))
