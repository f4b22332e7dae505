"""Exact search by quick products and bounds finds what scoring every pair exactly finds, to the bit."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets.indexes import device_search, exact
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.bounds import BLOCK, OUTPUT, Blocks, as_products, query_factors, widths
from hnm_datasets.indexes.candidates import Known, find
from hnm_datasets.indexes.quantized import Quantized, write
from hnm_datasets.indexes.quick import quick_products

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
    for quick in ({"int8", "bfloat16"}, {"bfloat16"}, set()):
        monkeypatch.setattr(exact, "quick_products", lambda quick=quick: quick)
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
    dimension=st.sampled_from([1, 2, 8, 16, 65]),
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
        torch.from_numpy(part).to(dtype)
        for part in (query_factors(queries, similarity), as_products(vectors, similarity))
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


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    dimension=st.sampled_from([1, 3, 64, 300]),
    changes=st.lists(st.sampled_from(CHANGES), max_size=2),
    shift=st.sampled_from([0, 1, 100]),
)
def test_products_of_whole_numbers_are_within_the_bound(seed, dimension, changes, shift):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(70, dimension)).astype(np.float32)
    for change in changes:
        change(random, vectors)
    vectors += np.float32(shift)
    queries = random.normal(size=(5, dimension)).astype(np.float32)
    quantized = Quantized.of(vectors)
    asked = quantized.encode(queries)
    products = asked.vectors.astype(np.int64) @ quantized.vectors.astype(np.int64).T
    scores = asked.constants[:, None] + asked.scales[:, None] * quantized.scales[0] * products
    exactly = every_pair(queries, vectors, len(vectors), "dot")
    expected = np.empty_like(scores)
    np.put_along_axis(expected, exactly.rows, exactly.scores.astype(np.float64), axis=1)
    assert (np.abs(scores - expected) <= asked.widths).all()
    if not changes and dimension >= 64 and not shift:
        scale = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors, axis=1).max()
        assert (asked.widths < 0.04 * scale).all(), "a bound that holds for everything excludes nothing"


def test_the_same_is_read_from_a_folder(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(2 * BLOCK + 3, 5)).astype(np.float16)
    assert sum(write(vectors, tmp_path)) == len(vectors)
    made, opened = Quantized.of(vectors), Quantized.open(tmp_path)
    for name in ("vectors", "mean", "scales", "errors", "norms", "lengths"):
        np.testing.assert_array_equal(getattr(made, name), getattr(opened, name))


def candidates_of(queries, vectors, k, way):
    def rank(which, rows, counts):
        return exact.rank(queries[which], vectors, rows, counts, k, "cosine")

    return find(queries, Known(vectors, "cosine"), k, way, rank)


def clustered(random, size, dimension, centers):
    return unit(centers[random.integers(len(centers), size=size)] + random.normal(size=(size, dimension)))


@pytest.mark.parametrize(("way", "most"), [("int8", 400), ("bfloat16", 220), ("float32", 101)])
def test_few_are_scored_again(way, most):
    random = np.random.default_rng(0)
    centers = random.normal(size=(40, 128)) * 2
    vectors, queries = (clustered(random, size, 128, centers) for size in (20_000, 20))
    kept = candidates_of(queries, vectors, 100, way)
    assert 100 <= kept.counts.min() <= kept.counts.mean() <= most


def test_vectors_that_point_in_one_direction_are_told_apart():
    random = np.random.default_rng(0)
    centers = random.normal(size=(40, 128)) * 4 + 40 * random.normal(size=128)
    vectors, queries = (clustered(random, size, 128, centers) for size in (20_000, 20))
    assert (vectors[:50] @ vectors[:50].T).min() > 0.95
    widths_ = Quantized.of(vectors).encode(queries).widths.max(axis=1)
    # Products in bfloat16 keep what all of them have in common.
    assert (widths_ < widths(queries, Blocks.of(vectors, "cosine"), "cosine", rounded=True).max(axis=1)).all()


def test_each_way_is_tried_and_then_the_quickest_is_taken():
    known, quick = Known(np.zeros((5, 8), dtype=np.float32), "cosine"), frozenset({"int8", "bfloat16"})
    seconds, taken = {"int8": iter([9.0, 8.0, 1.0, 3.0]), "bfloat16": iter([2.0, 2.0, 2.0, 2.0])}, []
    for _ in range(8):
        taken.append(known.way(10, quick))
        known.note(taken[-1], 10, next(seconds[taken[-1]]))
    assert taken.count("int8") == taken.count("bfloat16") == 4
    # The first calls compile.
    assert known.way(10, quick) == "int8"
    known.note("int8", 10, 99.0)
    assert known.way(10, quick) == "int8"
    assert known.way(100, quick) == "int8"
    assert known.way(10, frozenset()) == "float32"
    assert Known(known.vectors, "euclidean").way(10, quick) == "bfloat16"
    assert Known(np.zeros((5, 1), dtype=np.float32), "dot").way(10, quick) == "bfloat16"


@pytest.mark.parametrize("way", ["int8", "bfloat16", "float32"])
def test_numbers_that_leave_no_digits_to_others(way):
    random = np.random.default_rng(0)
    vectors = unit(random.normal(size=(3000, 64)))
    vectors[:, 0] = random.choice([-9, 9], size=len(vectors))
    queries = unit(random.normal(size=(20, 64)))
    queries[:, 0] = 0
    kept = candidates_of(queries, vectors, 10, way)
    rows, _ = every_pair(queries, vectors, 10, "cosine")
    for line, (found, count) in enumerate(zip(kept.rows, kept.counts, strict=True)):
        assert set(rows[line]) <= set(found[:count].tolist())


def test_the_quick_products_of_this_machine_are_right_and_known():
    assert quick_products() <= {"int8", "bfloat16"}
    quick_products.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(torch, "_int_mm")
        assert "int8" not in quick_products()
    quick_products.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        # As instructions do that add pairs of products in 16 bits.
        cut = lambda one, other, out: out.copy_((one.long() @ other.long()).clamp(-(2**15), 2**15 - 1))  # noqa: E731
        patch.setattr(torch, "_int_mm", cut)
        assert "int8" not in quick_products()
    quick_products.cache_clear()


def test_a_device_is_sure_of_nearly_all(monkeypatch):
    monkeypatch.setattr(device_search, "_PART", 4 * BLOCK)
    random = np.random.default_rng(0)
    vectors, queries = random.normal(size=(5000, 64)), random.normal(size=(50, 64))
    assert assert_exact(unit(queries), unit(vectors), 20, "cosine", monkeypatch) == 50
