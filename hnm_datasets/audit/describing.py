"""Rows and passages of a dataset, named for a person."""

from __future__ import annotations

from hnm_datasets.formats.base import QueryRows, Side


def describe_row(rows: QueryRows, row: int) -> str:
    """Name a row for a person, by its query."""
    text = _short(rows.queries[row].as_py())
    return f"query {text}" if rows.query_ids is None else f"query {rows.query_ids[row].as_py()!r} ({text})"


def describe_pair(rows: QueryRows, side: Side, place: int) -> str:
    """Name a passage of a row for a person."""
    return f"{describe_row(rows, int(side.owners[place]))}: {name_passage(side, place)}"


def name_passage(side: Side, place: int) -> str:
    """Name a passage by its id, or by the beginning of its text."""
    if side.texts is not None and side.ids is None:
        return _short(side.texts[place].as_py())
    return repr(side.named[place].as_py())


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
