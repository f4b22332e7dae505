"""Ctrl-C: one line that says what was kept and how to resume, in place of a traceback."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from multiprocess.pool import TERMINATE

from hnm_datasets.runtime.notices import tell_once
from hnm_datasets.runtime.workers import in_worker

logger = logging.getLogger(__name__)

#: The exit code of an interrupted process: 128 and the number of the signal.
_INTERRUPTED = 130
#: The attribute by which the hook recognizes an interrupt that has a message.
_EXPLAINED = "_hnm_datasets_explained"


@contextlib.contextmanager
def interruptible(explain: Callable[[], str], *, replace: bool = False) -> Iterator[None]:
    """Give the KeyboardInterrupt of Ctrl-C a message; the program shows that alone, and ends as it would without.

    Args:
        explain: Returns the message: what was interrupted, what was kept and how to resume. One line.
        replace: Replace the message of a block within this one; else the innermost stays.

    Example:
        >>> try:
        ...     with interruptible(lambda: "Three of five are kept. Repeat the call to resume."):
        ...         raise KeyboardInterrupt
        ... except KeyboardInterrupt as error:
        ...     print(error)
        Three of five are kept. Repeat the call to resume.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        if error.args and not replace:
            raise
        raise _explained(explain()) from None


@contextlib.contextmanager
def interruptible_batch(explain: Callable[[], str]) -> Iterator[None]:
    """Do the same for a batch of `map`; of several workers one logs the message, and all end without a traceback."""
    try:
        with interruptible(explain):
            yield
    except KeyboardInterrupt as error:
        if not in_worker():
            raise
        tell_once(logger, "interrupted", "%s", error)
        raise SystemExit(_INTERRUPTED) from None


def check_wanted() -> None:
    """Raise if this thread prepares a step for the workers of a pool that is being ended, as by Ctrl-C.

    `Dataset.map(num_proc=...)` pickles a step in a thread of its pool, and waits for that thread when it ends. Long
    loops of a preparation call this, because an interrupt reaches the main thread alone.

    Raises:
        RuntimeError: The pool is being ended.
    """
    if getattr(threading.current_thread(), "_state", None) == TERMINATE:
        raise RuntimeError("The workers were ended before the step was prepared.")


def _explained(message: str) -> KeyboardInterrupt:
    """Return an interrupt that scripts and notebooks show in one line."""
    # A subclass would not end the process as an interrupted one.
    error: Any = KeyboardInterrupt(message)
    setattr(error, _EXPLAINED, True)
    # IPython asks for it.
    error._render_traceback_ = lambda: [_line(error)]
    if not hasattr(sys.excepthook, _EXPLAINED):
        sys.excepthook = _hook_before(sys.excepthook)
    interrupt: KeyboardInterrupt = error
    return interrupt


def _hook_before(other: Callable[..., Any]) -> Callable[..., None]:
    def show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if getattr(error, _EXPLAINED, False):
            sys.stderr.write(f"\n{_line(error)}\n")
        else:
            other(kind, error, trace)

    setattr(show, _EXPLAINED, True)
    return show


def _line(error: BaseException) -> str:
    return f"KeyboardInterrupt: {error}"
