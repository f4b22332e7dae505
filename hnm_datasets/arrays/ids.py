"""Ids as texts, whatever type they came in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hnm_datasets.arrays.arrow import as_plain, is_string, type_name

#: From here on, floats no longer tell neighboring whole numbers apart.
_EXACT = 2**53


def as_ids(ids: pa.Array, name: str, owner: str, describe: Callable[[int], str] = "row {}".format) -> pa.Array:
    """Return ids as texts: 17 is "17". Null stays null.

    pandas makes floats of whole numbers as soon as one value is missing, so 17.0 is "17" too.

    Args:
        ids: B texts or whole numbers.
        name: What holds them, for errors, such as "the column 'id'".
        owner: The step or function that reads them, for errors.
        describe: Names the place of a value for a person, given its number, for errors.

    Raises:
        TypeError: They are of another type.
        ValueError: A float is no whole number, or too large to be exact.

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
    # Of NaN none of this is true: it is null.
    bad = np.flatnonzero((values != np.rint(values)) & ~np.isnan(values) | (np.abs(values) >= _EXACT))
    if len(bad):
        value = float(values[bad[0]])
        why = "is no id" if value != np.rint(value) else "is too large to be exact"
        raise ValueError(
            f"{owner}: {name} holds the number {value!r} in {describe(int(bad[0]))}, which {why}. Ids are strings or "
            f"whole numbers; read them as strings."
        )
    return pc.cast(pa.array(values, pa.float64(), from_pandas=True), pa.int64()).cast(pa.string())
