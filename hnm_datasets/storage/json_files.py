"""Reading JSON files that may have been changed or truncated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Larger files are not read. Valid files have kilobytes.
_LARGEST = 64 << 20


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file with a single object.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is too large, is not JSON, or does not contain an object; the message says which.

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
        raise ValueError(f"it has {size:,} bytes, more than the limit of {_LARGEST:,}")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not an object")
    return content
