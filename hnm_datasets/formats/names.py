"""Find the columns of a dataset: by fixed names, or by common names and then by order."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hnm_datasets.columns import QUERY, QUERY_ID
from hnm_datasets.formats.base import Format, Layout

_QUERY_NAMES = ("anchor", QUERY, "question")
_POSITIVE_NAMES = ("positive", "positives", "answer", "passage", "passages")
_QUERY_ID_NAMES = (QUERY_ID, "anchor_id")
#: Columns without texts: ids, scores and labels. They may come before the texts.
_NO_TEXTS = re.compile(r"(.*_)?(id|ids|idx|scores?|labels?)")


def fixed_layout(
    format: Format, names: tuple[str, ...], owner: str, positives: str, *negatives: str, query: str = QUERY
) -> Layout:
    """Return the layout of a format with fixed column names.

    Args:
        format: The format.
        names: The columns of the dataset.
        owner: The name of the calling function, for error messages.
        positives: The column of positives.
        negatives: The columns of negatives.
        query: The column of queries.

    Raises:
        KeyError: A column is missing.
    """
    missing = [name for name in (query, positives, *negatives) if name not in names]
    if missing:
        raise KeyError(
            f"{owner}: the format {format.name!r} was recognized, but its columns {missing} are missing; the dataset "
            f"has {list(names)}."
        )
    return Layout(format, query, _first(_QUERY_ID_NAMES, names), (positives,), negatives, None, names)


def ordered_layout(
    format: Format, names: tuple[str, ...], owner: str, *, negatives: tuple[str, ...] = (), label: str | None = None
) -> Layout:
    """Return the layout of a format of sentence-transformers, which reads columns by order.

    The query and the positive are found by their common names, or else by order.

    Args:
        format: The format.
        names: The columns of the dataset.
        owner: The name of the calling function, for error messages.
        negatives: The columns of negatives, by which the format was recognized.
        label: The column of labels, by which the format was recognized.

    Raises:
        KeyError: There is no column of queries or of positives.
    """
    query, positive = _query_and_positive([name for name in names if name not in negatives])
    if query is None or positive is None:
        raise KeyError(
            f"{owner}: the format {format.name!r} was recognized by {(*negatives, label)[0]!r}, but it also needs a "
            f"column of queries and a column of {'passages' if label else 'positives'}; the dataset has {list(names)}."
        )
    return Layout(format, query, _first(_QUERY_ID_NAMES, names), (positive,), negatives, label, names)


def from_pairs_hint(names: Sequence[str]) -> str:
    """Return how to read a dataset as pairs, with its columns if exactly two of them can hold texts.

    Example:
        >>> from_pairs_hint(["id", "question", "answer"])
        "If these are pairs: from_pairs(dataset, 'question', 'answer'), then mine or pilot in Python."
    """
    texts = [name for name in names if not _NO_TEXTS.fullmatch(name)]
    columns = map(repr, _query_and_positive(texts)) if len(texts) == 2 else ("query_column", "positive_column")
    return f"If these are pairs: from_pairs(dataset, {', '.join(columns)}), then mine or pilot in Python."


def _query_and_positive(names: Sequence[str]) -> tuple[str | None, str | None]:
    """Find the columns of queries and positives by common names, or else by order."""
    others = [name for name in names if not _NO_TEXTS.fullmatch(name)]
    query = _first(_QUERY_NAMES, others) or _first(others, others)
    others = [name for name in others if name != query]
    return query, _first(_POSITIVE_NAMES, others) or _first(others, others)


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)
