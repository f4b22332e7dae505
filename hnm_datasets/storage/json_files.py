"""JSON files that others may have written, changed or cut short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: A file of states or records takes kilobytes; a larger one is something else and is not read.
_LARGEST = 64 << 20


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is too large, is no JSON, or holds something else; the message says what is wrong with it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "a.json").write_text("[1]")
        ...     read_object(Path(folder) / "a.json")
        Traceback (most recent call last):
        ValueError: it holds a list, not an object
    """
    size = path.stat().st_size
    if size > _LARGEST:
        raise ValueError(f"it has {size:,} bytes, more than the {_LARGEST:,} that are read")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not an object")
    return content
