"""A user's function as an index: the queries of a batch go to a search engine, and its hits are checked."""

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

#: From B queries and a depth to B lists of ids and B lists of scores, best first.
Search: TypeAlias = Callable[[list[str], int], tuple[Sequence[Sequence[Any]], Sequence[Sequence[float]]]]

#: Hits that are asked for in one call: as Python objects they take about 100 bytes each.
_ASKED = 1 << 18
_STEP = "SearchNegatives"


class SearchFunction(ModelHandle):
    """A search function, named by the user. It pickles to its name and stays in its process and those forked from it.

    Args:
        search: From B texts and a depth to B lists of ids and B lists of scores, best first; or a `SearchFunction`.
        name: Changes whenever the answers do.

    Raises:
        TypeError: `search` is no function.
        ValueError: There is no name.

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
                f"{_STEP}: the answers of a search cannot be told by its code. Name them with fingerprint='...', for "
                f"example by the engine's index and version, and change the name whenever the answers change."
            )
        function: Any = search
        # The same name may name a function from texts to vectors.
        super().__init__(load_model(function, f"search: {name}"))

    def __repr__(self) -> str:
        return f"SearchFunction({self.model_fingerprint})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchFunction) and other.model_fingerprint == self.model_fingerprint

    def __hash__(self) -> int:
        return hash(self.model_fingerprint)

    def _not_here(self) -> str:
        return (
            f"{_STEP}: the search function is not in this process. It stays in its own and in those that are forked "
            f"from it: in others make the step there, or leave num_proc out."
        )

    def search(self, queries: list[str], depth: int, corpus: Corpus) -> Hits:
        """Ask for the best passages of some queries, in calls of some 260,000 hits at most.

        Args:
            queries: B texts.
            depth: Hits per query.
            corpus: The passages.

        Returns:
            Rows and scores of shape (B, depth).

        Raises:
            KeyError: A hit is not in the corpus.
            RuntimeError: The function raised an error.
            TypeError: It returned something else than lists of ids and of numbers.
            ValueError: Lists are of other lengths than expected, scores rise, are NaN or infinite, or a passage comes
                twice. All errors name the query.
        """
        rows = np.full((len(queries), depth), -1, dtype=np.int64)
        scores = np.full(rows.shape, -np.inf, dtype=np.float32)
        size = max(1, _ASKED // depth)
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
                f"{_shown(queries[0])}, at depth {depth}: {printable(str(error))}. Retries are the client's: set them "
                f"there, and repeat the call once the engine answers."
            ) from error


def _checked(
    answer: Any, queries: list[str], depth: int, corpus: Corpus
) -> tuple[Ragged[NDArray[np.int64]], NDArray[np.float32]]:
    """Return the rows and scores of an answer, at most `depth` a query."""
    ids, scores = _lists_of(answer, queries)
    owners = ids.owners

    def describe(at: int) -> str:
        return f"the query {_shown(queries[owners[at]])}"

    longer = np.flatnonzero(ids.lengths != scores.lengths)
    if len(longer):
        at = int(longer[0])
        raise ValueError(
            f"{_STEP}: the search returned {ids.lengths[at]} ids and {scores.lengths[at]} scores for the query "
            f"{_shown(queries[at])}. Return a score for each id."
        )
    named = as_ids(ids.values, "what the search returned as ids", _STEP, describe)
    if named.null_count:
        at = int(np.flatnonzero(named.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(
            f"{_STEP}: the search returned a null id for {describe(at)}. Return shorter lists where there are fewer "
            f"hits."
        )
    numbers = _numbers(scores.values)
    within = positions_within(ids.offsets)
    _check_scores(numbers, within, describe)
    rows = corpus.find(named)
    if (rows < 0).any():
        at = int(np.flatnonzero(rows < 0)[0])
        raise KeyError(
            f"{_STEP}: the search returned {named[at].as_py()!r} for {describe(at)}, which is not among the "
            f"{len(corpus)} passages of the corpus. Make the corpus of what the engine has indexed, or let the search "
            f"filter by these passages."
        )
    _check_once(owners * len(corpus) + rows, named, describe)
    kept = within < depth
    offsets = offsets_of(np.bincount(owners[kept], minlength=len(queries)))
    return Ragged(offsets, rows[kept]), numbers[kept].astype(np.float32)


def _lists_of(answer: Any, queries: list[str]) -> tuple[Ragged[pa.Array], Ragged[pa.Array]]:
    """Return the ids and the scores, a list of each per query."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        got = f"{len(answer)} values" if isinstance(answer, (tuple, list)) else type(answer).__name__
        raise TypeError(
            f"{_STEP}: the search must return a pair, the lists of ids and the lists of scores, got {got} for "
            f"{len(queries)} queries, the first {_shown(queries[0])}."
        )
    found = []
    for lists, what in zip(answer, ("ids", "scores"), strict=True):
        if is_one_value(lists) or not hasattr(lists, "__len__"):
            raise TypeError(
                f"{_STEP}: the {what} that the search returns must be a list with a list per query, got "
                f"{type(lists).__name__} for {len(queries)} queries, the first {_shown(queries[0])}."
            )
        if len(lists) != len(queries):
            raise ValueError(
                f"{_STEP}: the search returned {len(lists)} lists of {what} for {len(queries)} queries, the first "
                f"{_shown(queries[0])}. Return a list for each query, also an empty one."
            )
        found.append(_flat(lists, what, queries))
    return found[0], found[1]


def _flat(lists: Any, what: str, queries: list[str]) -> Ragged[pa.Array]:
    for query, own in zip(queries, lists, strict=True):
        if is_one_value(own) or not hasattr(own, "__len__"):
            raise TypeError(
                f"{_STEP}: the {what} of the query {_shown(query)} must be a list, got {type(own).__name__}. Return a "
                f"list per query."
            )
    offsets = offsets_of(np.array([len(own) for own in lists], dtype=np.int64))
    try:
        return Ragged(offsets, as_arrow([value for own in lists for value in own], what, _STEP))
    except TypeError:
        query, value = _first_odd(lists, queries)
        raise TypeError(
            f"{_STEP}: among the {what} of the query {_shown(query)} is {_shown(value)}, of another type than those "
            f"before it. Return {'strings or whole numbers' if what == 'ids' else 'numbers'}, all of one type."
        ) from None


def _first_odd(lists: Any, queries: list[str]) -> tuple[str, Any]:
    """Return the first value that Arrow does not hold together with the first of all, and its query."""
    values = [(query, value) for query, own in zip(queries, lists, strict=True) for value in own]
    for query, value in values:
        try:
            as_arrow([values[0][1], value], "values", _STEP)
        except TypeError:
            return query, value
    return values[0]


def _numbers(scores: pa.Array) -> NDArray[np.float64]:
    kinds = (pa.types.is_null, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    if not any(is_kind(scores.type) for is_kind in kinds):
        raise TypeError(f"{_STEP}: the scores that the search returns must be numbers, got {type_name(scores.type)}.")
    return np.asarray(scores.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _check_scores(scores: NDArray[np.float64], within: NDArray[np.int64], describe: Callable[[int], str]) -> None:
    with np.errstate(over="ignore"):  # beyond float32 they would be infinite
        bad = np.flatnonzero(~np.isfinite(scores.astype(np.float32)))
    if len(bad):
        at = int(bad[0])
        raise ValueError(
            f"{_STEP}: the score of hit {within[at] + 1} of {describe(at)} is {scores[at]:g}, and scores must be "
            f"finite numbers. Leave hits without a score out."
        )
    rising = np.flatnonzero((np.diff(scores) > 0) & (within[1:] > 0)) + 1
    if len(rising):
        at = int(rising[0])
        raise ValueError(
            f"{_STEP}: the scores of {describe(at)} rise from {scores[at - 1]:g} to {scores[at]:g} at hit "
            f"{within[at] + 1}. Hits must come best first, and a higher score must be better: return the negative of "
            f"distances, and sort hits by their scores."
        )


def _check_once(keys: NDArray[np.int64], ids: pa.Array, describe: Callable[[int], str]) -> None:
    order = np.argsort(keys, kind="stable")
    again = order[1:][np.diff(keys[order]) == 0]
    if len(again):
        at = int(again.min())
        raise ValueError(
            f"{_STEP}: the search returned the passage {ids[at].as_py()!r} twice for {describe(at)}. Return each "
            f"passage once: of the pieces that an engine has of it keep the best."
        )


def _shown(value: Any) -> str:
    text = printable(repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."
