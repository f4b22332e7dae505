"""Measuring which matrix products are fast on this processor: 8-bit integers, bfloat16, or only float32."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from hnm_datasets.indexes.bounds import OUTPUT
from hnm_datasets.models.torch_internals import integer_products
from hnm_datasets.runtime.workers import single_threaded_torch

#: Rows of the matrices in the measurement.
_TRIED = 256


@functools.cache
def quick_products() -> frozenset[str]:
    """Return which of `"int8"` and `"bfloat16"` give correct products faster than the next more precise type.

    The measurement takes some milliseconds. It does not affect the results of a search.
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


def _seconds_of_bfloat16(left: Any, right: Any) -> float | None:
    """Return the time of a product; None if it is not accumulated in float32, which the error bound requires."""
    import torch

    left, right = left.bfloat16(), right.bfloat16()
    out = torch.empty(_TRIED, _TRIED, dtype=torch.bfloat16)
    seconds = _seconds(lambda: torch.mm(left, right.T, out=out))
    exact = left.double() @ right.double().T
    is_correct = (out.double() - exact).abs() <= OUTPUT * exact.abs() + 1e-3
    return seconds if bool(is_correct.all()) else None


def _seconds_of_bytes(left: Any, right: Any) -> float | None:
    """Return the time of a product; None if torch has no such product, or if sums saturate, as without VNNI."""
    import torch

    left, right = ((part * 64).clamp(-127, 127).to(torch.int8) for part in (left, right))
    left[:2], right[:2] = 127, 127
    left[1], right[1, ::2] = -127, -127
    out = torch.empty(_TRIED, _TRIED, dtype=torch.int32)
    try:
        seconds = _seconds(lambda: integer_products(left, right.T, out))
    except (AttributeError, RuntimeError):
        return None
    return seconds if torch.equal(out.long(), left.long() @ right.long().T) else None


def _seconds(multiply: Callable[[], object]) -> float:
    times = []
    for _ in range(4):
        start = time.perf_counter()
        multiply()
        times.append(time.perf_counter() - start)
    return min(times)
