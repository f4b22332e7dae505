"""A search function of the user as an index: it gets the queries of a batch, and its hits are validated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import as_arrow, is_one_value, type_name
from hnm_datasets.arrays.ids import as_ids
from hnm_datasets.arrays.ragged import Ragged, offsets_of, positions_within
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.indexes.base import Hits
from hnm_datasets.models.handles import ModelHandle, load_model
from hnm_datasets.terminal import printable

#: A function from B queries and a depth to B lists of ids and B lists of scores, best first.
Search: TypeAlias = Callable[[list[str], int], tuple[Sequence[Sequence[Any]], Sequence[Sequence[float]]]]

#: The maximum number of hits per call. As Python objects, hits take about 100 bytes each.
_HITS_PER_CALL = 1 << 18
_STEP = "SearchNegatives"


class SearchFunction(ModelHandle):
    """A search function with a name from the user.

    It pickles to its name, so only the process that created it and forks of this process can use it.

    Args:
        search: A function from B texts and a depth to B lists of ids and B lists of scores, best first; or a
            `SearchFunction`.
        name: A name that changes whenever the results change.

    Raises:
        TypeError: `search` is not a function.
        ValueError: The name is missing.

    Example:
        >>> from hnm_datasets import load_sample
        >>> corpus, _ = load_sample("earthquakes")
        >>> def search(queries, depth):
        ...     return [["volcanoes", "tsunamis"][:depth] for _ in queries], [[2.0, 1.0][:depth] for _ in queries]
        >>> hits = SearchFunction(search, "constant-1").search(["what causes earthquakes?"], 3, corpus)
        >>> corpus.ids(hits.rows[0, :2]).to_pylist(), hits.scores.tolist()
        (['volcanoes', 'tsunamis'], [[2.0, 1.0, -inf]])
    """

    def __init__(self, search: Search | SearchFunction, name: str | None) -> None:
        if not isinstance(search, SearchFunction) and not callable(search):
            raise TypeError(
                f"{_STEP}: search must be a function (queries, depth) -> (ids, scores), got {type(search).__name__}."
            )
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"{_STEP}: a search function cannot be fingerprinted from its code. Pass fingerprint='...', for "
                f"example the name and version of the search index, and change it whenever the results change."
            )
        function: Any = search
        # The prefix separates these names from those of embedding functions.
        super().__init__(load_model(function, f"search: {name}"))

    def __repr__(self) -> str:
        return f"SearchFunction({self.model_fingerprint})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchFunction) and other.model_fingerprint == self.model_fingerprint

    def __hash__(self) -> int:
        return hash(self.model_fingerprint)

    def _not_here(self) -> str:
        return (
            f"{_STEP}: the search function is not available in this process, only in the process that created the step "
            f"and in its forks. Create the step in this process, or do not set num_proc."
        )

    def search(self, queries: list[str], depth: int, corpus: Corpus) -> Hits:
        """Search for the best passages of queries, in calls with at most about 260,000 hits.

        Args:
            queries: B texts.
            depth: Hits per query.
            corpus: The passages.

        Returns:
            Rows and scores of shape (B, depth).

        Raises:
            KeyError: A hit is not in the corpus.
            RuntimeError: The function raised an error.
            TypeError: The function did not return lists of ids and lists of numbers.
            ValueError: The lengths of lists do not match, scores increase, are NaN or infinite, or a passage is
                repeated. All errors name the query.
        """
        rows = np.full((len(queries), depth), -1, dtype=np.int64)
        scores = np.full(rows.shape, -np.inf, dtype=np.float32)
        size = max(1, _HITS_PER_CALL // depth)
        for start in range(0, len(queries), size):
            part = queries[start : start + size]
            found, found_scores = _checked(self._ask(part, depth), part, depth, corpus)
            at = start + found.owners, positions_within(found.offsets)
            rows[at], scores[at] = found.values, found_scores
        return Hits(rows, scores)

    def _ask(self, queries: list[str], depth: int) -> Any:
        search: Search = self.loaded.model
        try:
            return search(list(queries), depth)
        except Exception as error:  # a client may raise anything
            raise RuntimeError(
                f"{_STEP}: the search raised {type(error).__name__} for {len(queries)} queries, the first "
                f"{_shown(queries[0])}, at depth {depth}: {printable(str(error))}. Configure retries in the client, "
                f"and repeat the call when the engine is available."
            ) from error


def _checked(
    answer: Any, queries: list[str], depth: int, corpus: Corpus
) -> tuple[Ragged[NDArray[np.int64]], NDArray[np.float32]]:
    """Return the rows and scores of an answer, at most `depth` per query."""
    ids, scores = _lists_of(answer, queries)
    owners = ids.owners

    def describe(at: int) -> str:
        return f"the query {_shown(queries[owners[at]])}"

    longer = np.flatnonzero(ids.lengths != scores.lengths)
    if len(longer):
        at = int(longer[0])
        raise ValueError(
            f"{_STEP}: the search returned {ids.lengths[at]} ids and {scores.lengths[at]} scores for the query "
            f"{_shown(queries[at])}. Return one score per id."
        )
    named = as_ids(ids.values, "the ids that the search returned", _STEP, describe)
    if named.null_count:
        at = int(np.flatnonzero(named.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(
            f"{_STEP}: the search returned a null id for {describe(at)}. Return shorter lists if there are fewer hits."
        )
    numbers = _numbers(scores.values)
    within = positions_within(ids.offsets)
    _check_scores(numbers, within, describe)
    rows = corpus.find(named)
    if (rows < 0).any():
        at = int(np.flatnonzero(rows < 0)[0])
        raise KeyError(
            f"{_STEP}: the search returned {named[at].as_py()!r} for {describe(at)}, which is not among the "
            f"{len(corpus)} passages of the corpus. Create the corpus from all indexed passages, or filter the search "
            f"by the ids of the corpus."
        )
    _check_once(owners * len(corpus) + rows, named, describe)
    kept = within < depth
    offsets = offsets_of(np.bincount(owners[kept], minlength=len(queries)))
    return Ragged(offsets, rows[kept]), numbers[kept].astype(np.float32)


def _lists_of(answer: Any, queries: list[str]) -> tuple[Ragged[pa.Array], Ragged[pa.Array]]:
    """Return the ids and the scores, with one list of each per query."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        got = f"{len(answer)} values" if isinstance(answer, (tuple, list)) else type(answer).__name__
        raise TypeError(
            f"{_STEP}: the search must return a pair (lists of ids, lists of scores), got {got} for {len(queries)} "
            f"queries, the first {_shown(queries[0])}."
        )
    found = []
    for lists, kind in zip(answer, ("ids", "scores"), strict=True):
        if is_one_value(lists) or not hasattr(lists, "__len__"):
            raise TypeError(
                f"{_STEP}: the search must return the {kind} as a list with one list per query, got "
                f"{type(lists).__name__} for {len(queries)} queries, the first {_shown(queries[0])}."
            )
        if len(lists) != len(queries):
            raise ValueError(
                f"{_STEP}: the search returned {len(lists)} lists of {kind} for {len(queries)} queries, the first "
                f"{_shown(queries[0])}. Return one list per query; it may be empty."
            )
        found.append(_flat(lists, kind, queries))
    return found[0], found[1]


def _flat(lists: Any, kind: str, queries: list[str]) -> Ragged[pa.Array]:
    for query, values in zip(queries, lists, strict=True):
        if is_one_value(values) or not hasattr(values, "__len__"):
            raise TypeError(
                f"{_STEP}: the {kind} of the query {_shown(query)} must be a list, got {type(values).__name__}. Return "
                f"one list per query."
            )
    offsets = offsets_of(np.array([len(values) for values in lists], dtype=np.int64))
    try:
        return Ragged(offsets, as_arrow([value for values in lists for value in values], kind, _STEP))
    except TypeError:
        query, value = _first_odd(lists, queries)
        raise TypeError(
            f"{_STEP}: the {kind} of the query {_shown(query)} contain {_shown(value)}, whose type differs from the "
            f"values before it. Return {'strings or whole numbers' if kind == 'ids' else 'numbers'} of one type."
        ) from None


def _first_odd(lists: Any, queries: list[str]) -> tuple[str, Any]:
    """Return the first value whose type Arrow cannot combine with the type of the first value, and its query."""
    values = [(query, value) for query, part in zip(queries, lists, strict=True) for value in part]
    for query, value in values:
        try:
            as_arrow([values[0][1], value], "values", _STEP)
        except TypeError:
            return query, value
    return values[0]


def _numbers(scores: pa.Array) -> NDArray[np.float64]:
    kinds = (pa.types.is_null, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    if not any(is_kind(scores.type) for is_kind in kinds):
        raise TypeError(f"{_STEP}: the search must return numbers as scores, got {type_name(scores.type)}.")
    return np.asarray(scores.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _check_scores(scores: NDArray[np.float64], within: NDArray[np.int64], describe: Callable[[int], str]) -> None:
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite
        bad = np.flatnonzero(~np.isfinite(scores.astype(np.float32)))
    if len(bad):
        at = int(bad[0])
        raise ValueError(
            f"{_STEP}: the score of hit {within[at] + 1} of {describe(at)} is {scores[at]:g}, but scores must be "
            f"finite numbers. Do not return hits without a score."
        )
    rising = np.flatnonzero((np.diff(scores) > 0) & (within[1:] > 0)) + 1
    if len(rising):
        at = int(rising[0])
        raise ValueError(
            f"{_STEP}: the scores of {describe(at)} increase from {scores[at - 1]:g} to {scores[at]:g} at hit "
            f"{within[at] + 1}. Return the best hits first, with higher scores for better hits: sort the hits by "
            f"score, and negate distances."
        )


def _check_once(keys: NDArray[np.int64], ids: pa.Array, describe: Callable[[int], str]) -> None:
    order = np.argsort(keys, kind="stable")
    again = order[1:][np.diff(keys[order]) == 0]
    if len(again):
        at = int(again.min())
        raise ValueError(
            f"{_STEP}: the search returned the passage {ids[at].as_py()!r} twice for {describe(at)}. Return each "
            f"passage once: if the engine indexes chunks of passages, keep the best chunk."
        )


def _shown(value: Any) -> str:
    text = printable(repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."
