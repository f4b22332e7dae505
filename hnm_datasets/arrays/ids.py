"""Converting ids to strings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hnm_datasets.arrays.arrow import as_plain, is_string, type_name

#: From this number on, floats cannot represent all whole numbers.
_EXACT = 2**53


def as_ids(ids: pa.Array, name: str, owner: str, describe: Callable[[int], str] = "row {}".format) -> pa.Array:
    """Convert ids to strings: 17 becomes "17". Nulls stay null.

    17.0 becomes "17" too, because pandas converts whole numbers to floats if a value is missing.

    Args:
        ids: B strings or whole numbers.
        name: The name of the column for error messages, such as "the column 'id'".
        owner: The step or function that reads the ids, for error messages.
        describe: A function that describes the position of a value, given its number, for error messages.

    Raises:
        TypeError: The ids have another type.
        ValueError: A float is not a whole number, or is too large to be exact.

    Example:
        >>> as_ids(pa.array([17, None]), "the column 'id'", "example").to_pylist()
        ['17', None]
        >>> as_ids(pa.array([17.0, None]), "the column 'id'", "example").to_pylist()
        ['17', None]
    """
    ids = as_plain(ids)
    if is_string(ids.type):
        return ids
    if pa.types.is_null(ids.type) or pa.types.is_integer(ids.type):
        return ids.cast(pa.string())
    if not pa.types.is_floating(ids.type):
        raise TypeError(
            f"{owner}: {name} must hold ids, which are strings or whole numbers, got {type_name(ids.type)}. Cast it to "
            f"strings."
        )
    values = ids.cast(pa.float64()).to_numpy(zero_copy_only=False)
    # NaN is null, so it is not checked.
    bad = np.flatnonzero((values != np.rint(values)) & ~np.isnan(values) | (np.abs(values) >= _EXACT))
    if len(bad):
        value = float(values[bad[0]])
        why = "is not an id" if value != np.rint(value) else "is too large to be exact"
        raise ValueError(
            f"{owner}: {name} holds the number {value!r} in {describe(int(bad[0]))}, which {why}. Ids must be strings "
            f"or whole numbers. Read them as strings."
        )
    return pc.cast(pa.array(values, pa.float64(), from_pandas=True), pa.int64()).cast(pa.string())
