"""What `map` was asked for, of the call that passes a step its rows.

A function cannot see which columns `map` is to remove, and for formatted rows its answer cannot leave that to `map`. A
dict of arrays is merged into the old columns, which have another number of rows, and a table or data frame replaces
everything, so that `remove_columns` is ignored. A step that `map` itself calls therefore reads the options of the call.
"""

from __future__ import annotations

from collections.abc import Collection
from types import FrameType
from typing import Any, NamedTuple

import pyarrow as pa

#: Formats that show what is stored as it is, so that a step can read the stored table instead.
_SHOWN_AS_STORED = ("arrow", "jax", "numpy", "pandas", "polars", "tensorflow", "torch")


class MapCall(NamedTuple):
    """A call of a step by `map`.

    Attributes:
        rows: The rows to answer: the stored table of formatted rows, which loses nothing, else the rows as passed.
        removed: The columns that `map` was asked to remove.
    """

    rows: Any
    removed: Collection[str]

    def without_removed(self, answer: Any, written: Collection[str]) -> Any:
        """Take away the columns that are to be removed; those that the step writes stay."""
        gone = set(self.removed) - set(written)
        if isinstance(answer, pa.Table):
            return answer.select([name for name in answer.column_names if name not in gone])
        return {name: values for name, values in answer.items() if name not in gone}


def calling_map(frame: FrameType, rows: Any) -> MapCall | None:
    """Return the call of `map` that passes formatted rows, or rows of a stream, to a step.

    Args:
        frame: The caller of the step.
        rows: The rows that it passes.

    Returns:
        None for any other caller, and where `map` itself does all that it was asked for.
    """
    local = frame.f_locals
    if frame.f_code.co_name == "apply_function" and frame.f_globals.get("__name__") == "datasets.iterable_dataset":
        return MapCall(rows, local["self"].remove_columns or ())
    if not _is_map(frame) or local["inputs"] is not rows or hasattr(rows, "keys_to_format"):
        return None
    outer = _outer(frame)
    removed = outer["remove_columns"] or ()
    if outer["shard"]._format_type in _SHOWN_AS_STORED:
        # Without batched=True the rows are one row, which is refused.
        return MapCall(local["pa_inputs"], removed) if isinstance(local["indices"], list) else None
    return MapCall(rows, removed) if isinstance(rows, dict) else None


def lazy_call(frame: FrameType, rows: Any) -> MapCall | None:
    """Return the call of `map` that passes a lazy batch to a step, which then can answer with a table.

    `map` skips a mapping without rows, and the new columns with it; of a table without rows it takes the columns.

    Args:
        frame: The caller of the step.
        rows: The rows that it passes.
    """
    if not _is_map(frame) or not hasattr(rows, "keys_to_format"):
        return None
    return MapCall(frame.f_locals["pa_inputs"], _outer(frame)["remove_columns"] or ())


def rows_of_empty_call(frame: FrameType) -> int | None:
    """Return how many rows a call of `map` has, if it has written none and this is its last batch; else None.

    Not of one of several processes: others may have rows.

    Args:
        frame: The caller of the step that answers without a row.
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
    """Return the variables of the call of `map` around the function that calls the step."""
    merge = frame.f_locals["prepare_outputs"]
    cells = zip(merge.__code__.co_freevars, merge.__closure__, strict=True)
    return {name: cell.cell_contents for name, cell in cells if name in ("remove_columns", "shard")}
