"""Reading and writing FAISS indexes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hnm_datasets.storage.writing import NO_ROOM


def write_index(index: Any, path: Path) -> None:
    """Write an index to a file. Raise an OSError if the disk is full."""
    import faiss

    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        # FAISS reports system errors only in the text of the message.
        code = next((code for code in NO_ROOM if os.strerror(code) in str(error)), None)
        if code is None:
            raise
        raise OSError(code, os.strerror(code)) from error


def read_index(path: Path) -> Any:
    """Map an index from a file."""
    import faiss

    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)


def inverted_lists(index: Any) -> int:
    """Return the number of inverted lists of an index, 0 if it has none."""
    import faiss

    inverted = faiss.try_extract_index_ivf(index)
    return 0 if inverted is None else int(inverted.nlist)


def reason(error: RuntimeError) -> str:
    """Return the text of a FAISS error without the source location in front of it."""
    return str(error).rsplit("Error: ", 1)[-1].rsplit(".cpp:", 1)[-1].split(": ", 1)[-1].strip()
