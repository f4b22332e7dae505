"""The rules of recommendation, and the sentences that give the reason."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets.piloting.intervals import paired
from hnm_datasets.piloting.recommendation import TOLERATED, by_mining, by_training

NAMES = ["a", "b", "c", "d"]


def drawn(seed, size, spread=0.1):
    rng = np.random.default_rng(seed)
    names = NAMES[:size]
    queries = rng.uniform(0, 1, 30)
    values = {name: queries + rng.normal(rng.uniform(0, 0.1), spread, (2, 30)) for name in names}
    return values, {name: float(rng.integers(0, 3)) for name in names}


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([0.0, 0.01, 0.3]))
def test_the_cheapest_within_one_standard_error_of_the_best_is_taken(seed, size, spread):
    values, work = drawn(seed, size, spread)
    found = by_training(values, work, "recall@10")
    best = max(values, key=lambda name: values[name].mean())
    against = {name: paired(values[name] - values[best]) for name in values}
    within = {name for name, one in against.items() if name == best or one.mean + one.error >= 0}
    assert found.name in within
    assert work[found.name] == min(work[name] for name in within)
    alike = [name for name in within if work[name] == work[found.name]]
    assert values[found.name].mean() == max(values[name].mean() for name in alike)
    assert [name for name, one in found.differences.items() if one is None] == [best]
    assert f"Take {found.name!r}" in found.sentence
    assert "recall@10" in found.sentence


@pytest.mark.parametrize(("errors", "taken"), [(0.5, "cheap"), (1.5, "best")])
def test_one_standard_error_below_the_best_is_the_limit(errors, taken):
    # A difference with a standard error of 0.01, whose 95% interval includes zero in both cases.
    noise = np.tile([0.1, -0.1], (1, 50)) * np.sqrt(99 / 100)
    values = {"cheap": 0.5 - 0.01 * errors + noise, "best": np.full((1, 100), 0.5)}
    found = by_training(values, {"cheap": 0.0, "best": 1.0}, "nDCG@10")
    assert found.differences["cheap"].error == pytest.approx(0.01)
    assert found.differences["cheap"].high > 0
    assert found.name == taken


@given(st.integers(0, 2**32 - 1))
def test_the_order_of_strategies_changes_nothing(seed):
    values, work = drawn(seed, 4)
    turned = dict(reversed(values.items()))
    assert by_training(values, work, "x").name == by_training(turned, work, "x").name


def test_equal_values_leave_the_cheapest():
    values = {name: np.full((2, 5), 0.5) for name in "abc"}
    found = by_training(values, {"a": 2.0, "b": 1.0, "c": 3.0}, "nDCG@10")
    assert found.name == "b"
    assert found.needed == {"a": None, "b": None, "c": None}


def test_it_says_how_many_queries_would_tell():
    noise = np.tile([0.1, -0.1], (1, 50))
    found = by_training({"a": 0.5 + noise, "b": np.full((1, 100), 0.51)}, {"a": 0, "b": 1}, "nDCG@10")
    assert found.name == "a"
    more = found.needed["a"]
    assert 300 < more < 500
    # With so many it is told; the interval narrows a little more than with the root, by the degrees of freedom.
    assert paired(np.tile([0.09, -0.11], (1, more))).high < 0
    few = paired(np.tile([0.09, -0.11], (1, more // 4)))
    assert few.high > 0
    # What can be told needs none.
    told = by_training({"a": np.full((1, 100), 0.1) + noise / 10, "b": np.full((1, 100), 0.5)}, {"a": 0, "b": 1}, "x")
    assert told.needed == {"a": None, "b": None}


NOISE = np.tile([0.01, -0.01], (1, 50))


@pytest.mark.parametrize(
    ("values", "work", "sentence"),
    [
        ({"a": 0.5}, [0], "Take 'a': no other strategy was trained on. Its nDCG@10 is 50.0."),
        (
            {"a": 0.5, "b": 0.6},
            [0, 1],
            "Take 'b': it has the best nDCG@10, 60.0, and no other strategy is within one standard error of it.",
        ),
        (
            {"a": 0.5, "b": 0.5001},
            [1, 1],
            "Take 'b': it has the best nDCG@10, 50.0, and the strategies within one standard error of it need no less "
            "model compute ('a').",
        ),
        (
            {"a": 0.5, "b": 0.5001},
            [0, 1],
            "Take 'a': it needs the least model compute of the strategies within one standard error of the best. Its "
            "nDCG@10 is 50.0, that of 'b' is 50.0 (difference -0.0 (-0.4 to +0.4)).",
        ),
        (
            {"a": 0.5, "b": 0.5001, "c": 0.1, "d": 0.2},
            [0, 1, 0, 0],
            "Take 'a': it needs the least model compute of the strategies within one standard error of the best. Its "
            "nDCG@10 is 50.0, that of 'b' is 50.0 (difference -0.0 (-0.4 to +0.4)).",
        ),
    ],
    ids=["one", "clear", "best", "cheapest", "cheapest of several"],
)
def test_the_sentences_read_right(values, work, sentence):
    signs = {name: 1 if place % 2 else -1 for place, name in enumerate(values)}
    whole = {name: value + signs[name] * NOISE for name, value in values.items()}
    assert by_training(whole, dict(zip(values, work, strict=True)), "nDCG@10").sentence == sentence


@given(st.integers(0, 2**32 - 1))
def test_without_training_the_hardest_with_few_false_ones_is_taken(seed):
    rng = np.random.default_rng(seed)
    rates = {name: None if rng.random() < 0.2 else float(rng.choice([0, 0.02, 0.05, 0.06, 0.3])) for name in NAMES}
    above = {name: None if rng.random() < 0.2 else float(rng.choice([0.0, 0.3, 0.6])) for name in NAMES}
    work = {name: float(rng.integers(0, 3)) for name in NAMES}
    found = by_mining(rates, above, work)
    known = [name for name in NAMES if rates[name] is not None and above[name] is not None]
    few = [name for name in known if rates[name] <= TOLERATED]
    if not known:
        assert found.name is None
        assert "unknown" in found.sentence
        assert "judgments=" in found.sentence
    elif few:
        assert above[found.name] == max(above[name] for name in few)
        alike = [name for name in few if above[name] == above[found.name]]
        assert work[found.name] == min(work[name] for name in alike)
        assert "No student was trained" in found.sentence
    else:
        assert rates[found.name] == min(rates[name] for name in known)
        assert "but filter it" in found.sentence
