"""Names of steps: full names for dataset cards, short names for tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hnm_datasets.models.handles import label_of
from hnm_datasets.storage.about import short_name as short_model_name

#: A model that was passed as an object, in the repr of a step.
_MODEL = re.compile(r"(?<=\()model ([0-9a-f]{32})\b")
#: The name that `full_name` writes before it.
_MODEL_NAME = re.compile(r"""(?<=\()('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"), (?=model [0-9a-f]{32}\b)""")


def full_name(step: object) -> str:
    """Return the repr of a step with the names of its models, without memory addresses and the home directory."""
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(step))
    home = str(Path.home())
    text = text.replace(home, "~") if len(home) > 1 else text
    return _MODEL.sub(_with_model_name, text)


def without_model_names(name: str) -> str:
    """Return the full name of a step without the names of its models, which differ between processes.

    Example:
        >>> without_model_names(f"Reranker('BAAI/bge-reranker-base', model {'0' * 32})")
        'Reranker(model 00000000000000000000000000000000)'
    """
    return _MODEL_NAME.sub("", name)


def _with_model_name(found: re.Match[str]) -> str:
    label = short_model_name(label_of(found[1]))
    return f"{label!r}, {found[0]}" if label else found[0]


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
