"""The table behind live rows: row numbers, and text columns that cannot be read.

A transform makes the texts. Another format, `to_pandas` or `concatenate_datasets` bypasses the transform and reads the
table itself. The text columns therefore have a special type: reading one of their values raises an error.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from datasets import Features, Value
from numpy.typing import NDArray

from hnm_datasets.runtime.datasets_internals import register_feature

#: The columns of numbers, which the transform reads.
QUERY_ROW, POSITIVE_ROW = "query_row", "positive_row"
_UNREADABLE = "live rows were read without the transform that makes their texts"


def unreadable(what: str) -> TypeError:
    """Return the error for reading the table without the transform."""
    return TypeError(
        f"live_negatives: {what}. The texts are made when rows are read, so other formats, exports, audits, column "
        f"changes and concatenations cannot access them. Create a plain dataset of an epoch first: "
        f"rows_of_epoch(live, epoch). To train on several datasets, pass them to the trainer as a dict."
    )


class _Scalar(pa.ExtensionScalar):  # type: ignore[misc]
    def as_py(self, **options: Any) -> Any:
        raise unreadable(_UNREADABLE)


class _LiveTextType(pa.ExtensionType):  # type: ignore[misc]
    """The Arrow type of texts that are made by a transform."""

    def __init__(self) -> None:
        super().__init__(pa.bool_(), "hnm_datasets.live_text")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> _LiveTextType:
        return cls()

    def __arrow_ext_scalar_class__(self) -> type[_Scalar]:
        return _Scalar

    def to_pandas_dtype(self) -> Any:
        """Raise, because pandas would convert the placeholder of the text."""
        raise unreadable(_UNREADABLE)


@dataclass
class LiveText:
    """The feature of texts that are made by a transform."""

    dtype: ClassVar[str] = "string"
    pa_type: ClassVar[Any] = _LiveTextType()
    _type: str = field(default="LiveText", init=False, repr=False)

    def __call__(self) -> Any:
        """Return the Arrow type, as every feature does."""
        return self.pa_type

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> Any:
        """Raise in all formats."""
        raise unreadable(_UNREADABLE)


with warnings.catch_warnings():
    # `datasets` warns that this function is experimental.
    warnings.simplefilter("ignore")
    register_feature(LiveText, "LiveText")
with contextlib.suppress(pa.ArrowKeyError):
    # If the module is loaded again, the type is already registered.
    pa.register_extension_type(LiveText.pa_type)


def text_names(n: int) -> list[str]:
    """Return the names of the text columns, in order."""
    return ["anchor", "positive", *(f"negative_{column + 1}" for column in range(n))]


def live_table(queries: NDArray[np.int64], positives: NDArray[np.int64], n: int) -> pa.Table:
    """Create the table of M rows.

    Args:
        queries: The row number of each row's query. Shape (M,).
        positives: The row number of its positive in the corpus. Shape (M,).
        n: Negatives per row.
    """
    stand_in = pa.ExtensionArray.from_storage(LiveText.pa_type, pa.array(np.zeros(len(queries), dtype=np.bool_)))
    columns = dict.fromkeys(text_names(n), stand_in) | {QUERY_ROW: pa.array(queries), POSITIVE_ROW: pa.array(positives)}
    texts = dict.fromkeys(text_names(n), LiveText())
    features = Features(texts | {QUERY_ROW: Value("int64"), POSITIVE_ROW: Value("int64")})
    return pa.Table.from_arrays(list(columns.values()), schema=features.arrow_schema)
