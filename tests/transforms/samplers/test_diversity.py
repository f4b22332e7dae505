"""Candidates that are unlike each other, against plain numpy."""

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import Corpus, SampleNegatives

COUNT = 12
NAMES = [f"p{i}" for i in range(COUNT)]
VECTORS = np.random.default_rng(7).normal(size=(COUNT, 5))
# p0 and p1 are the same, p2 is at right angles to both.
VECTORS[:3] = [[1, 0, 0, 0, 0], [2, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
TEXTS = ["plates move to the north", "Plates move to the north.", "bread rises", *[f"passage {i}" for i in range(9)]]


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_dataset(Dataset.from_dict({"id": NAMES, "text": TEXTS}))


@pytest.fixture(scope="module")
def embeddings(corpus):
    by_text = dict(zip(TEXTS, VECTORS, strict=True))
    return corpus.embed(lambda texts: np.array([by_text[text] for text in texts]), fingerprint="d", similarity="dot")


def greedy(names, scores, wanted, weight):
    """Return maximal marginal relevance in plain numpy: places in `names`."""
    own = VECTORS[[NAMES.index(name) for name in names]]
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    alike, chosen = own @ own.T, []
    for members, n in wanted:
        for _ in range(n):
            free = [place for place in members if place not in chosen]
            if free:
                value = [scores[i] - weight * max((alike[i, j] for j in chosen), default=0) for i in free]
                chosen.append(free[int(np.argmax(value))])
    return sorted(chosen)


ROWS = st.lists(
    st.lists(st.sampled_from(NAMES[1:]), unique=True, max_size=11).flatmap(
        lambda names: st.tuples(st.just(names), st.permutations(np.linspace(0, 1, len(names)).tolist()))
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40)
@given(ROWS, st.integers(1, 5), st.sampled_from([0.3, 1.0, 3.0]), st.booleans())
def test_at_a_low_temperature_it_is_maximal_marginal_relevance(corpus, embeddings, rows, n, weight, banded):
    batch = {
        "query": [f"q{i}" for i in range(len(rows))],
        "negative_ids": [names for names, _ in rows],
        "negative_scores": [list(scores) for _, scores in rows],
        "negative_ranks": [list(range(1, len(names) + 1)) for names, _ in rows],
    }
    quotas = {(4, 12): n, (1, 3): 2} if banded else n
    step = SampleNegatives(
        quotas, "softmax", temperature=1e-7, diversity=weight / 1e-7, corpus=corpus, embeddings=embeddings
    )
    for (names, scores), kept in zip(rows, step(batch)["negative_ids"], strict=True):
        all_ = range(len(names))
        wanted = [([i for i in all_ if i >= 3], n), ([i for i in all_ if i < 3], 2)] if banded else [(all_, n)]
        assert kept == [names[place] for place in greedy(names, scores, wanted, weight)]


@pytest.mark.parametrize("by_text", [False, True])
def test_the_chance_falls_with_the_similarity_to_what_is_drawn(corpus, embeddings, by_text):
    rows, diversity = 20_000, 1.0
    batch = {"query": [f"q{i}" for i in range(rows)], "negative_ids": [NAMES[:3]] * rows}
    own = None if by_text else embeddings
    drawn = SampleNegatives(2, diversity=diversity, corpus=corpus, embeddings=own, seed=3)(batch)["negative_ids"]
    # Two in three begin with one of the copies, and the other copy has then e^-1 of the chance of p2.
    both = 2 / 3 * np.exp(-diversity) / (1 + np.exp(-diversity))
    assert sum(ids == ["p0", "p1"] for ids in drawn) / rows == pytest.approx(both, abs=0.012)
    assert sum(ids == ["p0", "p2"] for ids in drawn) / rows == pytest.approx((1 - both) / 2, abs=0.012)


@given(st.lists(st.lists(st.sampled_from(NAMES), max_size=9), min_size=1, max_size=70), st.integers(0, 5))
def test_it_keeps_n_in_order_and_depends_on_the_row_alone(corpus, rows, seed):
    step = SampleNegatives(3, diversity=4, corpus=corpus, seed=seed)
    batch = {"query": [f"q{i}" for i in range(len(rows))], "negative_ids": rows}
    answer = step(batch)["negative_ids"]
    for i, (before, after) in enumerate(zip(rows, answer, strict=True)):
        rest = iter(before)
        assert all(name in rest for name in after)
        assert len(after) == min(3, len(before))
        assert step({name: values[i : i + 1] for name, values in batch.items()})["negative_ids"] == [after]


def test_seeds_and_rows_differ(corpus):
    batch = {"query": [f"q{i}" for i in range(8)], "negative_ids": [NAMES] * 8}
    one, other = (SampleNegatives(3, diversity=2, corpus=corpus, seed=seed)(batch)["negative_ids"] for seed in (1, 2))
    assert one != other
    assert len({tuple(ids) for ids in one}) > 4


def test_similar_ones_are_drawn_from_one_value_too(corpus):
    rows = {"id": NAMES, "text": TEXTS, "site": ["s", "s", "s", *"abcdefghi"]}
    sites = Corpus.from_dataset(rows, columns=["site"])
    batch = {"query": [f"q{i}" for i in range(20)], "negative_ids": [NAMES[:3]] * 20}
    for ids in SampleNegatives(2, per="site", diversity=100, corpus=sites)(batch)["negative_ids"]:
        assert "p2" in ids


def test_wrong_options_are_refused(corpus, embeddings):
    with pytest.raises(ValueError, match="diversity must not be negative, got -1"):
        SampleNegatives(2, diversity=-1, corpus=corpus)
    with pytest.raises(ValueError, match="per and diversity require the passages; pass corpus="):
        SampleNegatives(2, diversity=1)
    with pytest.raises(ValueError, match="embeddings are only used with diversity="):
        SampleNegatives(2, corpus=corpus, embeddings=embeddings)
    other = Corpus.from_dataset(Dataset.from_dict({"id": ["a"], "text": ["b"]}))
    with pytest.raises(ValueError, match="the embeddings belong to another corpus"):
        SampleNegatives(2, diversity=1, corpus=other, embeddings=embeddings)
    with pytest.raises(KeyError, match=r"SampleNegatives: 'negative_ids' of .*names the passage 'zz'"):
        SampleNegatives(2, diversity=1, corpus=corpus)({"query": ["?"], "negative_ids": [["zz"]]})
