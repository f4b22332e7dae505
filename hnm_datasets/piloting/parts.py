"""The miners and models in a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from hnm_datasets.models.handles import ModelHandle
from hnm_datasets.transforms.miners.base import Miner
from hnm_datasets.transforms.miners.fusion import FuseNegatives


def miners_of(step: Any) -> Iterator[Miner]:
    """Yield the miners of a step: the step itself, or the sources that it fuses."""
    if isinstance(step, Miner):
        yield step
    elif isinstance(step, FuseNegatives):
        for miner in step.miners.values():
            yield from miners_of(miner)


def models_of(value: Any, depth: int = 3) -> list[ModelHandle]:
    """Return the distinct models of a step; queries and passages often use the same one."""
    found: dict[str, ModelHandle] = {}
    parts: list[Any] = []
    if isinstance(value, ModelHandle):
        return [value]
    if is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, field.name) for field in fields(value)]
    elif isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, tuple):
        parts = list(value)
    if depth:
        for part in parts:
            found |= {handle.model_fingerprint: handle for handle in models_of(part, depth - 1)}
    return list(found.values())
