"""Converting columns of any type to Arrow arrays, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.terminal import printable

_LONGEST_NAME = 200


def is_string(type_: pa.DataType) -> bool:
    """Return whether this is a string type."""
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def is_list(type_: pa.DataType) -> bool:
    """Return whether this is a list type."""
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


def is_one_value(values: Any) -> bool:
    """Return whether this is a single value, not a column."""
    is_scalar = getattr(values, "ndim", 1) == 0 or not hasattr(values, "__iter__")
    return is_scalar or isinstance(values, (str, bytes, Mapping))


def as_arrow(values: Any, name: str, step: str) -> pa.Array:
    """Convert a column to a single Arrow array of a plain type, see `plain_type`.

    Args:
        values: An Arrow array, a pandas or polars Series, an array, or a sequence.
        name: The column, for error messages.
        step: The step that reads it, for error messages.

    Raises:
        TypeError: The values have different types, or a type that Arrow does not support; the message names the row.
    """
    if is_one_value(values):
        raise TypeError(f"{step} got one row instead of a batch. Pass batched=True to .map.")
    if isinstance(values, np.ndarray) and values.dtype.kind == "U":
        # Arrow would truncate each text at its first NUL character.
        values = values.tolist()
    try:
        return as_plain(_read(values, name, step))
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        row = _first_refused(list(values), name, step)
        if isinstance(error, UnicodeError):
            fault = "has a text that is not valid Unicode"
        elif isinstance(error, OverflowError):
            fault = "has a number that does not fit into 64 bits"
        else:
            fault = "mixes types"
        raise TypeError(
            f"{step}: the column {name!r} {fault} in row {row} of the batch: {printable(str(error))}"
        ) from None


def _read(values: Any, name: str, step: str) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
    if isinstance(values, pa.Array) and is_json(values.type):
        return from_json(values, name, step)
    if isinstance(values, pa.Array):
        # Ray stores the arrays that a function returns as extension types: pickled lists and tensors.
        return array_of_rows(values.to_pylist()) if isinstance(values.type, pa.BaseExtensionType) else values
    if isinstance(values, pd.Series):
        return _read(pa.Array.from_pandas(values), name, step)
    if hasattr(values, "to_arrow"):
        return _read(values.to_arrow(), name, step)
    if isinstance(values, np.ndarray) and (values.ndim > 1 or values.dtype == object):
        # A formatted dataset stacks lists of equal length into a matrix, and others into an array of arrays.
        values = list(values)
    elif not isinstance(values, np.ndarray):
        values = [value.tolist() if hasattr(value, "tolist") and not _is_vector(value) else value for value in values]
    return array_of_rows(values) if isinstance(values, list) else pa.array(values)


def _is_vector(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 1


def _first_refused(values: list[Any], name: str, step: str) -> int:
    """Return the first row that cannot be converted together with the rows before it."""
    low, high = 0, len(values)
    while low + 1 < high:
        middle = (low + high) // 2
        try:
            _read(values[:middle], name, step)
            low = middle
        except (pa.ArrowException, OverflowError, UnicodeError):
            high = middle
    return low


def plain_type(type_: pa.DataType) -> pa.DataType:
    """Return the type for the same values that all Arrow functions support: without views, dictionaries and runs.

    Example:
        >>> plain_type(pa.list_view(pa.dictionary(pa.int8(), pa.string_view())))
        ListType(list<item: string>)
    """
    if pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        return plain_type(type_.value_type)
    if pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_list_view(type_) or pa.types.is_large_list_view(type_):
        return pa.list_(plain_type(type_.value_type))
    if is_list(type_) and (inner := plain_type(type_.value_type)) != type_.value_type:
        if pa.types.is_fixed_size_list(type_):
            return pa.list_(inner, type_.list_size)
        return pa.large_list(inner) if pa.types.is_large_list(type_) else pa.list_(inner)
    return type_


def as_plain(array: pa.Array) -> pa.Array:
    """Return the array in its `plain_type`."""
    type_ = plain_type(array.type)
    if type_ == array.type:
        return array
    if pa.types.is_dictionary(array.type):
        return as_plain(array.dictionary_decode())
    if pa.types.is_run_end_encoded(array.type):
        return as_plain(pc.run_end_decode(array))
    if pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type):
        # Arrow's cast loses the lists after a null list.
        lists = flatten_lists(array)
        plain = list_array(lists.offsets, lists.values)
        return as_plain(pc.if_else(array.is_valid(), plain, pa.scalar(None, plain.type)))
    return array.cast(type_)


def type_name(type_: pa.DataType) -> str:
    """Return the name of a type for error messages. Field names come from files, so escape and shorten them.

    Example:
        >>> type_name(pa.list_(pa.string()))
        'list<item: string>'
    """
    name = printable(str(type_))
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"


def is_json(type_: pa.DataType) -> bool:
    """Return whether this is the type that `datasets` uses for values with different types or fields."""
    return getattr(type_, "extension_name", "") == "arrow.json"


def from_json(values: pa.Array, name: str, step: str) -> pa.Array:
    """Decode JSON texts to an Arrow array. Structs get the fields of all values.

    Args:
        values: An array of the type `arrow.json`.
        name: The column, for error messages.
        step: The step that reads it, for error messages.

    Raises:
        TypeError: The values have different types.
    """
    try:
        return pa.array([None if text is None else json.loads(text) for text in values.to_pylist()])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TypeError(f"{step}: the column {name!r} mixes types: {printable(str(error))}") from None


def array_of_rows(values: list[Any]) -> pa.Array:
    """Convert rows that may be arrays. Lists of numbers keep their type, even if all of them are empty."""
    arrays = [value for value in values if isinstance(value, np.ndarray) and value.ndim == 1]
    nulls = np.fromiter((value is None for value in values), dtype=bool, count=len(values))
    kinds = {array.dtype.kind for array in arrays}
    # In numpy, every empty list is float64.
    is_known = len(kinds) == 1 and (any(map(len, arrays)) or arrays[0].dtype != np.float64)
    if not is_known or len(arrays) + nulls.sum() < len(values):
        return pa.array([value.tolist() if isinstance(value, np.ndarray) else value for value in values])
    flat = np.concatenate(arrays)
    items = pa.array(flat.tolist() if kinds == {"O"} else flat)
    offsets = offsets_of(np.array([0 if value is None else len(value) for value in values]))
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), items, mask=pa.array(nulls))


def as_series(array: pa.Array) -> pd.api.extensions.ExtensionArray:
    """Return the array as a pandas extension array, without a copy."""
    return pd.arrays.ArrowExtensionArray(array)


def as_objects(array: pa.Array) -> NDArray[Any]:
    """Return the array as a numpy array. Each list becomes an array."""
    objects = np.empty(len(array), dtype=object)
    if is_list(array.type):
        lists = flatten_lists(array)
        values = lists.values.to_numpy(zero_copy_only=False)
        # Assign one by one, because numpy would combine lists of equal length to a matrix.
        for row, part in enumerate(np.split(values, lists.offsets[1:-1]) if len(array) else []):
            objects[row] = part
        return objects
    return np.asarray(array.to_numpy(zero_copy_only=False))


def flatten_lists(array: pa.Array) -> Ragged[pa.Array]:
    """Return the lists of an Arrow array with flat values. Null lists are empty."""
    if pa.types.is_null(array.type):
        return Ragged(np.zeros(len(array) + 1, dtype=np.int64), pa.nulls(0))
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.zeros(len(array) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Ragged(offsets, array.flatten())


def string_buffers(strings: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the offsets of strings, shape (B + 1,), and their bytes, both read-only.

    Numba compiles a loop separately for writable and read-only arrays, and Arrow buffers may be either.
    """
    strings = strings.cast(pa.large_string())
    _, ends, data = strings.buffers()
    offsets = np.frombuffer(ends, dtype=np.int64)[strings.offset :][: len(strings) + 1]
    # Without strings, Arrow may omit the buffer.
    content = np.frombuffer(b"" if data is None else data, dtype=np.uint8)
    offsets.flags.writeable = content.flags.writeable = False
    return offsets, content


def list_array(offsets: NDArray[np.int64], values: pa.Array) -> pa.ListArray:
    """Create the Arrow list array that `datasets` stores as `List(...)`."""
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)


def score_array(scores: NDArray[np.float32]) -> pa.Array:
    """Return scores as an Arrow array; NaN becomes null.

    Example:
        >>> score_array(np.array([0.5, np.nan], dtype=np.float32)).to_pylist()
        [0.5, None]
    """
    return pa.array(scores, from_pandas=True)
