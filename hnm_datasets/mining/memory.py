"""Information stored with rows: a line of JSON in the description of a dataset.

`datasets` copies the description to the results of `map`, `select`, `train_test_split` and similar methods, saves it
with `save_to_disk`, and pickles it. When datasets are concatenated, it joins their descriptions.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from datasets import Dataset

_LINE = re.compile(r"^hnm_datasets\.mine (\{.*\})$", re.MULTILINE)


def with_memory(rows: Dataset, memory: dict[str, Any]) -> Dataset:
    """Return the same rows with this information stored, replacing earlier information."""
    remembering = copy.deepcopy(rows)
    before = _LINE.sub("", rows.info.description).strip()
    # JSON escapes line breaks, so this is a single line.
    remembering.info.description = f"{before}\n\nhnm_datasets.mine {json.dumps(memory)}".strip()
    return remembering


def memories(rows: Dataset) -> list[Any]:
    """Return the information stored with rows: no value, one value, or several if datasets were concatenated."""
    found = []
    for text in _LINE.findall(rows.info.description or ""):
        try:
            found.append(json.loads(text))
        except (ValueError, RecursionError):
            # Not written by this library; ignore it.
            continue
    return found
