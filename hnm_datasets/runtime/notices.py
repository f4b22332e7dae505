"""What a batch has to say, told once for all batches of a call of `map`."""

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

#: The kinds that were told, by the function that each call of `map` makes for itself.
_TOLD: WeakKeyDictionary[Callable[..., Any], set[str]] = WeakKeyDictionary()
_LOCK = threading.Lock()

#: The kinds that were told in a block of `one_call`.
_IN_BLOCK: ContextVar[set[str] | None] = ContextVar("in_block", default=None)

#: A day in seconds, after which what workers have told is forgotten.
_DAY = 86_400


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

    A block within another one is part of it.

    Args:
        told: The kinds of messages that the caller tells in its own way, and that are not logged.
    """
    whole = _IN_BLOCK.get()
    if whole is not None:
        whole.update(told)
        yield
        return
    token = _IN_BLOCK.set(set(told))
    try:
        yield
    finally:
        _IN_BLOCK.reset(token)


class _Call(NamedTuple):
    """A call of `map` in this process.

    Attributes:
        apply: The function that it made to apply the step.
        shared: What all workers of the call have in common, and no other call; empty in a call without workers.
    """

    apply: Callable[..., Any]
    shared: str


def _current_call() -> _Call | None:
    """Find the call of `map` that this code runs in."""
    apply: Callable[..., Any] | None = None
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module, local = frame.f_globals.get("__name__"), frame.f_locals
        if module in ("datasets.arrow_dataset", "datasets.iterable_dataset") and apply is None:
            apply = local.get("apply_function")
        if module == "datasets.utils.py_utils" and "queue" in local and apply is not None:
            # The queue by which the workers of a call return their rows.
            return _Call(apply, str(getattr(local["queue"], "_token", "")))
        frame = frame.f_back
    return None if apply is None else _Call(apply, "")


def _is_first(call: _Call, kind: str) -> bool:
    with _LOCK:
        told = _TOLD.setdefault(call.apply, set())
        if kind in told:
            return False
        told.add(kind)
    return not call.shared or _is_first_worker(call.shared, kind)


def _is_first_worker(shared: str, kind: str) -> bool:
    """Return whether no other worker of the same call has told this kind; whoever makes a file of its name has not."""
    name = blake2b(f"{shared} {kind}".encode(), digest_size=16).hexdigest()
    try:
        folder = Path(tempfile.gettempdir()) / f"hnm_datasets-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        for old in folder.iterdir():
            if old.stat().st_mtime < time.time() - _DAY:
                old.unlink(missing_ok=True)
        (folder / name).touch(exist_ok=False)
    except FileExistsError:
        # A file in the place of the folder: told twice is better than never.
        return not folder.is_dir()
    except OSError:
        return True
    return True
