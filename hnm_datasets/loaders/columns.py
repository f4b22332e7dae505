"""Columns under the names that the library reads, and one more column."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import pyarrow as pa
from datasets import Dataset, Value

from hnm_datasets.arrays.arrow import is_list, is_string, list_array
from hnm_datasets.arrays.ids import as_ids
from hnm_datasets.arrays.ragged import Ragged
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
    """Return the dataset with one more column, in the same format."""
    wider = datasets.concatenate_datasets([dataset, in_memory_rows(pa.table({name: lists}))], axis=1)
    kind, options = dataset.format["type"], dataset.format["format_kwargs"]
    return wider if kind is None else wider.with_format(kind, **options)


def check_new(dataset: Dataset, names: Sequence[str], owner: str) -> None:
    """Raise if there are columns already of names that are to be added."""
    taken = [name for name in names if name in dataset.column_names]
    if taken:
        raise ValueError(
            f"{owner}: the rows have columns {taken} already, and new ones get these names. Rename the old ones, or "
            f"remove them: rows.remove_columns({taken})."
        )


def id_column(table: pa.Table, name: str, owner: str) -> pa.Array:
    """Return a column of ids as texts. Null stays null."""
    return as_ids(table[name].combine_chunks(), f"the column {name!r}", owner).cast(pa.string())


def with_ids_as_texts(rows: Dataset, owner: str) -> Dataset:
    """Return the rows with all ids as texts, in the same columns."""
    for name in (QUERY_ID, POSITIVE_IDS, KNOWN_POSITIVE_IDS, JUDGED_NEGATIVE_IDS, NEGATIVE_IDS):
        if name not in rows.column_names:
            continue
        type_ = rows.features.arrow_schema.field(name).type
        if is_string(type_) or (is_list(type_) and is_string(type_.value_type)):
            continue
        batch = Batch(rows.select_columns(name).with_format("arrow")[:], step=owner)
        ids = batch.ids(name) if name == QUERY_ID else _listed(batch.id_lists(name))
        rows = _with_other_column(rows, name, ids)
    return rows


def _listed(lists: Ragged[pa.Array]) -> pa.ListArray:
    return list_array(lists.offsets, lists.values)


def _with_other_column(dataset: Dataset, name: str, values: pa.Array) -> Dataset:
    return with_column(dataset.remove_columns(name), name, values).select_columns(dataset.column_names)


def standard_passages(dataset: Dataset, ids: Sequence[str]) -> Dataset:
    """Return passages with the column `id` of texts; other columns stay.

    Args:
        dataset: Passages with `text`.
        ids: The names that the column of ids may have.
    """
    return _with_ids(dataset, _column(dataset, ids, ("text",))[0], "id")


def standard_queries(dataset: Dataset, ids: Sequence[str], texts: Sequence[str]) -> Dataset:
    """Return queries with the columns `query_id` and `query` alone.

    Args:
        dataset: Queries.
        ids: The names that the column of ids may have.
        texts: The names that the column of texts may have.
    """
    id_, text = _column(dataset, ids, texts)
    queries = dataset.select_columns([id_, text])
    return _with_ids(queries if text == QUERY else queries.rename_column(text, QUERY), id_, QUERY_ID)


def _column(dataset: Dataset, ids: Sequence[str], texts: Sequence[str]) -> tuple[str, str]:
    found = [next((name for name in names if name in dataset.column_names), None) for names in (ids, texts)]
    if found[0] is None or found[1] is None:
        alternatives = " or ".join(map(repr, ids[1:]))
        raise ValueError(
            f"The set is not in BEIR's form: passages and queries need {ids[0]!r} "
            f"{f'(or {alternatives}) ' if alternatives else ''}and {texts[0]!r}, got {dataset.column_names}."
        )
    return found[0], found[1]


def _with_ids(dataset: Dataset, name: str, standard: str) -> Dataset:
    if name != standard:
        if standard in dataset.column_names:
            dataset = dataset.remove_columns(standard)
        dataset = dataset.rename_column(name, standard)
    if dataset.features[standard] == Value("string"):
        return dataset
    return _with_other_column(
        dataset, standard, id_column(dataset.select_columns(standard).with_format("arrow")[:], standard, "load_beir")
    )
