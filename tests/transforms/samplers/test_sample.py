import pickle
from itertools import combinations

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import (
    BM25Negatives,
    CrossEncoderScores,
    FuseNegatives,
    RandomNegatives,
    SampleNegatives,
    TopNegatives,
    load_sample,
)

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


# ---- a number per source or band -------------------------------------------------------------------------------------

SOURCES = ("x", "y", "z")
# For each candidate its rank in each source, 0 where the source did not find it.
FOUND = st.lists(st.lists(st.tuples(*[st.integers(0, 2)] * 3), max_size=8), min_size=1, max_size=4)
QUOTAS = st.dictionaries(st.sampled_from(SOURCES), st.integers(1, 4), min_size=1)


def fused_batch(rows):
    batch = batch_of([len(found) for found in rows])
    for place, name in enumerate(SOURCES):
        batch[f"negative_{name}_ranks"] = [[ranks[place] for ranks in found] for found in rows]
    return batch


def ranked_batch(rows):
    """Rows of ranks, with scores that fall as they rise."""
    return {
        "query_id": [f"q{i}" for i in range(len(rows))],
        "negative_ids": [[f"p{rank}" for rank in ranks] for ranks in rows],
        "negative_ranks": rows,
        "negative_scores": [[1 - rank / 100 for rank in ranks] for ranks in rows],
        "negative_judge_scores": [[rank / 10 for rank in ranks] for ranks in rows],
    }


def places_of(after):
    return [[int(name[1:]) for name in ids] for ids in after["negative_ids"]]


def can_be_drawn(kept, strata):
    """Tell whether each stratum in turn can have drawn its number of these, from what the earlier ones left."""
    if not strata:
        return not kept
    (members, quota), *rest = strata
    size = min(quota, len(members))
    return any(
        can_be_drawn(kept - set(drawn), [(others - set(drawn), n) for others, n in rest])
        for drawn in combinations(sorted(kept & members), size)
    )


@given(FOUND, QUOTAS, st.integers(0, 9), st.sampled_from(["uniform", "softmax"]))
def test_sources_draw_their_numbers_in_turn(rows, quotas, seed, strategy):
    answer = SampleNegatives(quotas, strategy=strategy, seed=seed)(fused_batch(rows))
    for i, (found, kept) in enumerate(zip(rows, places_of(answer), strict=True)):
        assert kept == sorted(set(kept))
        assert len(kept) <= sum(quotas.values())
        assert all(any(found[j][SOURCES.index(name)] for name in quotas) for j in kept)
        strata = [({j for j in range(len(found)) if found[j][SOURCES.index(name)]}, n) for name, n in quotas.items()]
        assert can_be_drawn(set(kept), strata)
        for place, name in enumerate(SOURCES):
            assert answer[f"negative_{name}_ranks"][i] == [found[j][place] for j in kept]


BANDS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 4)), min_size=1, max_size=4)
RANKS = st.lists(st.lists(st.integers(1, 40), unique=True, max_size=20), min_size=1, max_size=4)


@given(RANKS, BANDS, st.randoms(use_true_random=False), st.integers(0, 9))
def test_bands_apart_give_just_their_numbers(rows, widths, shuffler, seed):
    ends = np.cumsum([0, *[width for width, _ in widths]])
    bands = [((int(low) + 1, int(high)), n) for low, high, (_, n) in zip(ends, ends[1:], widths, strict=False)]
    shuffler.shuffle(bands)
    answer = SampleNegatives(dict(bands), seed=seed)(ranked_batch(rows))
    for before, after in zip(rows, answer["negative_ranks"], strict=True):
        assert after == [rank for rank in before if rank in set(after)]
        for (low, high), n in bands:
            assert sum(low <= rank <= high for rank in after) == min(n, sum(low <= rank <= high for rank in before))
        assert all(any(low <= rank <= high for (low, high), _ in bands) for rank in after)


@given(FOUND, QUOTAS, st.integers(0, 9), st.data())
def test_a_draw_by_source_depends_on_the_row_alone(rows, quotas, seed, data):
    step, batch = SampleNegatives(quotas, seed=seed), fused_batch(rows)
    whole = step(batch)["negative_ids"]
    order = data.draw(st.permutations(range(len(rows))))
    moved = {name: [values[i] for i in order] for name, values in batch.items()}
    assert step(moved)["negative_ids"] == [whole[i] for i in order]
    for i in range(len(rows)):
        assert step({name: values[i : i + 1] for name, values in batch.items()})["negative_ids"] == whole[i : i + 1]


@given(RANKS, st.integers(1, 3), st.integers(1, 3))
def test_a_low_temperature_takes_the_hardest_of_each_band(rows, first, second):
    bands = {(11, 40): second, (1, 10): first}
    answer = SampleNegatives(bands, strategy="softmax", temperature=1e-6)(ranked_batch(rows))
    for before, after in zip(rows, answer["negative_ranks"], strict=True):
        easy, hard = sorted(rank for rank in before if rank > 10), sorted(rank for rank in before if rank <= 10)
        assert sorted(after) == hard[:first] + easy[:second]


def shares(step, names, rows=20_000, **columns):
    batch = {"query_id": [f"q{i}" for i in range(rows)], "negative_ids": [list(names)] * rows}
    batch |= {f"negative_{name}": [values] * rows for name, values in columns.items()}
    drawn = step(batch)["negative_ids"]
    return np.array([sum(name in ids for ids in drawn) for name in names]) / rows


def test_each_band_draws_its_own_alike():
    drawn = shares(SampleNegatives({(1, 4): 1, (5, 7): 2}, seed=4), "abcdefgh", ranks=[1, 5, 2, 6, 3, 7, 4, 8])
    assert drawn == pytest.approx([1 / 4, 2 / 3] * 3 + [1 / 4, 0], abs=0.015)


def test_each_band_draws_its_own_in_proportion():
    step = SampleNegatives({(1, 2): 1, (3, 4): 1}, strategy="softmax", temperature=2.0)
    drawn = shares(step, "abcd", ranks=[1, 2, 3, 4], scores=[50.0, 48.0, 1.0, 0.0])
    e = np.exp([1.0, 0.5])
    assert drawn == pytest.approx([e[0], 1, e[1], 1] / (1 + e.repeat(2)), abs=0.015)


def test_what_an_earlier_source_left_is_as_likely_as_the_rest():
    # x draws a or b; the other one and c are left to y, each with the same chance.
    step = SampleNegatives({"x": 1, "y": 1}, seed=7)
    drawn = shares(step, "abc", x_ranks=[1, 2, 0], y_ranks=[1, 2, 3])
    assert drawn == pytest.approx([0.75, 0.75, 0.5], abs=0.015)


def test_the_first_source_that_draws_a_candidate_pays_for_it():
    # Both found a; whoever is served first takes it, as nothing else is there for it.
    batch = {"query": ["?"], "negative_ids": [list("abc")]}
    batch |= {"negative_x_ranks": [[1, 0, 0]], "negative_y_ranks": [[1, 2, 3]]}
    assert len(SampleNegatives({"x": 1, "y": 2})(batch)["negative_ids"][0]) == 3
    assert {tuple(SampleNegatives({"y": 2, "x": 1}, seed=s)(batch)["negative_ids"][0]) for s in range(30)} == {
        ("a", "b"),
        ("a", "c"),
        ("a", "b", "c"),
    }


def test_nobody_makes_up_for_a_source_that_found_too_few():
    batch = fused_batch([[(1, 0, 0), *[(0, 1, 0)] * 6]])
    assert places_of(SampleNegatives({"x": 3, "y": 2})(batch))[0][0] == 0
    assert len(places_of(SampleNegatives({"x": 3, "y": 2})(batch))[0]) == 3
    assert places_of(SampleNegatives({"z": 5})(batch)) == [[]]


def test_bands_hold_both_ends():
    batch = ranked_batch([[1, 10, 11, 20, 21]])
    assert SampleNegatives({(10, 20): 9})(batch)["negative_ranks"] == [[10, 11, 20]]
    assert SampleNegatives({(7, 7): 1, (21, 21): 1})(batch)["negative_ranks"] == [[21]]


def test_bands_of_scores_and_of_a_teacher():
    batch = ranked_batch([[1, 10, 11, 20, 21]])
    for rows in (batch, Dataset.from_dict(batch)[:]):
        assert SampleNegatives({(0.8, 0.9): 9}, bands="score")(rows)["negative_ranks"] == [[10, 11, 20]]
        assert SampleNegatives({(1.0, 1.5): 9, (2.1, 2.1): 1}, bands="judge")(rows)["negative_ranks"] == [[10, 11, 21]]


def test_bands_of_single_precision_hold_their_ends():
    from datasets import Features, List, Value

    features = Features({"query": Value("string"), "negative_ids": List(Value("string"))})
    features["negative_scores"] = List(Value("float32"))
    rows = {"query": ["?"], "negative_ids": [list("abcd")], "negative_scores": [[0.1, 0.3, 0.7, 0.9]]}
    rows = Dataset.from_dict(rows, features=features)
    sampled = rows.map(SampleNegatives({(0.1, 0.3): 2, (0.7, 0.9): 2}, bands="score"), batched=True)
    assert sampled["negative_ids"][:] == [list("abcd")]


def test_one_source_for_all_draws_as_a_plain_number():
    batch = fused_batch([[(1, 0, 0)] * 12] * 5)
    for seed in range(5):
        plain, by_source = SampleNegatives(3, seed=seed), SampleNegatives({"x": 3}, seed=seed)
        assert plain(batch) == by_source(batch)


@pytest.mark.parametrize(
    ("n", "options", "name", "remedy"),
    [
        ({"x": 1, "dense": 1}, {}, "negative_dense_ranks", r"FuseNegatives\({'dense': "),
        ({(1, 2): 1}, {}, "negative_ranks", "mine first"),
        ({(1, 2): 1}, {"bands": "judge"}, "negative_judge_scores", r"CrossEncoderScores\(.*name='judge'"),
        ({"x": 1}, {"strategy": "softmax", "by": "judge"}, "negative_judge_scores", "CrossEncoderScores"),
    ],
)
def test_a_missing_column_is_named_with_its_maker(n, options, name, remedy):
    batch = fused_batch([[(1, 1, 1)]])
    with pytest.raises(KeyError, match=f"SampleNegatives needs the column '{name}'.*{remedy}"):
        SampleNegatives(n, **options)(batch)


def test_ranks_of_a_source_must_be_aligned():
    batch = fused_batch([[(1, 1, 1)] * 3]) | {"negative_x_ranks": [[1, 2]]}
    with pytest.raises(ValueError, match=r"'negative_ids' and 'negative_x_ranks' must be aligned.*3 and 2"):
        SampleNegatives({"x": 1})(batch)


@pytest.mark.parametrize(
    ("n", "error", "match"),
    [
        ({}, ValueError, "a number per source or band"),
        ({"bm25": 2, (1, 10): 2}, ValueError, "a number per source or band"),
        ({(10, 1): 2}, ValueError, r"the band \(10, 1\) is empty"),
        ({(1, 10, 20): 2}, TypeError, r"\(1, 10, 20\) is neither a source nor a band"),
        ({(1,): 2}, TypeError, r"\(1,\) is neither a source nor a band"),
        ({5: 2}, TypeError, "5 is neither a source nor a band"),
        ({None: 2}, TypeError, "None is neither a source nor a band"),
        ({("a", "b"): 2}, TypeError, r"band \('a', 'b'\) must be a number"),
        ({(1, float("nan")): 2}, ValueError, "must be a finite number"),
        ({"bm25": 0}, ValueError, r"n\['bm25'\] must be a whole number of at least 1, got 0"),
        ({(1, 10): -1}, ValueError, "must be a whole number of at least 1, got -1"),
        ({"bm25": True}, ValueError, "must be a whole number of at least 1, got True"),
        ({"bm25": 1.5}, TypeError, r"n\['bm25'\] must be a whole number, got 1.5"),
        ([("bm25", 2)], TypeError, "n must be a whole number"),
        (None, TypeError, "n must be a whole number"),
    ],
    ids=repr,
)
def test_wrong_numbers_per_source_or_band_are_refused(n, error, match):
    with pytest.raises(error, match=f"SampleNegatives: .*{match}"):
        SampleNegatives(n)


def test_bands_are_of_a_named_value():
    with pytest.raises(TypeError, match="bands must be 'rank', 'score' or a teacher's name, got 3"):
        SampleNegatives({(1, 2): 1}, bands=3)


STEPS = [
    SampleNegatives({"bm25": 2, "dense": 3}, seed=2),
    SampleNegatives({(1, 10): 2, (11, 100): 4}, strategy="softmax", temperature=0.05, by="teacher"),
    SampleNegatives({(0, 0.5): 2}, bands="teacher"),
]


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_a_step_by_source_or_band_survives_pickle_and_repr(step):
    again = pickle.loads(pickle.dumps(step))
    assert again == step == eval(repr(step))
    assert hash(again) == hash(step) == hash(eval(repr(step)))
    assert list(again.n.items()) == list(step.n.items())
    assert pickle.dumps(again) == pickle.dumps(step)


def test_steps_with_other_numbers_are_others():
    one = SampleNegatives({"bm25": 2, "dense": 3})
    assert one not in {SampleNegatives({"bm25": 3, "dense": 2}), SampleNegatives({"bm25": 2}), SampleNegatives(5)}
    assert SampleNegatives({(1, 10): 2}) == SampleNegatives({(1.0, np.float64(10)): np.int64(2)})
    assert SampleNegatives({(1, 10): 2}) != SampleNegatives({(1, 10): 2}, bands="score")


def test_equal_steps_hash_alike_whatever_the_order_of_their_sources():
    # The order decides who draws first, so these may be unequal; but what is equal must hash alike.
    one, other = SampleNegatives({"bm25": 2, "dense": 3}), SampleNegatives({"dense": 3, "bm25": 2})
    assert one != other or hash(one) == hash(other)


def test_the_numbers_are_the_steps_own():
    mine = {"bm25": 2}
    step = SampleNegatives(mine)
    before = hash(step)
    mine["dense"] = 3
    assert step.n == {"bm25": 2}
    assert hash(step) == before


def test_a_fused_query_is_sampled_by_source():
    corpus, queries = load_sample("earthquakes")
    fuse = FuseNegatives({"bm25": BM25Negatives(corpus, k=4), "random": RandomNegatives(corpus, k=6, seed=1)})
    fused = queries.map(fuse, batched=True)
    found = {name: sum(map(bool, fused[0][f"negative_{name}_ranks"])) for name in ("bm25", "random")}
    assert found == {"bm25": 4, "random": 6}
    sampled = fused.map(SampleNegatives({"bm25": 2, "random": 3}), batched=True)[0]
    assert len(sampled["negative_ids"]) == 5
    assert sum("bm25" in source.split("+") for source in sampled["negative_source"]) >= 2
    assert sum("random" in source.split("+") for source in sampled["negative_source"]) >= 3
    order = [fused[0]["negative_ids"].index(name) for name in sampled["negative_ids"]]
    assert order == sorted(order)
    for name in fused.column_names:
        if name.startswith("negative_"):
            assert sampled[name] == [fused[0][name][place] for place in order]
    hardest = SampleNegatives({"bm25": 2}, strategy="softmax", by="bm25", temperature=1e-6)
    assert sorted(fused.map(hardest, batched=True)[0]["negative_bm25_ranks"]) == [1, 2]
    with pytest.raises(KeyError, match=r"'negative_dense_ranks'.*FuseNegatives\({'dense': "):
        fused.map(SampleNegatives({"bm25": 2, "dense": 3}), batched=True)


def count_letters(pairs):
    return [float(len(passage) % 7) for _, passage in pairs]


def test_a_query_is_sampled_by_bands_of_a_teacher():
    corpus, queries = load_sample("earthquakes")
    mined = queries.map(BM25Negatives(corpus, k=8), batched=True)
    scored = mined.map(CrossEncoderScores(corpus, count_letters, "letters", fingerprint="letters-7"), batched=True)
    before = scored[0]["negative_letters_scores"]
    bands = {(0, 2): 1, (3, 6): 2}
    after = scored.map(SampleNegatives(bands, bands="letters"), batched=True)[0]["negative_letters_scores"]
    for (low, high), n in bands.items():
        inside = sum(low <= score <= high for score in before)
        assert inside
        assert sum(low <= score <= high for score in after) == min(n, inside)
