"""What a batch has to say, told once for all batches of a call of `map`."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from hashlib import blake2b
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from filelock import FileLock

from hnm_datasets.runtime.workers import in_worker

#: The kinds that were told, by the function that each call of `map` makes for itself.
_TOLD: WeakKeyDictionary[Callable[..., Any], set[str]] = WeakKeyDictionary()
_LOCK = threading.Lock()

#: The kinds that were told in a block of `one_call`.
_IN_BLOCK: ContextVar[set[str] | None] = ContextVar("in_block", default=None)

#: What `map` adds to the fingerprint of a worker's rows.
_RANK = re.compile(r"_\d{5}_of_\d{5}$")


class _Call(NamedTuple):
    """A call of `map` in this process.

    Attributes:
        apply: The function that it made to apply the step.
        fingerprint: The fingerprint of all rows that it makes, in a worker too; empty for a stream.
    """

    apply: Callable[..., Any]
    fingerprint: str


def tell_once(logger: logging.Logger, kind: str, message: str, *values: object) -> None:
    """Log a warning unless this call of `map` did so before; outside of `map` and of `one_call`, log it.

    With `num_proc`, the first worker that has it to say does so for all of them.

    Args:
        logger: Where to log it.
        kind: What the message is about. Of one kind, the first message is told.
        message: The text, with the marks of `%` formatting.
        values: What the marks stand for.
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
def one_call(*told: str) -> Iterator[None]:
    """Tell in this block as if it were one call of `map`: for loops over batches of another kind.

    Args:
        told: The kinds of messages that the caller tells in its own way, and that are not logged.
    """
    token = _IN_BLOCK.set(set(told))
    try:
        yield
    finally:
        _IN_BLOCK.reset(token)


def _current_call() -> _Call | None:
    """Find the call of `map` that this code runs in."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__") in ("datasets.arrow_dataset", "datasets.iterable_dataset"):
            local = frame.f_locals
            if callable(local.get("apply_function")):
                return _Call(local["apply_function"], _RANK.sub("", local.get("new_fingerprint") or ""))
        frame = frame.f_back
    return None


def _is_first(call: _Call, kind: str) -> bool:
    with _LOCK:
        told = _TOLD.setdefault(call.apply, set())
        if kind in told:
            return False
        told.add(kind)
    return not in_worker() or _is_first_worker(call.fingerprint, kind)


def _is_first_worker(fingerprint: str, kind: str) -> bool:
    """Return whether no other worker of the same call has told this kind.

    A file holds the process that told it. Its workers end with a call, so the file of a process that has ended is that
    of an earlier call.
    """
    name = blake2b(f"{os.getppid()} {fingerprint} {kind}".encode(), digest_size=16).hexdigest()
    try:
        folder = Path(tempfile.gettempdir()) / f"hnm_datasets-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            told = folder / name
            if told.exists() and _is_running(int(told.read_text())):
                return False
            told.write_text(str(os.getpid()))
    except (OSError, ValueError):
        # Told twice is better than never.
        return True
    return True


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
