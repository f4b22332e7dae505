import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import SampleNegatives, TopNegatives

LISTS = st.lists(st.integers(0, 15), min_size=1, max_size=8)


def batch_of(lengths):
    return {
        "query": [f"q{i}" for i in range(len(lengths))],
        "negative_ids": [[f"p{j}" for j in range(n)] for n in lengths],
        "negative_scores": [[float(n - j) for j in range(n)] for n in lengths],
    }


@given(LISTS, st.integers(1, 6))
def test_top_keeps_the_first(lengths, n):
    assert TopNegatives(n)(batch_of(lengths))["negative_ids"] == [[f"p{j}" for j in range(min(n, m))] for m in lengths]


@given(LISTS, st.integers(1, 6), st.integers(0, 9), st.sampled_from(["uniform", "softmax"]))
def test_sample_keeps_n_in_order(lengths, n, seed, strategy):
    batch = batch_of(lengths)
    answer = SampleNegatives(n, strategy=strategy, seed=seed)(batch)
    for before, after, scores in zip(
        batch["negative_ids"], answer["negative_ids"], answer["negative_scores"], strict=True
    ):
        assert len(after) == min(n, len(before))
        assert [one for one in before if one in set(after)] == after
        assert scores == [float(len(before) - before.index(one)) for one in after]


def frequencies(step, scores, rows=20_000):
    batch = {
        "query": [f"q{i}" for i in range(rows)],
        "negative_ids": [[f"p{j}" for j in range(len(scores))]] * rows,
        "negative_scores": [scores] * rows,
    }
    kept = [one for ids in step(batch)["negative_ids"] for one in ids]
    return np.array([kept.count(f"p{j}") for j in range(len(scores))]) / rows


def test_uniform_draws_each_alike():
    assert frequencies(SampleNegatives(2, seed=4), [0.0] * 5) == pytest.approx([0.4] * 5, abs=0.015)


def test_softmax_draws_in_proportion():
    scores = [3.0, 2.0, 0.0]
    wanted = np.exp(np.array(scores) / 2)
    drawn = frequencies(SampleNegatives(1, strategy="softmax", temperature=2.0, seed=4), scores)
    assert drawn == pytest.approx(wanted / wanted.sum(), abs=0.015)


def test_a_low_temperature_takes_the_hardest():
    drawn = frequencies(SampleNegatives(1, strategy="softmax", temperature=0.01), [1.0, 3.0, 2.0], rows=50)
    assert drawn.tolist() == [0, 1, 0]


def test_seeds_and_rows_differ():
    batch = batch_of([15] * 8)
    one, other = (SampleNegatives(3, seed=seed)(batch)["negative_ids"] for seed in (1, 2))
    assert one != other
    assert len({tuple(ids) for ids in one}) > 4


def test_bad_options():
    with pytest.raises(ValueError, match="n must be a whole number of at least 1, got 0"):
        TopNegatives(0)
    with pytest.raises(ValueError, match="strategy must be one of 'uniform', 'softmax', 'simans', got 'best'"):
        SampleNegatives(3, strategy="best")
    with pytest.raises(ValueError, match="temperature must be a finite number greater than 0, got 0"):
        SampleNegatives(3, temperature=0)
    with pytest.raises(ValueError, match="seed"):
        SampleNegatives(3, seed=-1)
    with pytest.raises(KeyError, match=r"needs the column 'negative_gpt_scores'"):
        SampleNegatives(3, strategy="softmax", by="gpt")(batch_of([2]))


def test_simans_draws_as_its_formula_says():
    scores, positive, a, b = np.array([0.9, 0.7, 0.5, 0.1]), 0.7, 4.0, -0.1
    rows = {
        "query_id": [f"q{i}" for i in range(20_000)],
        "negative_ids": [list("abcd")] * 20_000,
        "negative_scores": [scores.tolist()] * 20_000,
        "positive_scores": [[positive - 0.1, positive + 0.1]] * 20_000,
    }
    drawn = SampleNegatives(1, strategy="simans", a=a, b=b)(rows)["negative_ids"]
    share = np.array([sum(ids == [name] for ids in drawn) for name in "abcd"]) / 20_000
    expected = np.exp(-a * (scores - positive - b) ** 2)
    np.testing.assert_allclose(share, expected / expected.sum(), atol=0.012)


def test_simans_draws_uniformly_without_a_positive():
    rows = {
        "query_id": [f"q{i}" for i in range(5000)],
        "negative_ids": [list("ab")] * 5000,
        "negative_scores": [[9.0, 0.0]] * 5000,
        "positive_scores": [[]] * 5000,
    }
    drawn = SampleNegatives(1, strategy="simans")(rows)["negative_ids"]
    assert abs(sum(ids == ["a"] for ids in drawn) / 5000 - 0.5) < 0.03
