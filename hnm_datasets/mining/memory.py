"""What rows remember: a line of JSON in the description of a dataset.

`datasets` copies the description of a dataset to whatever is made of it by `map`, `select`, `train_test_split` and the
rest, saves it by `save_to_disk`, and pickles it. Where datasets are concatenated, it joins their descriptions.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from datasets import Dataset

_LINE = re.compile(r"^hnm_datasets\.mine (\{.*\})$", re.MULTILINE)


def with_memory(rows: Dataset, memory: dict[str, Any]) -> Dataset:
    """Return the same rows, which remember this and no longer what they did before."""
    remembering = copy.deepcopy(rows)
    before = _LINE.sub("", rows.info.description).strip()
    # JSON escapes line breaks, so it is one line.
    remembering.info.description = f"{before}\n\nhnm_datasets.mine {json.dumps(memory)}".strip()
    return remembering


def memories(rows: Dataset) -> list[Any]:
    """Return what rows remember: nothing, one value, or several where datasets were concatenated."""
    found = []
    for text in _LINE.findall(rows.info.description or ""):
        try:
            found.append(json.loads(text))
        except (ValueError, RecursionError):
            # Somebody else's text, which says nothing of these rows.
            continue
    return found
