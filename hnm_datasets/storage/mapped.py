"""Memory-mapped arrays and string columns."""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def save_array(folder: Path, name: str, array: NDArray[np.generic]) -> None:
    """Write an array to `name.npy`."""
    with (folder / f"{name}.npy").open("wb") as file:
        write_array(file, array)


def write_array(file: BinaryIO, array: NDArray[Any]) -> None:
    """Write an array in numpy's format at the current position of a file."""
    # `np.save` hides the cause of write errors: "25600 requested and 2766 written".
    if array.dtype.hasobject:
        raise ValueError("Object arrays cannot be saved: they would be pickled.")
    array = np.ascontiguousarray(array)
    _write_header(file, array.dtype, array.shape)
    if array.size:
        file.write(array.reshape(-1).view(np.uint8).data)


def create_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Write an array of zeros and reserve its disk space, so that it can be mapped and filled later."""
    with path.open("wb") as file:
        _write_header(file, dtype, shape)
        allocate(file, file.tell() + math.prod(shape) * dtype.itemsize)


def allocate(file: BinaryIO, size: int) -> None:
    """Truncate or extend a file to a size and reserve disk space, if the file system supports it."""
    file.flush()
    file.truncate(size)
    if hasattr(os, "posix_fallocate") and size:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise


def _write_header(file: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(
        file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )


def read_header(file: BinaryIO) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Read the header that `write_array` writes.

    Raises:
        ValueError: There is no valid header at the current position.
    """
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("The array has another version of numpy's format.")
    try:
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except (TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        raise ValueError(f"The header of the array is damaged: {error}") from None
    if dtype.hasobject:
        raise ValueError("The array contains Python objects, which are never loaded.")
    if fortran_order or min(shape, default=0) < 0:
        raise ValueError(f"The header of the array is damaged: {dtype}, shape {shape}.")
    return dtype, shape


def map_next(file: BinaryIO, mode: Literal["r", "r+", "c"] = "r") -> NDArray[Any]:
    """Map the array at the current position of a file, and move to its end.

    Args:
        file: A file from `write_array`.
        mode: `"r"`: read-only; `"r+"`: read and write; `"c"`: copy-on-write.

    Raises:
        ValueError: There is no valid array at the current position, or it is truncated.
    """
    dtype, shape = read_header(file)
    begins = file.tell()
    try:
        # Empty arrays cannot be mapped. Convert memmaps to plain arrays, because slicing a memmap is slow.
        array = np.asarray(np.memmap(file, dtype, mode, begins, shape)) if 0 not in shape else np.empty(shape, dtype)
    except OverflowError as error:
        raise ValueError(f"The header of the array is damaged: {error}") from None
    # Make empty arrays read-only too, so that compiled loops get the same types.
    array.flags.writeable = mode != "r"
    file.seek(begins + array.nbytes)
    return array


@contextlib.contextmanager
def append_array(folder: Path, name: str, dtype: np.dtype[Any]) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Write a one-dimensional array to `name.npy` in pieces. Yield a function that appends a piece."""
    total = 0
    with (folder / f"{name}.npy").open("w+b") as file:

        def append(piece: NDArray[Any]) -> None:
            nonlocal total
            file.write(np.ascontiguousarray(piece, dtype=dtype).tobytes())
            total += len(piece)

        # The length of the header does not depend on the total, because numpy pads it.
        _write_header(file, dtype, (total,))
        begins = file.tell()
        yield append
        file.seek(0)
        _write_header(file, dtype, (total,))
        assert file.tell() == begins


def open_array(folder: Path, name: str) -> NDArray[np.generic]:
    """Map the array `name.npy`, read-only."""
    with (folder / f"{name}.npy").open("rb") as file:
        return map_next(file)


def release(array: NDArray[np.generic]) -> None:
    """Release the memory pages of a mapped array in this process."""
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = base.base if isinstance(base, np.ndarray) else getattr(base, "obj", None)
    if base is None or not array.nbytes or not hasattr(mmap, "MADV_DONTNEED"):
        return
    mapped = np.frombuffer(base, dtype=np.uint8)
    start = array.ctypes.data - mapped.ctypes.data
    # Only whole pages, so that adjacent arrays are not affected.
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (start + array.nbytes - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if length > 0:
        base.madvise(mmap.MADV_DONTNEED, first, length)


def save_strings(folder: Path, name: str, chunks: Iterable[pa.Array]) -> None:
    """Write a string column as contiguous bytes and offsets, chunk by chunk.

    Gathering random rows is fast in a contiguous column, but Arrow's `take` is slow on many chunks.
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
