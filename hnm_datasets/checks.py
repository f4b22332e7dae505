"""Validation of options: each function returns the plain value, or raises an error that states the allowed values."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import NamedSplit

_SPLIT = re.compile(r"\w+(\.\w+)*")
#: Maximum length of a split name in bytes; `datasets` uses it as part of longer file names.
_LONGEST_SPLIT = 120


def split_name(owner: str, name: object) -> str:
    """Return the name of a split if it is valid: it becomes part of file names that `load_dataset` must recognize.

    Example:
        >>> split_name("save_mined", "train.clean")
        'train.clean'
    """
    if not isinstance(name, (str, NamedSplit)):
        raise TypeError(f"{owner}: the name of a split must be a text, got {name!r}.")
    text = str(name)
    if not _SPLIT.fullmatch(text):
        raise ValueError(
            f"{owner}: a split name may contain letters, digits and '_', with single dots between them, got {text!r}. "
            f"Rename it."
        )
    if text == "all":
        raise ValueError(
            f"{owner}: a split cannot be named 'all', because load_dataset uses this name for all splits. Rename it."
        )
    if len(text.encode()) > _LONGEST_SPLIT:
        raise ValueError(
            f"{owner}: the split name {text[:40]!r}… has {len(text.encode())} bytes, but at most {_LONGEST_SPLIT} fit "
            f"into file names. Rename it."
        )
    return text


def source_of_files(owner: str, source: str) -> str:
    """Return a local folder or a Hub id; raise if it can only be a folder and does not exist.

    A Hub id has at most one slash and does not begin with a dot, a slash or a tilde.

    Example:
        >>> source_of_files("load_beir", "mteb/scifact")
        'mteb/scifact'
    """
    is_path = source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source
    if is_path and not Path(source).exists():
        remedy = " '~' is not expanded; write the whole path." if source.startswith("~") else " Check the path."
        raise FileNotFoundError(f"{owner}: there is no folder {source!r}.{remedy}")
    return source


def whole_number(owner: str, name: str, value: object, low: int) -> int:
    """Return `value` as a plain int of at least `low`."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{owner}: {name} must be a whole number, got {value!r}.") from None
    if isinstance(value, bool) or number < low:
        raise ValueError(f"{owner}: {name} must be a whole number of at least {low}, got {value!r}.")
    return number


def real_number(owner: str, name: str, value: object, above: float = -math.inf) -> float:
    """Return `value` as a plain finite float greater than `above`."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(f"{owner}: {name} must be a number, got {value!r}.") from None
    if isinstance(value, (bool, np.bool_, str, bytes)) or not math.isfinite(number) or number <= above:
        bound = "" if above == -math.inf else f" greater than {above:g}"
        raise ValueError(f"{owner}: {name} must be a finite number{bound}, got {value!r}.")
    return number


def one_of(owner: str, name: str, value: object, choices: Sequence[str]) -> str:
    """Return `value` if it is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        allowed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{owner}: {name} must be one of {allowed}, got {value!r}.")
    return str(value)


def yes_or_no(owner: str, name: str, value: object) -> bool:
    """Return `value` if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{owner}: {name} must be True or False, got {value!r}.")
    return value


def score_option(owner: str, name: str, value: object) -> str | None:
    """Return `value` if it names scores: "score", a teacher's name, or None."""
    if value is not None and (not isinstance(value, str) or not value):
        raise TypeError(f"{owner}: {name} must be 'score' (the retriever's), a teacher's name or None, got {value!r}.")
    return value
