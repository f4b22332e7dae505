"""Logging a warning once per `map` call instead of once per batch."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from hashlib import blake2b
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

#: The kinds of logged messages, by the function that each `map` call creates.
_LOGGED: WeakKeyDictionary[Callable[..., Any], set[str]] = WeakKeyDictionary()
_LOCK = threading.Lock()

#: The kinds of logged messages in a block of `one_call`.
_IN_BLOCK: ContextVar[set[str] | None] = ContextVar("in_block", default=None)

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
    in_block = _IN_BLOCK.get()
    if in_block is not None:
        first = kind not in in_block
        in_block.add(kind)
    else:
        call = _current_call()
        first = call is None or _is_first(call, kind)
    if first:
        logger.warning(message, *values)


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


class _Call(NamedTuple):
    """A `map` call in this process.

    Attributes:
        apply: The function that the call created to apply the step.
        shared: A token that is the same in all workers of the call and unique to it; empty without workers.
    """

    apply: Callable[..., Any]
    shared: str


def _current_call() -> _Call | None:
    """Find the `map` call that runs this code."""
    apply: Callable[..., Any] | None = None
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module, local = frame.f_globals.get("__name__"), frame.f_locals
        if module in ("datasets.arrow_dataset", "datasets.iterable_dataset") and apply is None:
            apply = local.get("apply_function")
        if module == "datasets.utils.py_utils" and "queue" in local and apply is not None:
            # The workers of a call return their rows through this queue.
            return _Call(apply, str(getattr(local["queue"], "_token", "")))
        frame = frame.f_back
    return None if apply is None else _Call(apply, "")


def _is_first(call: _Call, kind: str) -> bool:
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
