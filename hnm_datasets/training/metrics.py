"""What is known of the negatives that a model is trained on now, for the loss to log."""

from __future__ import annotations

import weakref
from typing import Any

#: By model; a model that is gone takes its numbers with it.
_CURRENT: weakref.WeakKeyDictionary[Any, dict[str, float]] = weakref.WeakKeyDictionary()


def publish(model: Any, numbers: dict[str, float]) -> None:
    """Replace the numbers of a model."""
    _CURRENT[model] = numbers


def published(model: Any) -> dict[str, float]:
    """Return the numbers of a model, wrapped for several processes, compiled, or as it is."""
    for wrapper in ("module", "_orig_mod"):
        model = getattr(model, wrapper, model)
    return _CURRENT.get(model, {})
