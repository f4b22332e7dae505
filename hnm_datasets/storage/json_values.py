"""Validating the values of a JSON file against types."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

#: Counts are below this limit.
_LIMIT = 1 << 63


def typed(kind: Any, value: Any, where: str) -> Any:
    """Validate a value of a JSON file and convert it to a type.

    Args:
        kind: `int` (a count), `float`, `str`, `bool`, `None`, a union of types, `list[...]`, `tuple[...]`,
            `dict[str, ...]`, a dataclass or a `TypedDict`, nested in any way. Only fields of a dataclass with a default
            may be missing.
        value: The value.
        where: The path of the value in the file, for error messages.

    Returns:
        The value. For a dataclass, an instance; for a `TypedDict`, only its keys.

    Raises:
        ValueError: The value has another type; the message names its path.

    Example:
        >>> typed(tuple[int, float | None], [1, None], "numbers")
        (1, None)
        >>> typed(dict[str, int], {"rows": -1}, "splits")
        Traceback (most recent call last):
        ValueError: 'splits.rows' must be a count, got -1
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _any_of(parts, value, where)
    if origin is dict:
        _require(isinstance(value, dict), "an object", value, where)
        return {typed(str, key, where): typed(parts[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin in (list, tuple):
        return _sequence(origin, parts, value, where)
    if is_typeddict(kind) or dataclasses.is_dataclass(kind):
        return _fields(kind, value, where)
    if kind is float:
        _require(isinstance(value, (int, float)) and not isinstance(value, bool), "a number", value, where)
        return float(value) if abs(value) < _LIMIT or isinstance(value, float) else _refuse("a number", value, where)
    if kind is int:
        is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LIMIT
        _require(is_count, "a count", value, where)
        return value
    if kind is str:
        _require(isinstance(value, str) and is_encodable(value), "a text", value, where)
        return value
    _require(isinstance(value, kind), {bool: "true or false", types.NoneType: "null"}[kind], value, where)
    return value


def _any_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not types.NoneType]
    for kind in others[:-1]:
        try:
            return typed(kind, value, where)
        except ValueError:
            continue
    return typed(others[-1], value, where)


def _sequence(origin: Any, parts: tuple[Any, ...], value: Any, where: str) -> Any:
    _require(isinstance(value, (list, tuple)), "a list", value, where)
    if origin is list or parts[-1] is Ellipsis:
        return origin(typed(parts[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    _require(len(value) == len(parts), f"a list of {len(parts)}", value, where)
    return tuple(
        typed(kind, item, f"{where}[{index}]") for index, (kind, item) in enumerate(zip(parts, value, strict=True))
    )


def _fields(kind: Any, value: Any, where: str) -> Any:
    _require(isinstance(value, dict), "an object", value, where)
    hints = get_type_hints(kind)
    # An earlier version may not have written a field that has a default.
    defaults = set() if is_typeddict(kind) else {item.name for item in dataclasses.fields(kind) if _has_default(item)}
    if missing := [name for name in hints if name not in value and name not in defaults]:
        raise ValueError(f"{where!r} is missing {missing}")
    return kind(**{name: typed(hint, value[name], f"{where}.{name}") for name, hint in hints.items() if name in value})


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def is_encodable(text: str) -> bool:
    """Return whether a text has no unpaired surrogates, which JSON can represent but UTF-8 cannot."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _require(is_valid: bool, expected: str, value: Any, where: str) -> None:
    if not is_valid:
        _refuse(expected, value, where)


def _refuse(expected: str, value: Any, where: str) -> Any:
    shown = repr(value)
    raise ValueError(f"{where!r} must be {expected}, got {shown if len(shown) <= 60 else shown[:57] + '...'}")
