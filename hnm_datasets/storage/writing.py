"""Writing files so that they appear whole or not at all, and errors that say why they cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

#: The system's errors where there is no room, or no right to write.
NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NO_ACCESS = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}


class FolderWriteError(OSError):
    """A folder cannot be written; the message names it, the cause and the way out."""

    def __init__(self, error: OSError, folder: Path, needed: int | None) -> None:
        super().__init__(error.errno, _message(error, folder, needed))

    def __str__(self) -> str:
        return str(self.strerror)


def _message(error: OSError, folder: Path, needed: int | None) -> str:
    cause = os.strerror(error.errno or 0)
    if error.errno in NO_ROOM:
        there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        wanted = "" if needed is None else f"{needed:,} bytes are needed, "
        return (
            f"The folder {folder} cannot be written: {cause} ({wanted}{shutil.disk_usage(there).free:,} bytes are "
            f"free). Free space, or use a folder on another disk; HF_DATASETS_CACHE sets that of the cache."
        )
    return (
        f"The folder {folder} cannot be written: {cause}. Its content can still be read. To add to it, use a folder "
        f"that you can write to; HF_DATASETS_CACHE sets that of the cache."
    )


@contextlib.contextmanager
def writing(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Turn the system's errors of writing to a folder into ones that name it, the cause and the way out.

    Args:
        folder: Where the block writes.
        needed: How many bytes it writes, if that is known.

    Raises:
        FolderWriteError: There is no room, or no right to write.
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
    """Return whether an error is of a folder, and not of what is read to fill it."""
    if error.filename is None:
        # A write names no file, all else does.
        return error.errno in NO_ROOM
    if not isinstance(error.filename, (str, os.PathLike)):
        return False
    path, folder = Path(error.filename).absolute(), folder.absolute()
    return path.is_relative_to(folder) or folder.is_relative_to(path)


@contextlib.contextmanager
def written_aside(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to, and rename it at the end, so that no reader sees half a file.

    Only one process may write to `path` at a time; a killed one leaves a file that the next one overwrites. The bytes
    are on the disk before they have their name, so that none are lost when the machine stops.

    Args:
        path: The file.
        needed: How many bytes it takes, if that is known.

    Raises:
        FolderWriteError: There is no room, or no right to write.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written_aside(Path(folder) / "numbers.json") as aside:
        ...         _ = aside.write_text("[1, 2]")
        ...     [path.name for path in Path(folder).iterdir()]
        ['numbers.json']
    """
    # A dot in front hides it from readers that list the folder.
    aside = path.with_name(f".{path.name}.tmp")
    with writing(path.parent, needed), removed_on_error(aside):
        yield aside
        sync(aside)
        aside.replace(path)
        sync(path.parent)


@contextlib.contextmanager
def removed_on_error(aside: Path) -> Iterator[None]:
    """Remove a file that could not be written to its end."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    if os.name == "nt" and path.is_dir():
        # Windows opens no folders.
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems cannot do it for folders.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def umask() -> int:
    """Return the permissions that this process takes from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
