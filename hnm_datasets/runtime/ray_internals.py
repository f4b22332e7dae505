"""Internals of Ray, which a new release may change."""

from __future__ import annotations

from typing import Any


def is_worker(ray: Any) -> bool:
    """Return whether this process runs tasks of a cluster. The driver does not.

    Args:
        ray: The module, which may be only partly imported.
    """
    if not hasattr(ray, "WORKER_MODE") or not ray.is_initialized():
        return False
    return bool(ray.get_runtime_context().worker.mode == ray.WORKER_MODE)


def is_derived(step: type) -> bool:
    """Return whether Ray derived a class, for an actor pool, from the class of a step."""
    return step.__module__.startswith("ray.")


def column_of(name: str, values: Any) -> Any:
    """Return an array of several dimensions, or of objects, as the column that Ray stores."""
    from ray.data.block import BlockAccessor

    return BlockAccessor.batch_to_block({name: values})[name]
