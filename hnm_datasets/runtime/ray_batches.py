"""Batches as Ray Data passes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from hnm_datasets.arrays.arrow import as_arrow


def keep_name_of_step(step: type) -> None:
    """Give a class the name of the step that Ray derived it from, so that messages name the step.

    In an actor pool, Ray derives a class of its own from the class of the step.
    """
    if step.__module__.startswith("ray."):
        step.__name__ = step.__mro__[1].__name__


def holds_arrays(rows: Any) -> bool:
    """Return whether the batch is a dict with numpy arrays, as Ray Data passes it."""
    return isinstance(rows, dict) and any(isinstance(values, np.ndarray) for values in rows.values())


def table_of_arrays(rows: Any, step: str) -> pa.Table:
    """Make Ray's dict of arrays a table again; images and other objects stay as Ray keeps them."""
    columns = {}
    for name, values in rows.items():
        if getattr(values, "ndim", 1) == 1:
            try:
                array = as_arrow(values, name, step)
                # By the contract these hold texts, which empty lists do not tell.
                is_untyped = pa.types.is_list(array.type) and pa.types.is_null(array.type.value_type)
                is_texts = is_untyped and name.endswith(("_ids", "_source"))
                columns[name] = array.cast(pa.list_(pa.string())) if is_texts else array
                continue
            except (TypeError, ValueError, pa.ArrowException):
                # Not of our columns.
                pass
        from ray.data.block import BlockAccessor

        columns[name] = BlockAccessor.batch_to_block({name: values})[name]
    return pa.table(columns)
