"""Paired differences hold what they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from hnm_datasets.piloting.intervals import paired


@given(hnp.arrays(np.float32, st.tuples(st.just(1), st.integers(2, 40)), elements=st.floats(-1, 1, width=32)))
def test_the_interval_of_one_seed_is_that_of_a_paired_t_test(gains):
    found = paired(gains)
    assert found.mean == pytest.approx(gains.mean(dtype=np.float64))
    if np.ptp(gains) > 1e-6:
        wanted = stats.ttest_1samp(gains[0].astype(np.float64), 0).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 4), st.integers(2, 20)),
        elements=st.floats(-1, 1) | st.floats(0, 1e-150),
    )
)
def test_an_interval_is_finite_and_holds_its_mean(gains):
    found = paired(gains)
    assert np.isfinite(found).all()
    assert found.low <= found.mean <= found.high
    turned = paired(-gains)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_gains_that_are_all_equal_leave_no_doubt():
    assert paired(np.full((3, 5), 0.2)) == pytest.approx((0.2, 0.2, 0.2, 0.0))


@pytest.mark.parametrize(("of_seeds", "seeds"), [(0.2, 5), (0.0, 3), (0.0, 1)])
def test_intervals_over_queries_and_seeds_hold_what_they_say(of_seeds, seeds):
    rng, held = np.random.default_rng(1), []
    for _ in range(400):
        queries, of_seed = rng.normal(0, 1, 60), rng.normal(0, of_seeds, (seeds, 1))
        found = paired(0.3 + queries + of_seed + rng.normal(0, 1, (seeds, 60)))
        held.append(found.low <= 0.3 <= found.high)
    assert 0.93 <= np.mean(held) <= 1.0
