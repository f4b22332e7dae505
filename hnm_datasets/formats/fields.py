"""Read and write columns of passages as flat arrays.

Unlike `Batch`, reading allows null texts, null scores, and the scores of several passages in one list. Writing adds ids
to passages that have none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import is_list, is_string, type_name
from hnm_datasets.arrays.ids import as_ids
from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.batch import Batch
from hnm_datasets.columns import QUERY
from hnm_datasets.formats.base import QueryRows, Side
from hnm_datasets.storage.digests import digest_strings

#: The column in which `mine_hard_negatives` writes the scores of a row's positive and negatives as one list.
_JOINT = "scores"


# ---- reading -----------------------------------------------------------------------------------------------------


def nullable_strings(batch: Batch, name: str) -> pa.Array:
    """Read a column of texts, which may be null. Shape (B,)."""
    array = batch.column(name)
    if pa.types.is_null(array.type):
        return array.cast(pa.string())
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        raise TypeError(f"{batch.step}: the column {name!r} must hold strings, got {type_name(array.type)}.")
    return array


def interleaved(columns: list[pa.Array]) -> pa.Array:
    """Interleave n columns of B texts, row by row. Shape (B * n,)."""
    if len(columns) == 1:
        return columns[0]
    size, count = len(columns[0]), len(columns)
    order = np.arange(size * count).reshape(count, size).T.ravel()
    return pa.concat_arrays([column.cast(pa.large_string()) for column in columns]).take(pa.array(order))


def aligned_numbers(batch: Batch, name: str, beside: str, ids: Ragged[pa.Array]) -> NDArray[np.float64]:
    """Read a column of lists of numbers that is aligned with another. Null is NaN, and a null list is all NaN."""
    unknown = batch.column(name).is_null().to_numpy(zero_copy_only=False)
    lists = batch.lists(name)
    lengths = np.where(unknown, ids.lengths, lists.lengths)
    batch.check_aligned(beside, ids, name, Ragged(offsets_of(lengths), lists.values))
    values = np.full(len(ids.values), np.nan)
    values[~unknown[ids.owners]] = as_floats(lists.values, name, batch.step)
    return values


def is_unknown(batch: Batch, name: str) -> bool:
    """Return whether a column is missing, or has the type null because all its values are null."""
    return not batch.has(name) or bool(pa.types.is_null(batch.column(name).type))


def aligned_strings(batch: Batch, name: str, beside: str, lists: Ragged[pa.Array]) -> pa.Array | None:
    """Read a column of lists of strings that is aligned with another; None if there is no such column. Shape (P,)."""
    if not batch.has(name):
        return None
    strings = batch.string_lists(name)
    batch.check_aligned(beside, lists, name, strings)
    return strings.values


def aligned_ids(batch: Batch, name: str, beside: str, lists: Ragged[pa.Array]) -> pa.Array | None:
    """Read a column of lists of ids that is aligned with another; None if there is no such column. Shape (P,)."""
    if not batch.has(name):
        return None
    ids = batch.id_lists(name)
    batch.check_aligned(beside, lists, name, ids)
    return ids.values


def as_floats(array: pa.Array, name: str, step: str) -> NDArray[np.float64]:
    """Read numbers of any type; null is NaN. Shape (P,)."""
    try:
        if is_string(array.type):
            raise pa.ArrowInvalid
        return np.asarray(array.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise TypeError(f"{step}: the column {name!r} must hold numbers, got {type_name(array.type)}.") from None


def joint_scores(batch: Batch, wanted: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Read the scores of a row's positive and negatives from one list, as `mine_hard_negatives` writes them.

    Args:
        batch: B rows.
        wanted: The number of passages of each row. Shape (B,).

    Returns:
        The scores, row by row. None if there is no such column, or if it does not hold lists.

    Raises:
        ValueError: A row has another number of scores than passages.
    """
    if not batch.has(_JOINT) or not is_list(batch.column(_JOINT).type):
        return None
    lists = batch.lists(_JOINT)
    wrong = np.flatnonzero(lists.lengths != wanted)
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{batch.step}: the column {_JOINT!r} must hold {wanted[row]} scores per row, for the positive and the "
            f"negatives, but {batch.describe(row)} has {lists.lengths[row]}. If the column means something else, "
            f"rename it."
        )
    return as_floats(lists.values, _JOINT, batch.step)


def ids_beside(batch: Batch, names: list[str], columns: Sequence[str], there: pa.Array) -> pa.Array:
    """Read the ids of the texts that are not null, row by row.

    Args:
        batch: B rows.
        names: The n columns of ids.
        columns: The n columns of texts, for error messages.
        there: Whether each text is not null. Shape (B * n,).

    Raises:
        ValueError: The id of a text is null.
    """
    ids = interleaved([as_ids(batch.column(name), f"the column {name!r}", batch.step) for name in names])
    lacking = pc.and_(ids.is_null(), there)
    if lacking.true_count:
        row, at = divmod(int(np.flatnonzero(lacking.to_numpy(zero_copy_only=False))[0]), len(names))
        raise ValueError(
            f"{batch.step}: {names[at]!r} is null in {batch.describe(row)}, but {columns[at]!r} is not. Fill in the "
            f"id, or remove the id columns."
        )
    return ids.filter(there)


# ---- writing -----------------------------------------------------------------------------------------------------


def text_ids(texts: pa.Array) -> pa.Array:
    """Return hashes of texts as ids, as `from_pairs` does. Shape (P,).

    Example:
        >>> text_ids(pa.array(["Plates move."])).to_pylist()
        ['bc5a1770f4ce5039']
    """
    return pa.array([f"{digest:016x}" for digest in digest_strings(texts.to_pylist())[:, 0].tolist()], pa.string())


def text_array(side: Side) -> pa.Array:
    """Return the full texts of passages, which must be known. Shape (P,)."""
    texts = side.full_texts
    assert texts is not None  # `convert` has looked them up
    return texts.cast(pa.string())


def id_array(side: Side) -> pa.Array:
    """Return the ids of passages, or hashes of their texts if there are none. Shape (P,)."""
    return text_ids(text_array(side)) if side.ids is None else side.ids.cast(pa.string())


def number_array(scores: NDArray[np.float64], type_: pa.DataType | None = None) -> pa.Array:
    """Return scores as float32 or another type, with null for NaN. Shape (P,)."""
    return pa.array(scores, type_ or pa.float32(), from_pandas=True)


def query_columns(rows: QueryRows, id_name: str) -> dict[str, pa.Array]:
    """Return the column of queries and, if there are ids, of query ids. Shape (B,) each."""
    ids = {} if rows.query_ids is None else {id_name: rows.query_ids.cast(pa.string())}
    return ids | {QUERY: rows.queries.cast(pa.string())}
