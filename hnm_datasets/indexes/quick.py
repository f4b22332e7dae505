"""Which products of matrices are quick on this processor: of bytes, of bfloat16, or of float32 alone."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from hnm_datasets.indexes.bounds import OUTPUT
from hnm_datasets.runtime.workers import single_threaded_torch

#: Rows of the matrices that are multiplied to find out.
_TRIED = 256


@functools.cache
def quick_products() -> frozenset[str]:
    """Return which of `"int8"` and `"bfloat16"` are quicker here than what is more exact, and right.

    It is measured in some milliseconds. The answer of a search is the same either way.
    """
    import torch

    random = torch.Generator().manual_seed(0)
    left, right = (torch.randn(_TRIED, _TRIED, generator=random) for _ in range(2))
    with single_threaded_torch():
        exact = torch.empty(_TRIED, _TRIED)
        slow = _seconds(lambda: torch.mm(left, right.T, out=exact))
        found = set()
        seconds = _seconds_of_bfloat16(left, right)
        if seconds is not None and seconds < 0.75 * slow:
            found.add("bfloat16")
            slow = seconds
        seconds = _seconds_of_bytes(left, right)
        if seconds is not None and seconds < 0.75 * slow:
            found.add("int8")
    return frozenset(found)


def whole_products(left: Any, right: Any, out: Any) -> None:
    """Multiply matrices of int8 into one of int32. Shapes (B, D), (D, C), (B, C)."""
    import torch

    torch._int_mm(left, right, out=out)


def _seconds_of_bfloat16(left: Any, right: Any) -> float | None:
    """Return how long a product takes, None if it is not summed up in float32, as the bound says."""
    import torch

    one, other = left.bfloat16(), right.bfloat16()
    out = torch.empty(_TRIED, _TRIED, dtype=torch.bfloat16)
    seconds = _seconds(lambda: torch.mm(one, other.T, out=out))
    exact = one.double() @ other.double().T
    right_ = (out.double() - exact).abs() <= OUTPUT * exact.abs() + 1e-3
    return seconds if bool(right_.all()) else None


def _seconds_of_bytes(left: Any, right: Any) -> float | None:
    """Return how long a product takes, None if torch has none or sums are cut, as instructions without VNNI do."""
    import torch

    one, other = ((part * 64).clamp(-127, 127).to(torch.int8) for part in (left, right))
    one[:2], other[:2] = 127, 127
    one[1], other[1, ::2] = -127, -127
    out = torch.empty(_TRIED, _TRIED, dtype=torch.int32)
    try:
        seconds = _seconds(lambda: whole_products(one, other.T, out))
    except (AttributeError, RuntimeError):
        return None
    return seconds if torch.equal(out.long(), one.long() @ other.long().T) else None


def _seconds(multiply: Callable[[], object]) -> float:
    turns = []
    for _ in range(4):
        start = time.perf_counter()
        multiply()
        turns.append(time.perf_counter() - start)
    return min(turns)
