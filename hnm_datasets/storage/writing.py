"""Writing files atomically, and error messages that explain why a folder cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

#: The system errors for a full disk, and for missing permissions.
NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NO_ACCESS = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}


class FolderWriteError(OSError):
    """A folder cannot be written. The message names the folder, the cause and the remedy."""

    def __init__(self, error: OSError, folder: Path, needed: int | None) -> None:
        super().__init__(error.errno, _message(error, folder, needed))

    def __str__(self) -> str:
        return str(self.strerror)


def _message(error: OSError, folder: Path, needed: int | None) -> str:
    cause = os.strerror(error.errno or 0)
    if error.errno in NO_ROOM:
        existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        required = "" if needed is None else f"{needed:,} bytes are needed, "
        return (
            f"The folder {folder} cannot be written: {cause} ({required}{shutil.disk_usage(existing).free:,} bytes are "
            f"free). Free disk space, or use a folder on another disk (HF_DATASETS_CACHE sets the cache directory)."
        )
    return (
        f"The folder {folder} cannot be written: {cause}. Its content can still be read. To add to it, use a folder "
        f"with write permission (HF_DATASETS_CACHE sets the cache directory)."
    )


@contextlib.contextmanager
def writing(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Convert system errors when writing to a folder into errors that name the folder, the cause and the remedy.

    Args:
        folder: The folder that the block writes to.
        needed: The number of bytes to write, if known.

    Raises:
        FolderWriteError: The disk is full, or writing is not permitted.
    """
    try:
        yield
    except FolderWriteError:
        raise
    except OSError as error:
        if error.errno not in NO_ROOM | _NO_ACCESS or not _is_about(error, folder):
            raise
        raise FolderWriteError(error, folder, needed) from error


def _is_about(error: OSError, folder: Path) -> bool:
    """Return whether an error is about a folder, not about the files that are read to fill it."""
    if error.filename is None:
        # Only errors of writes have no file name.
        return error.errno in NO_ROOM
    if not isinstance(error.filename, (str, os.PathLike)):
        return False
    path, folder = Path(error.filename).absolute(), folder.absolute()
    return path.is_relative_to(folder) or folder.is_relative_to(path)


@contextlib.contextmanager
def written_aside(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Yield a temporary path in the same folder to write to, then rename it to `path`, so readers see complete files.

    Only one process may write to `path` at a time. If it is killed, the next process overwrites the temporary file. The
    content is flushed to disk before the file is renamed, so that a power failure does not leave an incomplete file.

    Args:
        path: The file.
        needed: The size of the file in bytes, if known.

    Raises:
        FolderWriteError: The disk is full, or writing is not permitted.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written_aside(Path(folder) / "numbers.json") as aside:
        ...         _ = aside.write_text("[1, 2]")
        ...     [path.name for path in Path(folder).iterdir()]
        ['numbers.json']
    """
    # A leading dot hides the file from readers that list the folder.
    aside = path.with_name(f".{path.name}.tmp")
    with writing(path.parent, needed), removed_on_error(aside):
        yield aside
        sync(aside)
        aside.replace(path)
        sync(path.parent)


@contextlib.contextmanager
def removed_on_error(aside: Path) -> Iterator[None]:
    """Remove a temporary file if the block raises an error."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Flush a file, or the directory entries of a folder, to disk."""
    if os.name == "nt" and path.is_dir():
        # Windows cannot open folders.
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems do not support this for folders.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def umask() -> int:
    """Return the permission mask of this process for new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
