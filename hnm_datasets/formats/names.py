"""How a dataset's columns are found: by fixed names, or by usual names and else by their order."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hnm_datasets.columns import QUERY, QUERY_ID
from hnm_datasets.formats.base import Format, Layout

_QUERY_NAMES = ("anchor", QUERY, "question")
_POSITIVE_NAMES = ("positive", "positives", "answer", "passage", "passages")
_QUERY_ID_NAMES = (QUERY_ID, "anchor_id")
#: Columns that may stand before the texts and hold none: ids, scores and labels.
_NO_TEXTS = re.compile(r"(.*_)?(id|ids|idx|scores?|labels?)")


def fixed_layout(
    format: Format, names: tuple[str, ...], owner: str, positives: str, *negatives: str, query: str = QUERY
) -> Layout:
    """Return the layout of a format whose columns have fixed names.

    Args:
        format: The format.
        names: The columns of the dataset.
        owner: Who asks, for errors.
        positives: The column of positives.
        negatives: The columns of negatives.
        query: The column of queries.

    Raises:
        KeyError: A column is missing.
    """
    missing = [name for name in (query, positives, *negatives) if name not in names]
    if missing:
        raise KeyError(
            f"{owner}: the format {format.name!r} was recognized, and it needs the columns {missing} also; there are "
            f"only {list(names)}."
        )
    return Layout(format, query, _first(_QUERY_ID_NAMES, names), (positives,), negatives, None, names)


def ordered_layout(
    format: Format, names: tuple[str, ...], owner: str, *, negatives: tuple[str, ...] = (), label: str | None = None
) -> Layout:
    """Return the layout of a format of sentence-transformers, which goes by the order of columns.

    The query and the positive are found by their usual names, and else by the order.

    Args:
        format: The format.
        names: The columns of the dataset.
        owner: Who asks, for errors.
        negatives: The columns of negatives, which the format was recognized by.
        label: The column of labels, which it was recognized by.

    Raises:
        KeyError: There is no column of queries, or none of positives.
    """
    others = [name for name in names if name not in negatives and not _NO_TEXTS.fullmatch(name)]
    query = _first(_QUERY_NAMES, others) or _first(others, others)
    others = [name for name in others if name != query]
    positive = _first(_POSITIVE_NAMES, others) or _first(others, others)
    if query is None or positive is None:
        raise KeyError(
            f"{owner}: the format {format.name!r} was recognized by {(*negatives, label)[0]!r}, and it needs a column "
            f"of queries and one of {'passages' if label else 'positives'} before it; there are only {list(names)}."
        )
    return Layout(format, query, _first(_QUERY_ID_NAMES, names), (positive,), negatives, label, names)


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)
