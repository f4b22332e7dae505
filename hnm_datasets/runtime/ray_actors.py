"""Actors in a Ray cluster that stay from one call to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: By name and session of Ray.
_ACTORS: dict[str, list[Any]] = {}


def actors_of(name: str, kind: type, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return one actor for each set of arguments, started once in this session of Ray.

    Args:
        name: The name of what they hold.
        kind: The class of the actors.
        arguments: What each one is made with.
    """
    import ray

    if not ray.is_initialized():
        ray.init()
    # Every new cluster counts its jobs from one; its nodes have other names.
    context = ray.get_runtime_context()
    key = f"{name}-{context.get_node_id()}-{context.get_job_id()}"
    if key not in _ACTORS:
        # An actor whose machine dies is started again elsewhere and asked again.
        remote: Any = ray.remote(max_restarts=-1, max_task_retries=-1)(kind)
        _ACTORS[key] = [remote.remote(*one) for one in arguments]
    return _ACTORS[key]
