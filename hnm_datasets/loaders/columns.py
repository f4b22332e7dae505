"""Columns under the names that the library reads, and one more column."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import pyarrow as pa
from datasets import Dataset, Value

from hnm_datasets.columns import QUERY, QUERY_ID


def with_column(dataset: Dataset, name: str, lists: pa.Array) -> Dataset:
    """Return the dataset with one more column, in the same format."""
    wider = datasets.concatenate_datasets([dataset, Dataset(pa.table({name: lists}))], axis=1)
    kind, options = dataset.format["type"], dataset.format["format_kwargs"]
    return wider if kind is None else wider.with_format(kind, **options)


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
    is_text = dataset.features[standard] == Value("string")
    return dataset if is_text else dataset.cast_column(standard, Value("string"))
