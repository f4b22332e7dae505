"""Queries and their passages, written in any of the forms; see `forms` for what is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import list_array, offsets_of
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS, QUERY, QUERY_ID, score_column
from hnm_datasets.formats.fields import text_ids
from hnm_datasets.formats.reading import (
    FLAGEMBEDDING,
    LABELED_LISTS,
    LABELED_PAIRS,
    MINED,
    N_TUPLES,
    TEVATRON,
    TRIPLETS,
    Rows,
    Side,
)


class Written(NamedTuple):
    """M rows of a form.

    Attributes:
        owners: The query that each row belongs to. Shape (M,).
        columns: The form's columns. Shape (M,) each.
    """

    owners: NDArray[np.int64]
    columns: dict[str, pa.Array]


def pool(side: Side, groups: NDArray[np.int64], count: int) -> Side:
    """Pool the passages of the rows of each query, each passage once, in order of first appearance.

    Args:
        side: The passages of B rows.
        groups: The query of each row, ascending. Shape (B,).
        count: How many queries there are.
    """
    owners = groups[side.owners]
    coded = (_texts(side) if side.ids is None else side.ids).dictionary_encode()
    pairs = owners * max(len(coded.dictionary), 1) + coded.indices.to_numpy()
    first = np.sort(np.unique(pairs, return_index=True)[1])
    offsets = offsets_of(np.bincount(owners[first], minlength=count))
    if len(first) == len(side):
        return replace(side, offsets=offsets, ranks=None, sources=None)
    columns = (side.ids, side.texts, side.titles)
    ids, texts, titles = (None if column is None else column.take(pa.array(first)) for column in columns)
    return Side(offsets, ids, texts, titles, {name: values[first] for name, values in side.scores.items()})


def score_name(form: str, rows: Rows) -> str | None:
    """Say whose scores go where a form has one place for scores; None if there are none or there is no place.

    The retriever's go first, and in FlagEmbedding's form, where a student learns from them, a teacher's.
    """
    if form == TEVATRON:
        return None
    both = [name for name in rows.positives.scores if name in rows.negatives.scores]
    names = both or [*rows.positives.scores, *rows.negatives.scores]
    return min(names, key=lambda name: (name == "score") == (form == FLAGEMBEDDING), default=None)


def write_rows(form: str, rows: Rows, width: int | None) -> Written:
    """Write queries with their passages in a form.

    Args:
        form: The name of the form.
        rows: The queries; with ids for `mined`, and with texts for the other forms.
        width: For n-tuples: how many negatives each query must have; None: as many as the first one.

    Raises:
        ValueError: For n-tuples: a query has another number of negatives.
    """
    if form == N_TUPLES:
        return _write_n_tuples(rows, width)
    return _WRITERS[form](rows)


def _write_mined(rows: Rows) -> Written:
    columns = _query_columns(rows, QUERY_ID)
    for part, name, side in (("positive", POSITIVE_IDS, rows.positives), ("negative", NEGATIVE_IDS, rows.negatives)):
        columns[name] = list_array(side.offsets, _ids(side))
        columns |= {
            score_column(by, of=part): list_array(side.offsets, _numbers(scores)) for by, scores in side.scores.items()
        }
    return _one_each(rows, columns)


def _write_tevatron(rows: Rows) -> Written:
    if rows.query_ids is None:
        rows = replace(rows, query_ids=text_ids(rows.queries))
    columns = _query_columns(rows, QUERY_ID)
    for name, side in (("positive_passages", rows.positives), ("negative_passages", rows.negatives)):
        titles = pa.repeat("", len(side)) if side.titles is None else side.titles.cast(pa.string())
        assert side.texts is not None  # only `mined` has none
        parts = [_ids(side), titles, side.texts.cast(pa.string())]
        passages = pa.StructArray.from_arrays(parts, ["docid", "title", "text"])
        columns[name] = list_array(side.offsets, passages)
    return _one_each(rows, columns)


def _write_flagembedding(rows: Rows) -> Written:
    columns = _query_columns(rows, QUERY_ID)
    sides = {"pos": rows.positives, "neg": rows.negatives}
    by = score_name(FLAGEMBEDDING, rows)
    columns |= {name: list_array(side.offsets, _texts(side)) for name, side in sides.items()}
    columns |= {
        f"{name}_id": list_array(side.offsets, _ids(side)) for name, side in sides.items() if side.ids is not None
    }
    columns |= {
        # As wide as what is read from JSON, so that sets of both kinds can be put together.
        f"{name}_scores": list_array(side.offsets, _numbers(side.scores[by], pa.float64()))
        for name, side in sides.items()
        if by in side.scores
    }
    return _one_each(rows, columns)


def _write_triplets(rows: Rows) -> Written:
    positives, negatives = rows.positives, rows.negatives
    counts = positives.lengths * negatives.lengths
    owners = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(owners)) - np.repeat(offsets_of(counts)[:-1], counts)
    width = negatives.lengths[owners]
    places = {
        "positive": (positives, positives.offsets[owners] + within // width),
        "negative": (negatives, negatives.offsets[owners] + within % width),
    }
    return _by_columns(TRIPLETS, rows, owners, places)


def _write_n_tuples(rows: Rows, width: int | None) -> Written:
    positives, negatives = rows.positives, rows.negatives
    lengths = negatives.lengths
    wanted = int(lengths[0]) if width is None and len(lengths) else width or 1
    short = np.flatnonzero((lengths != wanted) | (lengths == 0))
    if len(short):
        row, others = int(short[0]), f", and queries before it have {wanted}" if lengths[short[0]] != wanted else ""
        raise ValueError(
            f"convert: in n-tuples all queries need the same number of negatives, at least 1; the query "
            f"{rows.queries[row].as_py()!r} has {lengths[row]}{others}. Make the numbers equal first, with "
            f"TopNegatives(n) and a filter of the queries that have fewer, or choose the form 'triplets'."
        )
    owners = positives.owners
    places = {"positive": (positives, np.arange(len(positives)))}
    for place in range(wanted):
        places[f"negative_{place + 1}"] = (negatives, negatives.offsets[owners] + place)
    return _by_columns(N_TUPLES, rows, owners, places)


def _by_columns(
    form: str, rows: Rows, owners: NDArray[np.int64], places: Mapping[str, tuple[Side, NDArray[np.int64]]]
) -> Written:
    """Write one passage per column."""
    columns = {"anchor": rows.queries.take(pa.array(owners)).cast(pa.string())}
    texts = {id(side): _texts(side) for side, _ in places.values()}
    columns |= {name: texts[id(side)].take(pa.array(at)) for name, (side, at) in places.items()}
    if rows.query_ids is not None:
        columns["anchor_id"] = rows.query_ids.take(pa.array(owners)).cast(pa.string())
    columns |= {
        f"{name}_id": _ids(side).take(pa.array(at)) for name, (side, at) in places.items() if side.ids is not None
    }
    by = score_name(form, rows)
    columns |= {
        f"{name}_score": _numbers(side.scores[by][at]) for name, (side, at) in places.items() if by in side.scores
    }
    return Written(owners, columns)


def _write_labeled_pairs(rows: Rows) -> Written:
    flat = _labeled(LABELED_PAIRS, rows)
    owners = np.repeat(np.arange(len(rows.queries)), rows.positives.lengths + rows.negatives.lengths)
    columns = {"anchor": rows.queries.take(pa.array(owners)).cast(pa.string())}
    columns |= {"passage": flat.pop("text"), "label": flat.pop("label")}
    if rows.query_ids is not None:
        columns["anchor_id"] = rows.query_ids.take(pa.array(owners)).cast(pa.string())
    return Written(owners, columns | {f"passage_{name}": values for name, values in flat.items()})


def _write_labeled_lists(rows: Rows) -> Written:
    offsets = offsets_of(rows.positives.lengths + rows.negatives.lengths)
    flat = {name: list_array(offsets, values) for name, values in _labeled(LABELED_LISTS, rows).items()}
    columns = {"anchor": rows.queries.cast(pa.string()), "passages": flat.pop("text"), "labels": flat.pop("label")}
    if rows.query_ids is not None:
        columns["anchor_id"] = rows.query_ids.cast(pa.string())
    return _one_each(rows, columns | {f"passage_{name}s": values for name, values in flat.items()})


def _labeled(form: str, rows: Rows) -> dict[str, pa.Array]:
    """Return each query's passages, positives first, as flat columns: `text`, `label` and, if there, `id`, `score`."""
    sides = (rows.positives, rows.negatives)
    order = np.argsort(np.concatenate([side.owners for side in sides]), kind="stable")
    flat = {
        "text": pa.concat_arrays([_texts(side) for side in sides]).take(pa.array(order)),
        "label": pa.array((order < len(rows.positives)).astype(np.float32)),
    }
    if all(side.ids is not None for side in sides):
        flat["id"] = pa.concat_arrays([_ids(side) for side in sides]).take(pa.array(order))
    by = score_name(form, rows)
    if by is not None:
        known = [side.scores.get(by, np.full(len(side), np.nan)) for side in sides]
        flat["score"] = _numbers(np.concatenate(known)[order])
    return flat


_WRITERS: dict[str, Callable[[Rows], Written]] = {
    MINED: _write_mined,
    TRIPLETS: _write_triplets,
    LABELED_PAIRS: _write_labeled_pairs,
    LABELED_LISTS: _write_labeled_lists,
    TEVATRON: _write_tevatron,
    FLAGEMBEDDING: _write_flagembedding,
}


def _one_each(rows: Rows, columns: dict[str, pa.Array]) -> Written:
    return Written(np.arange(len(rows.queries)), columns)


def _query_columns(rows: Rows, id_name: str) -> dict[str, pa.Array]:
    ids = {} if rows.query_ids is None else {id_name: rows.query_ids.cast(pa.string())}
    return ids | {QUERY: rows.queries.cast(pa.string())}


def _texts(side: Side) -> pa.Array:
    texts = side.full_texts
    assert texts is not None  # only `mined` has none
    return texts.cast(pa.string())


def _ids(side: Side) -> pa.Array:
    return text_ids(_texts(side)) if side.ids is None else side.ids.cast(pa.string())


def _numbers(scores: NDArray[np.float64], type_: pa.DataType | None = None) -> pa.Array:
    """Return scores as an Arrow array, null for NaN."""
    return pa.array(scores, type_ or pa.float32(), from_pandas=True)
