"""Scores and rows as keys."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets.indexes.keys import NO_KEY, hits_of, key_of

SCORES = st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, 1.0, -1.0, np.inf, -np.inf, 1e-45, -1e-45])


@given(st.lists(SCORES, max_size=12), st.integers(1, 15), st.integers(0, 3))
def test_the_best_come_first_and_of_equal_ones_the_lower_row(scores, k, free):
    numbers = np.array(scores, dtype=np.float32) + np.float32(0)
    keys = [key_of(bits, row) for row, bits in enumerate(numbers.view(np.uint32))]
    hits = hits_of(np.array([[*keys[::-1], *[NO_KEY] * free]], dtype=np.uint64), k)
    order = np.argsort(-numbers, kind="stable")[:k]
    rest = k - len(order)
    assert hits.rows.tolist() == [[*order, *[-1] * rest]]
    assert hits.scores.tolist() == [[*numbers[order], *[-np.inf] * rest]]
