"""Ctrl-C: a one-line message about saved work and how to resume, instead of a traceback."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from multiprocess import TimeoutError as WorkersTimeoutError

from hnm_datasets.runtime.multiprocess_internals import in_ending_pool

#: The exit code of an interrupted process: 128 plus the signal number.
INTERRUPTED = 130
#: The attribute that marks an interrupt with a message.
_EXPLAINED = "_hnm_datasets_explained"
#: The message for a `map` with workers.
_WORKERS_MESSAGE = ""


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
    except WorkersTimeoutError as error:
        if not _ended_workers(error):
            raise
        raise _explained(explain()) from None


def explain_workers(message: str) -> None:
    """Set the message of Ctrl-C for calls of `map` with workers by the user, which `interruptible` cannot wrap.

    Args:
        message: One line, as for `interruptible`. The last call counts.
    """
    # A function of a step would keep the step alive, with its model and index.
    global _WORKERS_MESSAGE
    _WORKERS_MESSAGE = message
    _set_hook()


def check_wanted() -> None:
    """Raise an error if this thread prepares a step for a worker pool that is being terminated, for example by Ctrl-C.

    `Dataset.map(num_proc=...)` pickles a step in a thread of its pool, and waits for that thread on termination. Long
    preparation loops call this function, because only the main thread receives the interrupt.

    Raises:
        RuntimeError: The pool is being terminated.
    """
    if in_ending_pool():
        raise RuntimeError("The workers were terminated before the step was prepared.")


def _explained(message: str) -> KeyboardInterrupt:
    """Return an interrupt that scripts and notebooks display in one line."""
    # With a subclass, the exit code of the process would not be that of an interrupt.
    error: Any = KeyboardInterrupt(message)
    setattr(error, _EXPLAINED, True)
    # IPython calls this method.
    error._render_traceback_ = lambda: [_line(error)]
    _set_hook()
    interrupt: KeyboardInterrupt = error
    return interrupt


def _ended_workers(error: BaseException) -> bool:
    """Return whether Ctrl-C caused this error: `Dataset.map(num_proc=...)` then waits too briefly for its workers."""
    return isinstance(error, WorkersTimeoutError) and isinstance(error.__context__, KeyboardInterrupt)


def _set_hook() -> None:
    if not hasattr(sys.excepthook, _EXPLAINED):
        sys.excepthook = _wrapped_hook(sys.excepthook)


def _wrapped_hook(original: Callable[..., Any]) -> Callable[..., None]:
    def show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if getattr(error, _EXPLAINED, False):
            sys.stderr.write(f"\n{_line(error)}\n")
        elif _ended_workers(error):
            sys.stderr.write(f"\n{_line(_WORKERS_MESSAGE)}\n")
        else:
            original(kind, error, trace)

    setattr(show, _EXPLAINED, True)
    return show


def _line(error: object) -> str:
    return f"KeyboardInterrupt: {error}"
