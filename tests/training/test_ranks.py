"""The ranks of positives among candidates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.training.ranks import Ranks, ranks_of

scores = st.lists(st.integers(-3, 3).map(float), max_size=5)
rows = st.lists(st.tuples(scores, scores), min_size=1, max_size=6)


def ragged(lists):
    return Ragged(
        offsets_of(np.array([len(one) for one in lists])),
        np.array([one for row in lists for one in row], dtype=np.float32),
    )


def slow(rows):
    ranks = Ranks()
    for own, others in rows:
        ranks.candidates += len(others)
        if not own:
            continue
        ahead = sum(one > max(own) for one in others)
        ranks.queries += 1
        ranks.higher += ahead
        if ahead < len(others) or not others:
            ranks.found += 1
            ranks.reciprocal += 1 / (1 + ahead)
    return ranks


@given(rows)
def test_ranks_are_those_of_a_loop(rows):
    found = ranks_of(ragged([own for own, _ in rows]), ragged([others for _, others in rows]))
    expected = slow(rows)
    assert vars(found) == pytest.approx(vars(expected))


@given(st.lists(rows, min_size=1, max_size=4))
def test_sums_of_batches_are_those_of_all_rows(batches):
    total = Ranks()
    for rows in batches:
        total += ranks_of(ragged([own for own, _ in rows]), ragged([others for _, others in rows]))
    assert vars(total) == pytest.approx(vars(slow([row for rows in batches for row in rows])))
    for share in (total.mrr, total.recall, total.above):
        assert 0 <= share <= 1
