"""Exact search by quick products and bounds finds what scoring every pair exactly finds, to the bit."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets.indexes import device_search, exact
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.bounds import BLOCK, OUTPUT, Blocks, as_asked, as_products, widths

SIMILARITIES = ["cosine", "dot", "euclidean"]


def unit(vectors):
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)


def every_pair(queries, vectors, k, similarity):
    """Score every pair as `rank` does, without a bound."""
    found = np.tile(np.arange(len(vectors)), (len(queries), 1))
    return exact.rank(queries, vectors, found, np.full(len(queries), len(vectors)), k, similarity)


def assert_exact(queries, vectors, k, similarity, monkeypatch):
    rows, scores = every_pair(queries, vectors, k, similarity)
    for fast in (True, False):
        monkeypatch.setattr(exact, "has_fast_bfloat16", lambda fast=fast: fast)
        found = exact.search(queries, vectors, k, similarity)
        np.testing.assert_array_equal(found.rows, rows)
        np.testing.assert_array_equal(found.scores.view(np.uint32), scores.view(np.uint32))
    blocks, hits = Blocks.of(vectors, similarity), Hits(np.full_like(rows, -2), np.zeros_like(scores))
    with ThreadPoolExecutor(2) as pool:
        unsure = exact.search_on_device(queries, vectors, similarity, blocks, "cpu", hits, pool)
    sure = np.setdiff1d(np.arange(len(queries)), unsure)
    np.testing.assert_array_equal(hits.rows[sure], rows[sure])
    np.testing.assert_array_equal(hits.scores[sure].view(np.uint32), scores[sure].view(np.uint32))
    return len(sure)


def ties(random, vectors):
    vectors[random.integers(len(vectors), size=len(vectors) // 2)] = vectors[0]


def near_ties(random, vectors):
    """Differences in the last places of float32, which bfloat16 cannot tell."""
    chosen = random.integers(len(vectors), size=len(vectors) // 2)
    noise = random.normal(size=(len(chosen), vectors.shape[1]))
    vectors[chosen] = vectors[0] * (1 + noise * 2.0 ** -random.integers(12, 25))


def zeros(random, vectors):
    vectors[random.integers(len(vectors), size=len(vectors) // 2)] = 0


def denormal(random, vectors):
    vectors *= 10.0 ** -random.integers(15, 24)


def outliers(random, vectors):
    chosen = random.integers(len(vectors), size=1 + len(vectors) // 100)
    vectors[chosen] *= 10.0 ** random.integers(1, 12)


def one_sign(random, vectors):
    np.abs(vectors, out=vectors)


def constant(random, vectors):
    vectors[...] = vectors[0, 0]


CHANGES = [ties, near_ties, zeros, denormal, outliers, one_sign, constant]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 2 * BLOCK + 300),
    dimension=st.sampled_from([1, 2, 5, 16, 65]),
    k=st.sampled_from([1, 3, 10, 60]),
    similarity=st.sampled_from(SIMILARITIES),
    dtype=st.sampled_from(["float32", "float16"]),
    changes=st.lists(st.sampled_from(CHANGES), max_size=3),
    negated=st.booleans(),
)
def test_search_finds_what_scoring_every_pair_finds(seed, size, dimension, k, similarity, dtype, changes, negated):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(size, dimension)).astype(np.float32)
    queries = random.normal(size=(3, dimension)).astype(np.float32)
    for change in changes:
        change(random, vectors)
    queries[0] = -vectors[0] if negated else vectors[0]
    if similarity == "cosine":
        vectors, queries = unit(vectors), unit(queries)
    if dtype == "float16":
        vectors = np.clip(vectors, -60_000, 60_000)
    with pytest.MonkeyPatch.context() as patch:
        assert_exact(queries, vectors.astype(dtype), k, similarity, patch)


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
@pytest.mark.parametrize("scale", [1e18, 1e19, 3e19, 1e37])
def test_sums_that_may_overflow_are_scored_one_by_one(similarity, scale, monkeypatch):
    random = np.random.default_rng(3)
    vectors = random.normal(size=(BLOCK + 40, 8)).astype(np.float32)
    vectors[::3] *= np.float32(scale)
    queries = np.concatenate([vectors[:2], vectors[1:3] / np.float32(scale)])
    assert_exact(queries, vectors, 7, similarity, monkeypatch)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_more_equal_vectors_than_are_kept(similarity, monkeypatch):
    vectors = unit(np.random.default_rng(5).normal(size=(8, 6)))[np.arange(6 * BLOCK) % 8 // 7]
    assert_exact(vectors[[0, 7]], vectors, 3, similarity, monkeypatch)


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    dimension=st.sampled_from([1, 3, 64, 300]),
    similarity=st.sampled_from(SIMILARITIES),
    changes=st.lists(st.sampled_from(CHANGES), max_size=2),
    rounded=st.booleans(),
)
def test_products_are_within_the_bound(seed, dimension, similarity, changes, rounded):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(70, dimension)).astype(np.float32)
    for change in changes:
        change(random, vectors)
    queries = random.normal(size=(5, dimension)).astype(np.float32)
    dtype = torch.bfloat16 if rounded else torch.float32
    left, right = (
        torch.from_numpy(part).to(dtype) for part in (as_asked(queries, similarity), as_products(vectors, similarity))
    )
    product = torch.mm(left, right.T).double().numpy()
    wide, deep = queries.astype(np.float64), vectors.astype(np.float64)
    expected = wide @ deep.T
    if similarity == "euclidean":
        expected -= (deep**2).sum(axis=1) / 2
    allowed = widths(queries, Blocks.of(vectors, similarity), similarity, rounded=rounded)
    allowed = allowed + np.abs(product) * (OUTPUT if rounded else 0)
    assert (np.abs(product - expected) <= allowed).all()
    if not changes and dimension >= 64 and similarity != "euclidean":
        scale = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors, axis=1).max()
        assert (allowed < 0.02 * scale).all(), "a bound that holds for everything excludes nothing"


def test_few_are_scored_again():
    random = np.random.default_rng(0)
    vectors, queries = unit(random.normal(size=(20_000, 128))), unit(random.normal(size=(20, 128)))
    blocks = Blocks.of(vectors, "cosine")
    for rounded, most in ((True, 300), (False, 101)):
        kept = exact._found(queries, vectors, 100, "cosine", blocks, rounded=rounded)
        assert 100 <= kept.counts.min() <= kept.counts.max() <= most


def test_a_device_is_sure_of_nearly_all(monkeypatch):
    monkeypatch.setattr(device_search, "_PART", 4 * BLOCK)
    random = np.random.default_rng(0)
    vectors, queries = random.normal(size=(5000, 64)), random.normal(size=(50, 64))
    assert assert_exact(unit(queries), unit(vectors), 20, "cosine", monkeypatch) == 50
