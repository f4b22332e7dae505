"""Reading the options of the `map` call that runs a step.

A function does not know which columns `map` will remove, and with formatted rows `map` cannot remove them correctly: if
the function returns a dict of arrays, `map` merges it into the old columns, which may have another number of rows; if
it returns a table or data frame, `map` ignores `remove_columns`. So a step that `map` calls reads the options of the
call.
"""

from __future__ import annotations

from collections.abc import Collection
from types import FrameType
from typing import Any, NamedTuple

import pyarrow as pa

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


def _is_map(frame: FrameType) -> bool:
    """Return whether this is where `Dataset.map` calls a function."""
    return frame.f_code.co_name == "apply_function" and frame.f_globals.get("__name__") == "datasets.arrow_dataset"


def _outer(frame: FrameType) -> dict[str, Any]:
    """Return the variables of the `map` call around the function that calls the step."""
    merge = frame.f_locals["prepare_outputs"]
    cells = zip(merge.__code__.co_freevars, merge.__closure__, strict=True)
    return {name: cell.cell_contents for name, cell in cells if name in ("remove_columns", "shard")}
