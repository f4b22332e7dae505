"""When the negatives are mined again: the clock, and what a probe says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Returns what a probe found: `mrr` and `weight`.
Look = Callable[[], dict[str, float]]
#: Where new negatives weigh less on average, the model ranks its training queries right, and newer ones weigh no more.
_LIGHT = 0.01


class Gate:
    """Decides at each interval of steps whether to refresh.

    Args:
        start_mrr: Begin to refresh when the mean reciprocal rank of a probe has reached this; None: at once.
        stale: Refresh when the weight of the negatives has fallen to this share of what it was after the last refresh,
            if it was worth it then; None: always.
    """

    def __init__(self, start_mrr: float | None, stale: float | None) -> None:
        self.start_mrr, self.stale = start_mrr, stale
        self.restart()

    def restart(self, state: dict[str, Any] | None = None) -> None:
        """Begin a training, or go on with the state of one."""
        state = state or {}
        self._begun: bool = state.get("begun", self.start_mrr is None)
        self._fresh: float | None = state.get("fresh")

    @property
    def state(self) -> dict[str, Any]:
        """What `restart` takes."""
        return {"begun": self._begun, "fresh": self._fresh}

    def is_due(self, look: Look) -> bool:
        """Decide, with a look at the negatives where one is needed."""
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
        """Look at new negatives, to compare with later."""
        if self.stale is not None:
            self._fresh = look()["weight"]
