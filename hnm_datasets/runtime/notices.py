"""Logging a warning once per `map` call instead of once per batch."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from hashlib import blake2b
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from hnm_datasets.runtime.datasets_internals import Call, current_call

#: The kinds of logged messages, by the function that each `map` call creates.
_LOGGED: WeakKeyDictionary[Callable[..., Any], set[str]] = WeakKeyDictionary()
_LOCK = threading.Lock()

#: The kinds of logged messages in a block of `one_call`.
_IN_BLOCK: ContextVar[set[str] | None] = ContextVar("in_block", default=None)

#: What `tell_of_batch` adds in `map`.
_OTHER_BATCHES = " More batches may be affected, but only the first is reported; mine(rows, steps) counts all rows."

#: One day in seconds. Older marker files of workers are deleted.
_DAY = 86_400


def tell_once(logger: logging.Logger, kind: str, message: str, *values: object) -> None:
    """Log a warning at most once per `map` call; outside of `map` and `one_call`, always log it.

    With `num_proc`, only the first worker logs it.

    Args:
        logger: The logger.
        kind: The kind of the message. Only the first message of each kind is logged.
        message: The text, with placeholders for `%` formatting.
        values: The values of the placeholders.
    """
    if _is_new(kind, None if _IN_BLOCK.get() is not None else current_call()):
        logger.warning(message, *values)


def tell_of_batch(logger: logging.Logger, kind: str, message: str, *values: object) -> None:
    """Log a warning about the rows of a batch like `tell_once`; in `map`, add that other batches are not reported.

    In `one_call`, the caller reports on all batches.

    Args:
        logger: The logger.
        kind: The kind of the message. Only the first message of each kind is logged.
        message: The text, whole sentences with placeholders for `%` formatting.
        values: The values of the placeholders.
    """
    call = None if _IN_BLOCK.get() is not None else current_call()
    if _is_new(kind, call):
        logger.warning(message + ("" if call is None else _OTHER_BATCHES), *values)


def _is_new(kind: str, call: Call | None) -> bool:
    """Return whether to log a message of this kind, and remember it."""
    in_block = _IN_BLOCK.get()
    if in_block is None:
        return call is None or _is_first(call, kind)
    first = kind not in in_block
    in_block.add(kind)
    return first


@contextlib.contextmanager
def one_call(*muted: str) -> Iterator[None]:
    """Treat this block as a single `map` call, for other loops over batches.

    Nested blocks are part of the outer block.

    Args:
        muted: The kinds of messages that are not logged, because the caller reports them itself.
    """
    outer = _IN_BLOCK.get()
    if outer is not None:
        outer.update(muted)
        yield
        return
    token = _IN_BLOCK.set(set(muted))
    try:
        yield
    finally:
        _IN_BLOCK.reset(token)


def _is_first(call: Call, kind: str) -> bool:
    with _LOCK:
        logged = _LOGGED.setdefault(call.apply, set())
        if kind in logged:
            return False
        logged.add(kind)
    return not call.shared or _is_first_worker(call.shared, kind)


def _is_first_worker(shared: str, kind: str) -> bool:
    """Return whether this is the first worker of a call to log this kind: the worker that creates a marker file."""
    name = blake2b(f"{shared} {kind}".encode(), digest_size=16).hexdigest()
    try:
        folder = Path(tempfile.gettempdir()) / f"hnm_datasets-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        for old in folder.iterdir():
            if old.stat().st_mtime < time.time() - _DAY:
                old.unlink(missing_ok=True)
        (folder / name).touch(exist_ok=False)
    except FileExistsError:
        # If the path of the folder is a file, log in each worker: twice is better than never.
        return not folder.is_dir()
    except OSError:
        return True
    return True
