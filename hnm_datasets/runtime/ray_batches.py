"""Batches from Ray Data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from hnm_datasets.arrays.arrow import as_arrow
from hnm_datasets.runtime.ray_internals import column_of, is_derived


def keep_name_of_step(step: type) -> None:
    """Name a class after the step that Ray derived it from, so that messages name the step.

    In an actor pool, Ray creates a subclass of the class of the step.
    """
    if is_derived(step):
        step.__name__ = step.__mro__[1].__name__


def holds_arrays(rows: Any) -> bool:
    """Return whether the batch is a dict with numpy arrays, as in Ray Data."""
    return isinstance(rows, dict) and any(isinstance(values, np.ndarray) for values in rows.values())


def table_of_arrays(rows: Any, step: str) -> pa.Table:
    """Convert Ray's dict of arrays to a table. Images and other objects keep Ray's types."""
    columns = {}
    for name, values in rows.items():
        if getattr(values, "ndim", 1) == 1:
            try:
                array = as_arrow(values, name, step)
                # If all lists are empty, their type is unknown. These columns contain strings by convention.
                is_untyped = pa.types.is_list(array.type) and pa.types.is_null(array.type.value_type)
                is_texts = is_untyped and name.endswith(("_ids", "_source"))
                columns[name] = array.cast(pa.list_(pa.string())) if is_texts else array
                continue
            except (TypeError, ValueError, pa.ArrowException):
                # Not one of the columns of this library.
                pass
        columns[name] = column_of(name, values)
    return pa.table(columns)
