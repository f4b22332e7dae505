"""Selecting the smallest numbers of an array, for compiled loops.

Numba takes much longer to compile its own `np.partition` and `np.sort`.
"""

from __future__ import annotations

from typing import Any

import numba


@numba.njit(nogil=True)
def bring_smallest(numbers: Any, count: Any, n: Any) -> Any:
    """Move the n smallest of the first `count` numbers to the front, and return the largest of them.

    This is Hoare's FIND (1961), with the median of three as the pivot.
    """
    left, right = 0, count - 1
    while left < right:
        low, pivot, high = numbers[left], numbers[(left + right) >> 1], numbers[right]
        pivot = max(min(low, pivot), min(max(low, pivot), high))
        up, down = left, right
        while up <= down:
            while numbers[up] < pivot:
                up += 1
            while numbers[down] > pivot:
                down -= 1
            if up <= down:
                numbers[up], numbers[down] = numbers[down], numbers[up]
                up += 1
                down -= 1
        if n - 1 <= down:
            right = down
        elif n - 1 >= up:
            left = up
        else:
            break
    return numbers[n - 1]
