"""Ray actors that stay alive between calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Actors by name and Ray session.
_ACTORS: dict[str, list[Any]] = {}


def actors_of(name: str, kind: type, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return one actor per tuple of arguments. Actors are started once per Ray session.

    Args:
        name: A name for the content of the actors.
        kind: The class of the actors.
        arguments: The constructor arguments of each actor.
    """
    import ray

    if not ray.is_initialized():
        ray.init()
    # Job ids start at one in every cluster, but node ids are unique.
    context = ray.get_runtime_context()
    key = f"{name}-{context.get_node_id()}-{context.get_job_id()}"
    if key not in _ACTORS:
        # If the node of an actor dies, Ray restarts the actor on another node and retries its task.
        remote: Any = ray.remote(max_restarts=-1, max_task_retries=-1)(kind)
        _ACTORS[key] = [remote.remote(*values) for values in arguments]
    return _ACTORS[key]
