"""Decide when to refresh the negatives, from the numbers of a probe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Runs a probe and returns its `mrr` and `weight`.
Look = Callable[[], dict[str, float]]
#: If the mean weight of fresh negatives is below this, the model already ranks its training queries correctly, and
#: newer negatives would weigh no more.
_LIGHT = 0.01


class Gate:
    """Decide after each interval of steps whether to refresh.

    Args:
        start_mrr: Start to refresh when the mean reciprocal rank of a probe reaches this value; None: at once.
        stale: Refresh when the weight of the negatives falls to this fraction of their weight after the last refresh,
            unless that weight was already negligible; None: always.
    """

    def __init__(self, start_mrr: float | None, stale: float | None) -> None:
        self.start_mrr, self.stale = start_mrr, stale
        self.restart()

    def restart(self, state: dict[str, Any] | None = None) -> None:
        """Start a training, or continue from a saved state."""
        state = state or {}
        self._begun: bool = state.get("begun", self.start_mrr is None)
        self._fresh: float | None = state.get("fresh")

    @property
    def state(self) -> dict[str, Any]:
        """The state to pass to `restart`."""
        return {"begun": self._begun, "fresh": self._fresh}

    def is_due(self, look: Look) -> bool:
        """Return whether to refresh; run a probe only if the decision needs one."""
        if self._begun and (self.stale is None or self._fresh is None):
            return True
        if self._begun and self._fresh is not None and self._fresh < _LIGHT:
            return False
        found = look()
        if not self._begun:
            assert self.start_mrr is not None
            self._begun = found["mrr"] >= self.start_mrr
            return self._begun
        assert self.stale is not None
        assert self._fresh is not None
        return found["weight"] <= self.stale * self._fresh

    def refreshed(self, look: Look) -> None:
        """Probe the fresh negatives, so that later probes can be compared with them."""
        if self.stale is not None:
            self._fresh = look()["weight"]
