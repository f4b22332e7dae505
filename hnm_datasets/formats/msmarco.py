"""The layout of `msmarco-hard-negatives`: only ids, with the negatives of each query grouped by retrieval system.

A row is `{"qid": 1, "pos": [2], "neg": {"bm25": [3, 4], "another-system": [4, 5]}}`. In later files a passage is
`{"pid": 2, "ce-score": 9.5}`, with a cross-encoder's score. The rows have no query texts, so this is not a `Format`:
`convert` turns them into mined rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import flatten_lists, from_json, is_json, list_array, type_name
from hnm_datasets.arrays.ids import as_ids
from hnm_datasets.arrays.ragged import offsets_of, positions_within
from hnm_datasets.batch import Batch
from hnm_datasets.columns import (
    NEGATIVE_IDS,
    NEGATIVE_RANKS,
    NEGATIVE_SOURCE,
    POSITIVE_IDS,
    QUERY,
    QUERY_ID,
    score_column,
)
from hnm_datasets.formats.fields import as_floats, number_array

_QUERY_ID, _POSITIVES, _NEGATIVES = "qid", "pos", "neg"
_ROWS = 10_000
_PASSAGE_ID, _SCORE, _SCORER = "pid", "ce-score", "teacher"


class _Passages(NamedTuple):
    """Passages of B rows, P in all.

    Attributes:
        owners: The row of each passage. Shape (P,).
        ids: The id of each passage. Shape (P,).
        scores: The cross-encoder's score of each passage; NaN if missing. Shape (P,).
    """

    owners: NDArray[np.int64]
    ids: pa.Array
    scores: NDArray[np.float64]


def is_by_system(dataset: Dataset) -> bool:
    """Return whether a dataset has this layout's columns; if it also has `query`, the type of `neg` decides."""
    names = set(dataset.column_names)
    if not names >= {_QUERY_ID, _POSITIVES, _NEGATIVES}:
        return False
    type_ = dataset.features.arrow_schema.field(_NEGATIVES).type
    return QUERY not in names or pa.types.is_struct(type_) or is_json(type_)


def mined_rows(dataset: Dataset, step: str) -> Dataset:
    """Return mined rows; without the column `query` if the dataset has none.

    The negatives of the systems are interleaved: the first of each system, then the second, and so on. A negative of
    several systems appears once, with the rank and the name of the system that ranks it highest.

    Args:
        dataset: Rows of this layout. Other columns are kept.
        step: The name of the calling function, for error messages.

    Returns:
        `query_id`, `positive_ids`, `negative_ids`, `negative_ranks`, `negative_source`; with cross-encoder scores also
        `positive_teacher_scores` and `negative_teacher_scores`.

    Raises:
        TypeError: A column has the wrong type.
        ValueError: An id is null.
    """
    scored = _is_scored(dataset)
    head = _mined(dataset.with_format("arrow")[:1], step, scored)
    features = Features.from_arrow_schema(head.schema)
    features = Features(features | {name: dataset.features[name] for name in _others(dataset.column_names)})
    if not len(dataset):
        return Dataset.from_dict({name: [] for name in features}, features=features)
    return (
        dataset.with_format("arrow")
        .map(
            _mined,
            batched=True,
            fn_kwargs={"step": step, "scored": scored},
            remove_columns=dataset.column_names,
            features=features,
            desc="To mined",
        )
        .with_format(None)
    )


def _others(names: list[str]) -> list[str]:
    return [name for name in names if name not in (_QUERY_ID, _POSITIVES, _NEGATIVES)]


def _is_scored(dataset: Dataset) -> bool:
    """Return whether passages have scores, by their types, or by their JSON texts if rows differ in their systems."""
    part = dataset.select_columns([_POSITIVES, _NEGATIVES])
    if f"'{_SCORE}'" in str(part.features):
        return True
    if not any(map(is_json, part.features.arrow_schema.types)):
        return False
    tables = part.with_format("arrow").iter(_ROWS)
    texts = (column.cast(pa.string()) for table in tables for column in table.columns if is_json(column.type))
    return any(pc.any(pc.match_substring(column, f'"{_SCORE}"')).as_py() for column in texts)


def _mined(table: pa.Table, step: str, scored: bool) -> pa.Table:
    batch = Batch(table, step)
    count = len(batch)
    query_ids = _ids(batch.column(_QUERY_ID), _QUERY_ID, step)
    positives = _passages(batch.column(_POSITIVES), _POSITIVES, step)
    systems = batch.column(_NEGATIVES)
    if pa.types.is_null(systems.type):
        systems = systems.cast(pa.struct([]))
    if not pa.types.is_struct(systems.type):
        raise TypeError(
            f"{step}: in rows with {_QUERY_ID!r}, the column {_NEGATIVES!r} must hold the lists of each system, such "
            f"as {{'bm25': [1, 2]}}, got {type_name(systems.type)}."
        )
    names = [field.name for field in systems.type]
    # Unlike `field`, `flatten` returns null if the whole struct is null.
    found = [
        _passages(column, f"{_NEGATIVES}.{name}", step) for name, column in zip(names, systems.flatten(), strict=True)
    ]
    owners = np.concatenate([part.owners for part in found] or [np.empty(0, dtype=np.int64)])
    ids = pa.concat_arrays([part.ids for part in found]) if found else pa.array([], pa.string())
    ranks = np.concatenate(
        [positions_within(offsets_of(np.bincount(part.owners, minlength=count))) + 1 for part in found]
        or [np.empty(0, dtype=np.int64)]
    )
    source = np.repeat(np.arange(len(found)), [len(part.ids) for part in found])
    order = np.lexsort((source, ranks, owners))
    coded = ids.dictionary_encode()
    pairs = (owners * max(len(coded.dictionary), 1) + coded.indices.to_numpy())[order]
    order = order[np.sort(np.unique(pairs, return_index=True)[1])]
    offsets = offsets_of(np.bincount(owners[order], minlength=count))
    at_positive = offsets_of(np.bincount(positives.owners, minlength=count))
    columns = {
        QUERY_ID: query_ids,
        POSITIVE_IDS: list_array(at_positive, positives.ids),
        NEGATIVE_IDS: list_array(offsets, ids.take(pa.array(order))),
        NEGATIVE_RANKS: list_array(offsets, pa.array(ranks[order].astype(np.int32))),
        NEGATIVE_SOURCE: list_array(offsets, pa.array(names, pa.string()).take(pa.array(source[order]))),
    }
    if scored:
        scores = np.concatenate([part.scores for part in found] or [np.empty(0)])[order]
        columns[score_column(_SCORER, of="positive")] = list_array(at_positive, number_array(positives.scores))
        columns[score_column(_SCORER, of="negative")] = list_array(offsets, number_array(scores))
    return pa.table(columns | {name: batch.column(name) for name in _others(table.column_names)})


def _passages(column: pa.Array, name: str, step: str) -> _Passages:
    """Read lists of ids, or of ids with scores. A null list is empty."""
    lists = flatten_lists(column) if pa.types.is_null(column.type) else Batch({name: column}, step).lists(name)
    values = from_json(lists.values, name, step) if is_json(lists.values.type) else lists.values
    scores = np.full(len(values), np.nan)
    if pa.types.is_struct(values.type):
        fields = {field.name for field in values.type}
        if _PASSAGE_ID not in fields:
            raise TypeError(
                f"{step}: the passages in {name!r} need the field {_PASSAGE_ID!r}, got {type_name(values.type)}."
            )
        if _SCORE in fields:
            scores = as_floats(values.field(_SCORE), f"{name}.{_SCORE}", step)
        values = values.field(_PASSAGE_ID)
    return _Passages(lists.owners, _ids(values, name, step), scores)


def _ids(values: pa.Array, name: str, step: str) -> pa.Array:
    ids = as_ids(values, repr(name), step, "value {}".format)
    if ids.null_count:
        raise ValueError(f"{step}: an id in {name!r} is null. Fill it in, or filter out such rows.")
    return ids.cast(pa.string())
