"""Ctrl-C: a one-line message about saved work and how to resume, instead of a traceback."""

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

#: The exit code of an interrupted process: 128 plus the signal number.
_INTERRUPTED = 130
#: The attribute that marks an interrupt with a message.
_EXPLAINED = "_hnm_datasets_explained"


@contextlib.contextmanager
def interruptible(explain: Callable[[], str], *, replace: bool = False) -> Iterator[None]:
    """Add a message to the KeyboardInterrupt of Ctrl-C. The program shows only this message and exits as usual.

    Args:
        explain: A function that returns the message in one line: what was interrupted, what was saved, how to resume.
        replace: Replace the message of a nested block; by default the innermost message is used.

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
    """Do the same for a batch of `map`. With several workers, one logs the message and all exit without a traceback."""
    try:
        with interruptible(explain):
            yield
    except KeyboardInterrupt as error:
        if not in_worker():
            raise
        tell_once(logger, "interrupted", "%s", error)
        raise SystemExit(_INTERRUPTED) from None


def check_wanted() -> None:
    """Raise an error if this thread prepares a step for a worker pool that is being terminated, for example by Ctrl-C.

    `Dataset.map(num_proc=...)` pickles a step in a thread of its pool, and waits for that thread on termination. Long
    preparation loops call this function, because only the main thread receives the interrupt.

    Raises:
        RuntimeError: The pool is being terminated.
    """
    if getattr(threading.current_thread(), "_state", None) == TERMINATE:
        raise RuntimeError("The workers were terminated before the step was prepared.")


def _explained(message: str) -> KeyboardInterrupt:
    """Return an interrupt that scripts and notebooks display in one line."""
    # With a subclass, the exit code of the process would not be that of an interrupt.
    error: Any = KeyboardInterrupt(message)
    setattr(error, _EXPLAINED, True)
    # IPython calls this method.
    error._render_traceback_ = lambda: [_line(error)]
    if not hasattr(sys.excepthook, _EXPLAINED):
        sys.excepthook = _wrapped_hook(sys.excepthook)
    interrupt: KeyboardInterrupt = error
    return interrupt


def _wrapped_hook(original: Callable[..., Any]) -> Callable[..., None]:
    def show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if getattr(error, _EXPLAINED, False):
            sys.stderr.write(f"\n{_line(error)}\n")
        else:
            original(kind, error, trace)

    setattr(show, _EXPLAINED, True)
    return show


def _line(error: BaseException) -> str:
    return f"KeyboardInterrupt: {error}"
