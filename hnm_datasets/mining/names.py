"""Names of steps: full names for dataset cards, short names for tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def full_name(step: object) -> str:
    """Return the repr of a step without memory addresses and without the path of the home directory."""
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(step))
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def short_name(step: object) -> str:
    """Return the name of a step with its plain options that differ from the defaults, and always k and n.

    Example:
        >>> from hnm_datasets import RankWindow, SampleNegatives
        >>> short_name(RankWindow(2)), short_name(SampleNegatives({"bm25": 2}, seed=1)), short_name(len)
        ('RankWindow(min=2)', "SampleNegatives(n={'bm25': 2}, seed=1)", 'len')
    """
    if not is_dataclass(step):
        return plain_name(step)
    options = []
    for field in fields(step):
        value = getattr(step, field.name)
        # The requested number of candidates is always shown.
        is_shown = field.repr and (value != field.default or field.name in ("k", "n"))
        if is_shown and value is not None and (shown := _shown(value)) is not None:
            options.append(f"{field.name}={shown}")
    name = plain_name(step)
    return f"{name}({', '.join(options)})" if options else name


def plain_name(step: object) -> str:
    """Return the name of a step's class or of a function."""
    name: str = getattr(step, "__name__", type(step).__name__)
    return name


def _shown(value: Any) -> str | None:
    """Format an option as text; None if it is not a plain value, such as a corpus."""
    if isinstance(value, Mapping):
        parts = {repr(key): _shown(own) for key, own in value.items()}
        return f"{{{', '.join(key if own is None else f'{key}: {own}' for key, own in parts.items())}}}"
    return repr(value) if isinstance(value, (bool, int, float, str)) or value is None else None
