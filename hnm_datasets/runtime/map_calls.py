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
    if frame.f_code.co_name != "apply_function":
        return None
    module, local = frame.f_globals.get("__name__"), frame.f_locals
    if module == "datasets.iterable_dataset":
        return MapCall(rows, local["self"].remove_columns or ())
    if module != "datasets.arrow_dataset" or local["inputs"] is not rows or hasattr(rows, "keys_to_format"):
        return None
    merge = local["prepare_outputs"]
    outer = dict(zip(merge.__code__.co_freevars, merge.__closure__, strict=True))
    removed = outer["remove_columns"].cell_contents or ()
    if outer["shard"].cell_contents._format_type in _SHOWN_AS_STORED:
        # Without batched=True the rows are one row, which is refused.
        return MapCall(local["pa_inputs"], removed) if isinstance(local["indices"], list) else None
    return MapCall(rows, removed) if isinstance(rows, dict) else None
