"""Internals of `datasets`, which a new release may change.

A function does not know which columns `map` will remove, and with formatted rows `map` cannot remove them correctly: if
the function returns a dict of arrays, `map` merges it into the old columns, which may have another number of rows; if
it returns a table or data frame, `map` ignores `remove_columns`. So a step that `map` calls reads the options of the
call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Dataset, DatasetInfo
from datasets.config import HF_DATASETS_DISABLE_PROGRESS_BARS
from datasets.features.features import register_feature
from datasets.splits import SplitDict, SplitInfo
from datasets.table import MemoryMappedTable
from datasets.utils import tqdm
from datasets.utils.py_utils import convert_file_size_to_int

__all__ = [
    "HF_DATASETS_DISABLE_PROGRESS_BARS",
    "MemoryMappedTable",
    "SplitDict",
    "SplitInfo",
    "convert_file_size_to_int",
    "register_feature",
    "tqdm",
]

#: Formats that do not change the stored values, so that a step can read the stored table instead.
_SHOWN_AS_STORED = ("arrow", "jax", "numpy", "pandas", "polars", "tensorflow", "torch")


class MapCall(NamedTuple):
    """A `map` call that runs a step.

    Attributes:
        rows: The rows to process: the stored table if the rows are formatted, because it is lossless; otherwise the
            rows as passed.
        removed: The `remove_columns` of the call.
    """

    rows: Any
    removed: Collection[str]

    def without_removed(self, answer: Any, written: Collection[str]) -> Any:
        """Remove the columns to remove, except those that the step writes."""
        dropped = set(self.removed) - set(written)
        if isinstance(answer, pa.Table):
            return answer.select([name for name in answer.column_names if name not in dropped])
        return {name: values for name, values in answer.items() if name not in dropped}


def calling_map(frame: FrameType, rows: Any) -> MapCall | None:
    """Return the `map` call that passes formatted rows, or rows of a stream, to a step.

    Args:
        frame: The caller of the step.
        rows: The rows that it passes.

    Returns:
        None for other callers, and if `map` itself handles its options correctly.
    """
    local = frame.f_locals
    if frame.f_code.co_name == "apply_function" and frame.f_globals.get("__name__") == "datasets.iterable_dataset":
        return MapCall(rows, local["self"].remove_columns or ())
    if not _is_map(frame) or local["inputs"] is not rows or hasattr(rows, "keys_to_format"):
        return None
    outer = _outer(frame)
    removed = outer["remove_columns"] or ()
    if outer["shard"]._format_type in _SHOWN_AS_STORED:
        # Without batched=True, `rows` is a single row, which the step refuses.
        return MapCall(local["pa_inputs"], removed) if isinstance(local["indices"], list) else None
    return MapCall(rows, removed) if isinstance(rows, dict) else None


def lazy_call(frame: FrameType, rows: Any) -> MapCall | None:
    """Return the `map` call that passes a lazy batch to a step, so that the step can return a table.

    If a batch gives no rows, `map` ignores a dict and its new columns, but uses the columns of a table.

    Args:
        frame: The caller of the step.
        rows: The rows that it passes.
    """
    if not _is_map(frame) or not hasattr(rows, "keys_to_format"):
        return None
    return MapCall(frame.f_locals["pa_inputs"], _outer(frame)["remove_columns"] or ())


def rows_of_empty_call(frame: FrameType) -> int | None:
    """Return the number of input rows if a `map` call has written no rows and this is its last batch, otherwise None.

    Return None in one of several processes, because others may have rows.

    Args:
        frame: The caller of the step that returns no rows.
    """
    if not _is_map(frame):
        return None
    outputs = frame.f_back
    single = outputs.f_back.f_locals if outputs is not None and outputs.f_back is not None else {}
    indices, total, writer = frame.f_locals["indices"], single.get("num_rows"), single.get("writer")
    if single.get("rank", 0) is not None or not isinstance(indices, list) or not isinstance(total, int):
        return None
    written = 0 if writer is None else getattr(writer, "_num_examples", None)
    return total if indices[-1] + 1 == total and written == 0 else None


def maps_single_rows(frame: FrameType) -> bool:
    """Return whether `Dataset.map` without `batched=True` calls a function.

    Args:
        frame: The caller of the function.
    """
    return _is_map(frame) and isinstance(frame.f_locals["indices"], int)


def _is_map(frame: FrameType) -> bool:
    """Return whether this is where `Dataset.map` calls a function."""
    return frame.f_code.co_name == "apply_function" and frame.f_globals.get("__name__") == "datasets.arrow_dataset"


def _outer(frame: FrameType) -> dict[str, Any]:
    """Return the variables of the `map` call around the function that calls the step."""
    merge = frame.f_locals["prepare_outputs"]
    cells = zip(merge.__code__.co_freevars, merge.__closure__, strict=True)
    return {name: cell.cell_contents for name, cell in cells if name in ("remove_columns", "shard")}


class Call(NamedTuple):
    """A `map` call in this process.

    Attributes:
        apply: The function that the call created to apply the step.
        shared: A token that is the same in all workers of the call and unique to it; empty without workers.
    """

    apply: Callable[..., Any]
    shared: str


def current_call() -> Call | None:
    """Return the call of `map` that the caller's caller runs in; None outside of `map`."""
    apply: Callable[..., Any] | None = None
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module, local = frame.f_globals.get("__name__"), frame.f_locals
        if module in ("datasets.arrow_dataset", "datasets.iterable_dataset") and apply is None:
            apply = local.get("apply_function")
        if module == "datasets.utils.py_utils" and "queue" in local and apply is not None:
            # The workers of a call return their rows through this queue.
            return Call(apply, str(getattr(local["queue"], "_token", "")))
        frame = frame.f_back
    return None if apply is None else Call(apply, "")


def fingerprint_of(rows: Dataset) -> str:
    """Return the fingerprint by which `map` names cached results of a dataset."""
    fingerprint: str = rows._fingerprint
    return fingerprint


def chosen_rows(rows: Dataset) -> list[int] | None:
    """Return the numbers of the table's rows that a dataset selects, in its order; None: all rows."""
    return None if rows._indices is None else rows._indices.column("indices").to_pylist()


def transform_of(rows: Dataset) -> Any:
    """Return the function of `set_transform`; None if there is none."""
    return rows._format_kwargs.get("transform")


def stored_rows(rows: Dataset, part: slice, columns: list[str]) -> pa.Table:
    """Return columns of some rows as stored, ignoring the format of the dataset."""
    return rows._getitem(part, format_type="arrow", format_columns=columns, format_kwargs={})


def info_for_card(info: DatasetInfo) -> dict[str, Any]:
    """Return features and splits as the YAML of a dataset card has them."""
    # The only way to write features as YAML; `push_to_hub` of `datasets` uses it too.
    written: dict[str, Any] = info._to_yaml_dict()
    return written
