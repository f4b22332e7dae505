"""Descriptions of rows and passages for messages and reports."""

from __future__ import annotations

import numpy as np

from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.formats.base import QueryRows, Side


def describe_row(rows: QueryRows, row: int) -> str:
    """Describe a row by its query."""
    text = _short(rows.queries[row].as_py())
    return f"query {text}" if rows.query_ids is None else f"query {rows.query_ids[row].as_py()!r} ({text})"


def describe_pair(rows: QueryRows, side: Side, position: int, corpus: Corpus | None) -> str:
    """Describe a query and one of its passages."""
    return f"{describe_row(rows, int(side.owners[position]))}: {name_passage(side, position, corpus)}"


def name_passage(side: Side, position: int, corpus: Corpus | None) -> str:
    """Describe a passage by its id and, if the rows or the corpus have it, the beginning of its text."""
    if side.ids is None:
        assert side.texts is not None
        return _short(side.texts[position].as_py())
    name = repr(side.ids[position].as_py())
    if side.texts is not None:
        title = "" if side.titles is None else side.titles[position].as_py() or ""
        return f"{name} ({_short(' '.join([title, side.texts[position].as_py()]).strip())})"
    row = -1 if corpus is None else int(corpus.find(side.ids[position : position + 1])[0])
    return name if corpus is None or row < 0 else f"{name} ({_text_of(corpus, row)})"


def name_row(corpus: Corpus, row: int) -> str:
    """Describe a passage of a corpus by its id and the beginning of its text."""
    return f"{corpus.ids(np.array([row]))[0].as_py()!r} ({_text_of(corpus, row)})"


def _text_of(corpus: Corpus, row: int) -> str:
    return _short(corpus.texts(np.array([row]))[0].as_py())


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
