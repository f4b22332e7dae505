"""Folders under the `datasets` cache directory: written aside, renamed when whole, opened memory-mapped.

A folder is named by the fingerprint of its content, so it is written once and never changed. `build_once` is the only
way in: it opens a finished folder or makes it. Inside a folder live plain numpy files and string columns (offsets and
bytes), which many processes map at once without holding them twice; nothing in them is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from filelock import FileLock
from numpy.typing import NDArray

_MANIFEST = "manifest.json"
#: Where things are kept instead of under `HF_DATASETS_CACHE`, the last one counts.
_ROOTS: list[Path] = []


def cache_root() -> Path:
    """Return the folder under which corpora and indexes are kept, inside `HF_DATASETS_CACHE`."""
    return _ROOTS[-1] if _ROOTS else Path(datasets.config.HF_DATASETS_CACHE) / "hnm_datasets"


@contextlib.contextmanager
def cache_root_at(folder: Path | None) -> Iterator[None]:
    """Keep corpora and indexes in another folder for a while; None changes nothing."""
    _ROOTS.append(cache_root() if folder is None else folder)
    try:
        yield
    finally:
        _ROOTS.pop()


def is_complete(folder: Path) -> bool:
    """Tell whether a folder was finished and none of its files has been cut short since."""
    try:
        sizes = json.loads((folder / _MANIFEST).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def finish(folder: Path, names: Sequence[str]) -> None:
    """Declare a folder finished by noting the sizes of its files."""
    aside = folder / f"{_MANIFEST}.tmp"
    aside.write_text(json.dumps({name: (folder / name).stat().st_size for name in names}, indent=1))
    aside.rename(folder / _MANIFEST)


def unfinish(folder: Path) -> None:
    """Take back that a folder is finished."""
    (folder / _MANIFEST).unlink(missing_ok=True)


def build_once(kind: str, name: str, build: Callable[[Path], None], *, timeout: float = -1) -> Path:
    """Return the finished folder `kind/name`, building it first if need be.

    Two processes that ask at once build once; a killed build leaves nothing that is ever opened; a damaged folder is
    built again.

    Args:
        kind: The plural noun of what is kept, such as `"corpora"`.
        name: The fingerprint of the content.
        build: Fills the empty folder that it is given.
        timeout: For how many seconds to wait for another process that builds it; -1: as long as it takes.

    Returns:
        The folder.

    Raises:
        filelock.Timeout: Another process has been building it all the while.
    """
    parent = cache_root() / kind
    folder = parent / name
    if is_complete(folder):
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(parent / f"{name}.lock", timeout=timeout):
        if is_complete(folder):
            return folder
        # Whoever left these was killed: we hold the lock, so nobody is writing them.
        for stale in parent.glob(f"{name}.*.tmp"):
            shutil.rmtree(stale)
        aside = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".tmp", dir=parent))
        try:
            build(aside)
            finish(aside, sorted(path.name for path in aside.iterdir()))
            if folder.exists():
                shutil.rmtree(folder)
            aside.chmod(0o777 & ~umask())
            aside.rename(folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    return folder


def folder_size(folder: Path) -> int:
    """Return the bytes of the files of a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def umask() -> int:
    """Return the permissions that this process takes from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_array(folder: Path, name: str, array: NDArray[np.generic]) -> None:
    """Write one array to `name.npy`."""
    np.save(folder / f"{name}.npy", array, allow_pickle=False)


@contextlib.contextmanager
def append_array(folder: Path, name: str, dtype: np.dtype[Any]) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Write a one-dimensional array to `name.npy` piece by piece; yields what takes the next piece."""
    total = 0
    with (folder / f"{name}.npy").open("w+b") as file:

        def header() -> None:
            # Of one length whatever the total: numpy leaves room for growing it.
            np.lib.format.write_array_header_1_0(
                file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (total,)}
            )

        def append(piece: NDArray[Any]) -> None:
            nonlocal total
            file.write(np.ascontiguousarray(piece, dtype=dtype).tobytes())
            total += len(piece)

        header()
        begins = file.tell()
        yield append
        file.seek(0)
        header()
        assert file.tell() == begins


def open_array(folder: Path, name: str) -> NDArray[np.generic]:
    """Map the array `name.npy`, read-only, as a plain `ndarray` (numpy's `memmap` class slows each slice down)."""
    mapped = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    return np.asarray(mapped)


def release(array: NDArray[np.generic]) -> None:
    """Tell the system that this process does not need what it has read of a mapped array."""
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = base.base if isinstance(base, np.ndarray) else getattr(base, "obj", None)
    if base is None or not array.nbytes or not hasattr(mmap, "MADV_DONTNEED"):
        return
    mapped = np.frombuffer(base, dtype=np.uint8)
    start = array.ctypes.data - mapped.ctypes.data
    # Whole pages alone, so that what lies beside stays.
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (start + array.nbytes - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if length > 0:
        base.madvise(mmap.MADV_DONTNEED, first, length)


def save_strings(folder: Path, name: str, chunks: Iterable[pa.Array]) -> None:
    """Write a string column as one run of bytes and its offsets, a chunk at a time.

    One contiguous column is what makes gathering random rows fast: Arrow's `take` on many chunks is not.
    """
    total = 0
    with (folder / f"{name}.bytes").open("wb") as data, (folder / f"{name}.offsets").open("wb") as ends:
        ends.write(np.zeros(1, dtype=np.int64).tobytes())
        for chunk in chunks:
            strings = chunk.cast(pa.large_string())
            if len(strings) == 0:
                continue
            offsets = np.frombuffer(strings.buffers()[1], dtype=np.int64)[strings.offset :][: len(strings) + 1]
            if strings.buffers()[2] is not None:
                data.write(memoryview(strings.buffers()[2])[offsets[0] : offsets[-1]])
            ends.write((offsets[1:] - offsets[0] + total).tobytes())
            total += int(offsets[-1] - offsets[0])


def open_strings(folder: Path, name: str) -> pa.LargeStringArray:
    """Map a string column written by `save_strings`."""
    offsets = pa.memory_map(str(folder / f"{name}.offsets")).read_buffer()
    path = folder / f"{name}.bytes"
    # An empty file cannot be mapped.
    data = pa.memory_map(str(path)).read_buffer() if path.stat().st_size else pa.py_buffer(b"")
    return pa.LargeStringArray.from_buffers(offsets.size // 8 - 1, offsets, data)
