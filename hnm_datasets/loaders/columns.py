"""Renaming, casting and adding columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import datasets
import pyarrow as pa
from datasets import Dataset, Value

from hnm_datasets.arrays.arrow import is_list, is_string
from hnm_datasets.arrays.ids import as_ids
from hnm_datasets.batch import Batch
from hnm_datasets.columns import (
    JUDGED_NEGATIVE_IDS,
    KNOWN_POSITIVE_IDS,
    NEGATIVE_IDS,
    POSITIVE_IDS,
    QUERY,
    QUERY_ID,
)
from hnm_datasets.storage.kept_rows import in_memory_rows


def with_column(dataset: Dataset, name: str, lists: pa.Array) -> Dataset:
    """Return the dataset with an additional column, in the same format."""
    wider = datasets.concatenate_datasets([dataset, in_memory_rows(pa.table({name: lists}))], axis=1)
    kind, options = dataset.format["type"], dataset.format["format_kwargs"]
    return wider if kind is None else wider.with_format(kind, **options)


def check_new(dataset: Dataset, names: Sequence[str], owner: str) -> None:
    """Raise an error if columns to be added already exist."""
    taken = [name for name in names if name in dataset.column_names]
    if taken:
        raise ValueError(
            f"{owner}: the rows already have the columns {taken}, which {owner} adds. Rename them, or remove them: "
            f"rows.remove_columns({taken})."
        )


def id_column(table: pa.Table, name: str, owner: str) -> pa.Array:
    """Return a column of ids as strings. Nulls stay null."""
    return as_ids(table[name].combine_chunks(), f"the column {name!r}", owner).cast(pa.string())


def with_ids_as_texts(rows: Dataset, owner: str) -> Dataset:
    """Return the rows with all ids as strings."""
    for name in (QUERY_ID, POSITIVE_IDS, KNOWN_POSITIVE_IDS, JUDGED_NEGATIVE_IDS, NEGATIVE_IDS):
        if name in rows.column_names:
            rows = _with_ids_as_texts(rows, name, owner)
    return rows


def _with_ids_as_texts(dataset: Dataset, name: str, owner: str) -> Dataset:
    """Cast a column of ids or lists of ids to strings, after checking that all are whole numbers."""
    type_ = dataset.features.arrow_schema.field(name).type
    ids = type_.value_type if is_list(type_) else type_
    if is_string(ids) or pa.types.is_null(type_):
        return dataset
    batch = Batch(dataset.select_columns(name).with_format("arrow")[:], step=owner)
    if is_list(type_):
        batch.id_lists(name)
    else:
        batch.ids(name)
    # Cast floats to integers first: as a string, 17.0 would be "17.0".
    for value in ("int64", "string") if pa.types.is_floating(ids) else ("string",):
        feature = dataset.features[name]
        new_feature = replace(feature, feature=Value(value)) if is_list(type_) else Value(value)
        dataset = dataset.cast_column(name, new_feature)
    return dataset


def standard_passages(dataset: Dataset, ids: Sequence[str]) -> Dataset:
    """Return passages with ids as strings in the column `id`; other columns stay.

    Args:
        dataset: Passages with `text`.
        ids: The accepted names of the id column.
    """
    return _with_ids(dataset, _column(dataset, ids, ("text",))[0], "id")


def standard_queries(dataset: Dataset, ids: Sequence[str], texts: Sequence[str]) -> Dataset:
    """Return queries with only the columns `query_id` and `query`.

    Args:
        dataset: Queries.
        ids: The accepted names of the id column.
        texts: The accepted names of the text column.
    """
    id_, text = _column(dataset, ids, texts)
    queries = dataset.select_columns([id_, text])
    return _with_ids(queries if text == QUERY else queries.rename_column(text, QUERY), id_, QUERY_ID)


def _column(dataset: Dataset, ids: Sequence[str], texts: Sequence[str]) -> tuple[str, str]:
    found = [next((name for name in names if name in dataset.column_names), None) for names in (ids, texts)]
    if found[0] is None or found[1] is None:
        alternatives = " or ".join(map(repr, ids[1:]))
        raise ValueError(
            f"The dataset is not in BEIR's format: passages and queries need {ids[0]!r} "
            f"{f'(or {alternatives}) ' if alternatives else ''}and {texts[0]!r}, got {dataset.column_names}."
        )
    return found[0], found[1]


def _with_ids(dataset: Dataset, name: str, standard: str) -> Dataset:
    if name != standard:
        if standard in dataset.column_names:
            dataset = dataset.remove_columns(standard)
        dataset = dataset.rename_column(name, standard)
    dataset = _with_ids_as_texts(dataset, standard, "load_beir")
    is_text = dataset.features[standard] == Value("string")
    return dataset if is_text else dataset.cast_column(standard, Value("string"))
