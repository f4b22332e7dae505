"""Columns beside those of a dataset."""

from __future__ import annotations

import datasets
import pyarrow as pa
from datasets import Dataset


def with_column(dataset: Dataset, name: str, lists: pa.Array) -> Dataset:
    """Return the dataset with one more column, in the same format."""
    wider = datasets.concatenate_datasets([dataset, Dataset(pa.table({name: lists}))], axis=1)
    kind, options = dataset.format["type"], dataset.format["format_kwargs"]
    return wider if kind is None else wider.with_format(kind, **options)
