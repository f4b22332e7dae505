"""Choosing the smallest numbers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets.arrays.selection import bring_smallest


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.data())
def test_the_smallest_come_to_the_front(values, data):
    count = data.draw(st.integers(1, len(values)))
    n = data.draw(st.integers(1, count))
    numbers = np.array(values, dtype=np.uint64)
    largest = bring_smallest(numbers, count, n)
    assert sorted(numbers[:n].tolist()) == sorted(values[:count])[:n]
    assert largest == max(numbers[:n])
    # Nothing is lost, and what does not count stays.
    assert sorted(numbers[:count].tolist()) == sorted(values[:count])
    assert numbers[count:].tolist() == values[count:]
