"""Batches as nobody should pass them: good rows of which some columns are replaced by odd ones, in every form."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from hypothesis import strategies as st

FORMS = ("lists", "tuples", "objects", "series", "arrays", "table", "frame", "polars")
QUERIES = (
    "what causes earthquakes?",
    "flow past a flat plate",
    "wing flutter at supersonic speed",
    "地震の原因",
    "heat\0transfer",
    "भूकंप",
    "e\u0301coulement",
    "shock waves " * 200,
)
BLANK = ("", " ", "\n")
NOT_UNICODE = ("\ud800", "a\udfffb")
SCORES = (0.25, -1.5, 3.0, 0.0, 12.5, -0.0, 1e30)
ODD_SCORES = (float("nan"), float("inf"), float("-inf"), None, 2**63, 2**64, 1e308, "0.5", True, [0.5])
RANKS = (1, 2, 3, 7, 40)
ODD_RANKS = (0, -1, 2**31, 2**63 - 1, 2**63, None, 1.5, "1")
ODD_IDS = ("unknown", "", " ", 7, None, b"1", "\ud800", "1\0", ["1"], {"id": "1"}, float("nan"))
TEXT_TYPES = (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.binary())
LIST_TYPES = (pa.large_list, pa.list_view, pa.large_list_view)


class OddBatch(NamedTuple):
    """A batch.

    Attributes:
        columns: Its columns as lists, or as Arrow arrays of odd types.
        rows: The same in some form.
    """

    columns: dict
    rows: object


@st.composite
def odd_batches(draw, ids):
    """Draw a batch of rows that name passages, and as many odd columns as one to three, or none.

    Args:
        draw: By hypothesis.
        ids: The ids of some passages of the corpus.
    """
    size = draw(st.integers(0, 5))
    columns = _good(draw, size, ids)
    for name in draw(st.lists(st.sampled_from(sorted(columns)), max_size=3)):
        columns[name] = _odd(draw, name, columns[name], ids)
    form = draw(st.sampled_from(FORMS))
    return OddBatch(columns, _in_form(form, columns))


def _good(draw, size, ids):
    lengths = [draw(st.sampled_from([0, 1, 2, 3, 5, 300])) for _ in range(size)]
    counts = [draw(st.integers(0, 3)) for _ in range(size)]

    def lists(values, sizes):
        # Of one draw each, since a list of 300 draws is slow.
        starts = [draw(st.integers(0, len(values) - 1)) for _ in sizes]
        return [[values[(start + i) % len(values)] for i in range(n)] for start, n in zip(starts, sizes, strict=True)]

    return {
        "query_id": [draw(st.sampled_from(["q0", "q1", "q2", "q\u00e9"])) for _ in range(size)],
        "query": [draw(st.sampled_from(QUERIES)) for _ in range(size)],
        "positive_ids": lists(ids[:7], counts),
        "judged_negative_ids": lists(ids[5:9], counts),
        "positive_scores": lists(SCORES, counts),
        "negative_ids": lists(ids, lengths),
        "negative_scores": lists(SCORES, lengths),
        "negative_ranks": lists(RANKS, lengths),
        "negative_source": lists(("bm25", "dense+bm25"), lengths),
        "negative_bm25_ranks": lists((0, *RANKS), lengths),
        "negative_random_ranks": lists((0, *RANKS), lengths),
        "topic": [draw(st.sampled_from(["a", None])) for _ in range(size)],
    }


def _odd(draw, name, values, ids):
    """Return a column in place of a good one."""
    kind = draw(st.sampled_from(["value", "value", "null", "length", "all null", "type", "item", "gone", "wrong"]))
    if kind == "length":
        return [*values, *values[:1]] if draw(st.booleans()) else values[:-1]
    if kind == "all null":
        return draw(st.sampled_from([[None] * len(values), pa.nulls(len(values))]))
    if kind == "wrong":
        other = draw(st.sampled_from([1, 0.5, "text", [[["nested"]]], {"a": 1}, b"x", [1, "a"], [{}]]))
        return [other] * len(values)
    if kind == "gone":
        return [[] for _ in values]
    if kind == "type":
        return _of_odd_type(draw, values)
    if not values:
        return values
    row = draw(st.integers(0, len(values) - 1))
    odd = list(values)
    if kind == "null":
        odd[row] = None
    elif isinstance(odd[row], list):
        choices = ODD_IDS + tuple(ids[:3]) if "ids" in name else ODD_RANKS if "ranks" in name else ODD_SCORES
        item = draw(st.sampled_from(choices))
        own = odd[row]
        at = draw(st.integers(0, len(own)))
        odd[row] = [*own[:at], item, *own[at + (kind == "item") :]]
    else:
        odd[row] = draw(st.sampled_from([*BLANK, *NOT_UNICODE, 5, ["a"], 0.5, b"a", "q" * 70_000]))
    return odd


def _of_odd_type(draw, values):
    """Return a column in another Arrow type; as it is where it has none."""
    try:
        array = pa.array(values)
        if not (pa.types.is_list(array.type) or pa.types.is_string(array.type)):
            return values
        if pa.types.is_string(array.type):
            return array.cast(draw(st.sampled_from(TEXT_TYPES)))
        inner = array.type.value_type
        if pa.types.is_string(inner):
            inner = draw(st.sampled_from([*TEXT_TYPES[:2], inner]))
        elif pa.types.is_floating(inner):
            inner = draw(st.sampled_from([pa.float16(), pa.float32(), inner]))
        elif pa.types.is_integer(inner):
            inner = draw(st.sampled_from([pa.uint64(), pa.int8(), pa.float64(), inner]))
        make = draw(st.sampled_from([*LIST_TYPES, pa.list_]))
        return pa.array(values, make(inner))
    except (pa.ArrowException, OverflowError, UnicodeError):
        return values


def _in_form(form, columns):
    """Return columns in a form; as a dict of lists where they cannot be in it."""
    plain = {
        name: values.to_pylist() if isinstance(values, pa.Array) else list(values) for name, values in columns.items()
    }
    try:
        if form == "tuples":
            return {name: tuple(values) for name, values in plain.items()}
        if form == "objects":
            return {name: _objects(values) for name, values in plain.items()}
        if form == "series":
            return {name: pd.Series(values, dtype=object) for name, values in plain.items()}
        if form == "frame" and len({len(values) for values in plain.values()}) == 1:  # pandas fills up short ones
            return pd.DataFrame({name: pd.Series(_objects(values)) for name, values in plain.items()})
        arrays = {name: pa.array(values) if isinstance(values, list) else values for name, values in columns.items()}
        if form == "arrays":
            return arrays
        if form == "table":
            return pa.table(arrays)
        if form == "polars":
            return pl.from_arrow(pa.table(arrays))
    except Exception:  # whatever a form says to columns that it cannot hold
        pass
    return plain


def _objects(values):
    objects = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        objects[row] = np.array(value) if isinstance(value, list) and value and isinstance(value[0], float) else value
    return objects
