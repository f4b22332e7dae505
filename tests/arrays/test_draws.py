"""Random numbers by key and seed alone: the wanted distribution, and the same draw wherever a row stands."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets.arrays.draws import keyed_uniform, permuted_rows, sample_mask

KEYS = st.integers(0, 2**64 - 1)


def drawn(offsets, log_weights, keys, counts, seed=0, strata=None):
    keep = np.ones(len(log_weights), dtype=bool)  # To be overwritten.
    strata = np.ones((len(counts), len(log_weights)), dtype=bool) if strata is None else strata
    sample_mask(
        np.asarray(offsets, dtype=np.int64),
        np.asarray(log_weights, dtype=np.float64),
        np.asarray(keys, dtype=np.uint64),
        seed,
        np.asarray(strata, dtype=bool).reshape(len(counts), len(log_weights)),
        np.asarray(counts, dtype=np.int64),
        keep,
    )
    return keep


def permuted(keys, n_rows, k, seed=0):
    out = np.full((len(keys), k), -7, dtype=np.int64)
    permuted_rows(np.asarray(keys, dtype=np.uint64), seed, n_rows, out)
    return out


def check_uniform(counts):
    """Raise if so many of each of some equally likely kinds are unlikely; Wilson and Hilferty's bound at five sigma."""
    expected = counts.sum() / len(counts)
    degrees = len(counts) - 1
    bound = degrees * (1 - 2 / (9 * degrees) + 5 * np.sqrt(2 / (9 * degrees))) ** 3
    assert ((counts - expected) ** 2 / expected).sum() < bound


# ---- uniform numbers -------------------------------------------------------------------------------------------------


@given(KEYS, st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_number_lies_between_zero_and_one_and_comes_again(key, seed, counter):
    number = keyed_uniform(np.uint64(key), seed, counter)
    assert 0 < number < 1
    assert keyed_uniform(np.uint64(key), seed, counter) == number


@pytest.mark.parametrize("vary", ["key", "seed", "counter"])
def test_numbers_are_uniform_in_each_argument(vary):
    start = {"key": 0, "seed": 5, "counter": 3}
    found = np.array([keyed_uniform(np.uint64(at["key"]), at["seed"], at["counter"]) for at in at_each(start, vary)])
    assert len(np.unique(found)) == len(found)
    check_uniform(np.bincount((found * 50).astype(int), minlength=50))
    # And neighbors are independent.
    pairs = (found[::2] * 7).astype(int) * 7 + (found[1::2] * 7).astype(int)
    check_uniform(np.bincount(pairs, minlength=49))


def at_each(start, vary):
    return [start | {vary: number} for number in range(20_000)]


def test_numbers_do_not_change_from_version_to_version():
    # What was mined with a seed must come out again.
    asked = [(0, 0, 0), (1, 2, 3), (2**64 - 1, 7, 9)]
    found = [keyed_uniform(np.uint64(key), seed, counter) for key, seed, counter in asked]
    assert found == pytest.approx([0.6524484863740323, 0.05816240739533701, 0.39243920787577374], rel=0, abs=1e-15)


# ---- draws without replacement ---------------------------------------------------------------------------------------


@st.composite
def rows(draw, strata=2):
    lengths = draw(st.lists(st.integers(0, 6), min_size=1, max_size=5))
    total = sum(lengths)
    weights = draw(st.lists(st.floats(-5, 5), min_size=total, max_size=total))
    marks = draw(st.lists(st.booleans(), min_size=strata * total, max_size=strata * total))
    counts = draw(st.lists(st.integers(1, 4), min_size=strata, max_size=strata))
    keys = draw(st.lists(KEYS, min_size=len(lengths), max_size=len(lengths)))
    return np.cumsum([0, *lengths]), weights, keys, counts, np.array(marks, dtype=bool).reshape(strata, total)


@given(rows(), st.integers(0, 100))
def test_each_stratum_gives_as_many_as_wanted_or_all(batch, seed):
    offsets, weights, keys, counts, strata = batch
    keep = drawn(offsets, weights, keys, counts, seed, strata)
    for start, stop in itertools.pairwise(offsets):
        own, kept = strata[:, start:stop], keep[start:stop]
        assert not kept[~own.any(axis=0)].any()
        first = min(own[0].sum(), counts[0])
        # The second stratum gives of what the first has left, whatever that was.
        only_second, both = (~own[0] & own[1]).sum(), (own[0] & own[1]).sum()
        fewest = min(counts[1], only_second + max(0, both - first))
        assert first + fewest <= kept.sum() <= first + min(counts[1], own[1].sum())
        assert (kept & own[0]).sum() >= first
        assert (kept & ~own[0]).sum() <= counts[1]


@given(rows(), st.integers(0, 100), st.data())
def test_a_row_is_drawn_alike_wherever_it_stands(batch, seed, data):
    offsets, weights, keys, counts, strata = batch
    whole = drawn(offsets, weights, keys, counts, seed, strata)
    row = data.draw(st.integers(0, len(keys) - 1))
    part = slice(offsets[row], offsets[row + 1])
    alone = drawn([0, part.stop - part.start], weights[part], keys[row : row + 1], counts, seed, strata[:, part])
    assert alone.tolist() == whole[part].tolist()


def test_no_rows_and_no_candidates():
    assert drawn([0], [], [], [1]).tolist() == []
    assert drawn([0, 0, 1, 1], [0.0], [1, 2, 3], [2]).tolist() == [True]


@pytest.mark.parametrize("n", [1, 2])
def test_candidates_are_drawn_by_their_weights(n):
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    n_rows = 20_000
    offsets = np.arange(n_rows + 1) * 4
    keep = drawn(offsets, np.tile(np.log(weights), n_rows), np.arange(n_rows), [n]).reshape(-1, 4)
    assert (keep.sum(axis=1) == n).all()
    shares = weights / weights.sum()
    # Of two, the second is drawn from what the first has left.
    second = [sum(shares[a] * shares[b] / (1 - shares[a]) for a in range(4) if a != b) for b in range(4)]
    wanted = shares if n == 1 else shares + second
    np.testing.assert_allclose(keep.mean(axis=0), wanted, atol=5 * 0.5 / np.sqrt(n_rows))


def test_a_second_stratum_is_drawn_by_its_weights_from_what_the_first_left():
    n_rows = 20_000
    strata = np.tile([[True, True, False, False], [True, True, True, True]], n_rows)
    offsets, keys = np.arange(n_rows + 1) * 4, np.arange(n_rows)
    keep = drawn(offsets, np.zeros(4 * n_rows), keys, [1, 1], strata=strata).reshape(-1, 4)
    # One of the first two; then one of three, each a third: the other of the two as often as each of the others.
    np.testing.assert_allclose(keep.mean(axis=0), [2 / 3, 2 / 3, 1 / 3, 1 / 3], atol=5 * 0.5 / np.sqrt(n_rows))


def test_another_seed_is_another_draw():
    offsets = np.arange(201) * 6
    draws = [drawn(offsets, np.zeros(1200), np.arange(200), [2], seed) for seed in range(3)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        # Two of six agree in both by chance in a fifteenth of the rows.
        same = (draws[one] == draws[other]).reshape(-1, 6).all(axis=1).sum()
        assert same < 40


@pytest.mark.parametrize("weight", [0.0, -1e308, -np.inf, 800.0])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_weights_that_are_far_apart_give_no_more_than_wanted(weight, n):
    keep = drawn([0, 4], [0.0, weight, weight, weight], [3], [n])
    assert keep.sum() == n


# ---- permutations ----------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.lists(KEYS, min_size=1, max_size=3), st.integers(1, 300), st.integers(0, 2**40))
def test_every_line_is_a_permutation(keys, n_rows, seed):
    out = permuted(keys, n_rows, n_rows + 3, seed)
    assert (np.sort(out[:, :n_rows], axis=1) == np.arange(n_rows)).all()
    assert (out[:, n_rows:] == -1).all()
    # A shorter line is the beginning, and a line depends on its key alone.
    assert (permuted(keys[-1:], n_rows, 1 + n_rows // 2, seed)[0] == out[-1, : 1 + n_rows // 2]).all()


#: With so few rows the halves of the Feistel network have one or two bits, and four turns do not mix them.
TOO_FEW_TURNS = pytest.mark.xfail(strict=True, reason="permutations of few rows are not uniform")


@pytest.mark.parametrize("n_rows", [2, *(pytest.param(few, marks=TOO_FEW_TURNS) for few in (3, 5)), 16, 17, 40, 300])
def test_every_row_comes_at_every_place_equally_often(n_rows):
    out = permuted(np.arange(20_000), n_rows, min(n_rows, 4))
    for place in range(out.shape[1]):
        check_uniform(np.bincount(out[:, place], minlength=n_rows))


@pytest.mark.parametrize(
    "n_rows", [2, *(pytest.param(few, marks=TOO_FEW_TURNS) for few in (3, 4, 7, 16)), 64, 100, 200]
)
def test_two_places_are_independent(n_rows):
    out = permuted(np.arange(40_000), n_rows, 2)
    pairs = np.bincount(out[:, 0] * n_rows + out[:, 1], minlength=n_rows**2).reshape(n_rows, n_rows)
    assert (np.diag(pairs) == 0).all()
    check_uniform(pairs[~np.eye(n_rows, dtype=bool)])


@pytest.mark.parametrize("change", [{"seed": 1}, {"keys": [8]}])
def test_another_key_or_seed_is_another_permutation(change):
    given_ = {"keys": [7], "n_rows": 1000, "k": 1000, "seed": 0}
    agree = (permuted(**given_) == permuted(**given_ | change)).sum()
    # By chance one place.
    assert agree < 10


def test_hundreds_of_millions_of_rows_take_no_memory():
    out = permuted([1, 2], 300_000_000, 1000)
    assert out.min() >= 0
    assert out.max() < 300_000_000
    assert len(np.unique(out[0])) == 1000
    assert 130_000_000 < out.mean() < 170_000_000


def test_permutations_do_not_change_from_version_to_version():
    assert permuted([0, 2**64 - 1], 1000, 4, seed=3).tolist() == [[280, 864, 867, 470], [361, 620, 295, 630]]
