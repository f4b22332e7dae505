"""Dense search: exact as numpy has it, the same to the bit however it is asked, and FAISS indexes with exact scores."""

import pickle

import datasets
import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import Corpus, DenseIndex
from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.indexes import dense as dense_module
from hnm_datasets.indexes import exact
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.storage.manifest import is_complete
from hnm_datasets.storage.opened import Opened

SIMILARITIES = ["cosine", "dot", "euclidean"]
SIZE, DIMENSION = 400, 16
TABLE = np.random.default_rng(0).normal(size=(SIZE, DIMENSION)).astype(np.float32)
QUERIES = np.random.default_rng(1).normal(size=(60, DIMENSION)).astype(np.float32)


def by_number(texts):
    return TABLE[[int(text.split()[-1]) for text in texts]]


def corpus_of(size):
    numbers = range(size)
    return Corpus.from_dataset(
        Dataset.from_dict({"id": [f"p{i}" for i in numbers], "text": [f"passage {i}" for i in numbers]})
    )


def embedded(similarity="cosine", dtype="float32", size=SIZE):
    return corpus_of(size).embed(by_number, fingerprint="table-1", similarity=similarity, dtype=dtype)


def reference(queries, vectors, similarity):
    # numpy 2.1 makes a number of an array of one number with np.float64().
    queries, vectors = (np.asarray(one, dtype=np.float64) for one in (queries, vectors))
    if similarity == "euclidean":
        return -np.sqrt(((queries[:, None] - vectors[None]) ** 2).sum(axis=2))
    return queries @ vectors.T


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def as_lists(rows):
    found = rows >= 0
    return Ragged(offsets_of(found.sum(axis=1)), rows[found])


# ---- exact search ----------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 700),
    st.sampled_from([1, 2, 3, 7, 16, 33]),
    st.integers(1, 120),
    st.integers(1, 9),
    st.sampled_from(SIMILARITIES),
    st.sampled_from(["float32", "float16"]),
    st.booleans(),
)
def test_exact_search_is_what_numpy_finds(seed, size, dimension, k, asked, similarity, dtype, repeated):
    random = np.random.default_rng(seed)
    vectors, queries = random.normal(size=(size, dimension)), random.normal(size=(asked, dimension))
    if repeated:
        vectors = vectors[random.integers(max(1, size // 4), size=size)]
    if similarity == "cosine":
        vectors, queries = unit(vectors), unit(queries)
    vectors, queries = vectors.astype(dtype), queries.astype(np.float32)
    rows, scores = exact.search(queries, vectors, k, similarity)
    assert rows.shape == scores.shape == (asked, k)
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
    expected = reference(queries, vectors, similarity)
    found = min(k, size)
    assert (rows[:, found:] == -1).all()
    assert (scores[:, found:] == -np.inf).all()
    rows, scores = rows[:, :found], scores[:, :found]
    assert all(len(set(line)) == found for line in rows.tolist())
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(scores, np.take_along_axis(expected, rows, axis=1), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :found], atol=1e-5, rtol=1e-5)
    assert (np.diff(rows, axis=1)[np.diff(scores, axis=1) == 0] > 0).all()


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("copies", [3, 15, 40, 1000])
def test_equal_vectors_come_in_the_order_of_the_corpus(similarity, copies):
    vectors = unit(np.random.default_rng(5).normal(size=(1100, 8))).astype(np.float32)
    places = np.sort(np.random.default_rng(6).choice(len(vectors), copies, replace=False))
    vectors[places] = vectors[places[0]]
    rows, scores = exact.search(vectors[places[:1]], vectors, 20, similarity)
    first = places[:20].tolist()
    assert rows[0, : len(first)].tolist() == first
    assert len(set(scores[0, : len(first)].tolist())) == 1


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 1500),
    st.integers(1, 40),
    st.sampled_from(SIMILARITIES),
    st.sampled_from(["float32", "float16"]),
    st.sampled_from([1, 2, 50]),
)
def test_deeper_searches_begin_with_shallower_ones(seed, size, k, similarity, dtype, copies):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(-(-size // copies), 12))
    vectors = vectors[random.integers(len(vectors), size=size)].astype(dtype)
    queries = random.normal(size=(3, 12)).astype(np.float32)
    shallow, deep = (exact.search(queries, vectors, depth, similarity) for depth in (k, 2 * k + 5))
    np.testing.assert_array_equal(shallow.rows, deep.rows[:, :k])
    np.testing.assert_array_equal(shallow.scores, deep.scores[:, :k])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_batch_does_not_change_a_bit(similarity, dtype):
    index = DenseIndex(embedded(similarity, dtype))
    whole = index.search(QUERIES, 30)
    for size in (1, 7):
        parts = [index.search(QUERIES[start : start + size], 30) for start in range(0, len(QUERIES), size)]
        np.testing.assert_array_equal(np.concatenate([part.rows for part in parts]), whole.rows)
        np.testing.assert_array_equal(np.concatenate([part.scores for part in parts]), whole.scores)


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_scores_are_those_of_the_search_to_the_bit(similarity, dtype, factory):
    index = DenseIndex(embedded(similarity, dtype), factory)
    hits = index.search(QUERIES, 30)
    scores = index.score(QUERIES, as_lists(hits.rows))
    np.testing.assert_array_equal(scores, hits.scores[hits.rows >= 0], strict=True)
    expected = reference(QUERIES, index.embeddings.vectors, similarity)
    found = np.where(hits.rows >= 0, hits.rows, 0)
    np.testing.assert_allclose(
        scores, np.take_along_axis(expected, found, axis=1)[hits.rows >= 0], atol=1e-5, rtol=1e-5
    )


def test_scores_of_lists_of_any_length():
    index = DenseIndex(embedded("dot"))
    lists = Ragged(np.array([0, 0, 3, 4]), np.array([5, 5, 0, 399]))
    expected = reference(QUERIES, TABLE, "dot")
    np.testing.assert_allclose(index.score(QUERIES[:3], lists), expected[[1, 1, 1, 2], [5, 5, 0, 399]], atol=1e-5)
    nothing = index.score(QUERIES[:2], Ragged(np.zeros(3, dtype=np.int64), np.empty(0, dtype=np.int64)))
    assert nothing.shape == (0,)
    assert nothing.dtype == np.float32


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "HNSW16"])
def test_more_places_than_passages_stay_empty(factory):
    index = DenseIndex(embedded(size=9), factory)
    hits = index.search(QUERIES[:2], 12)
    assert hits.rows.shape == hits.scores.shape == (2, 12)
    assert (hits.rows[:, 9:] == -1).all()
    assert ((hits.rows == -1) == (hits.scores == -np.inf)).all()
    if factory == "Flat":
        assert np.sort(hits.rows[:, :9]).tolist() == [list(range(9))] * 2


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "HNSW16"])
def test_no_queries(factory):
    hits = DenseIndex(embedded(), factory).search(np.empty((0, DIMENSION), dtype=np.float32), 3)
    assert hits.rows.shape == hits.scores.shape == (0, 3)


# ---- approximate search ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize(
    ("factory", "options"),
    [("IVF16,Flat", {"nprobe": 16}), ("HNSW16", {"ef_search": 200}), ("IVF4,SQ8", {"nprobe": 4})],
)
def test_a_wide_approximate_search_agrees_with_the_exact_one(similarity, dtype, factory, options):
    embeddings = embedded(similarity, dtype)
    exactly, roughly = DenseIndex(embeddings), DenseIndex(embeddings, factory, **options)
    best, found = exactly.search(QUERIES, 40), roughly.search(QUERIES, 40)
    if "SQ" not in factory:
        shared = [len(set(a) & set(b)) / 40 for a, b in zip(best.rows.tolist(), found.rows.tolist(), strict=True)]
        assert np.mean(shared) > 0.95
        assert roughly.recall(QUERIES, 40) == pytest.approx(np.mean(shared), abs=0.02)
    np.testing.assert_array_equal(exactly.score(QUERIES, as_lists(found.rows)), found.scores[found.rows >= 0])
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_recall():
    embeddings = embedded()
    assert DenseIndex(embeddings).recall(QUERIES, 20) == 1.0
    few, all_ = (DenseIndex(embeddings, "IVF16,Flat", nprobe=n).recall(QUERIES, 20) for n in (1, 16))
    assert 0 < few < 0.9
    assert all_ > 0.99
    assert DenseIndex(embeddings).recall(QUERIES, 10_000) == 1.0


class Searched:
    """Answers a batch of query numbers with what an index finds."""

    def __init__(self, index):
        self.index = index

    def __call__(self, rows):
        hits = self.index.search(QUERIES[rows["number"]], 10)
        return {"rows": hits.rows.tolist(), "scores": hits.scores.tolist()}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "HNSW16"])
def test_processes_search_an_index_that_was_used_before_they_forked(factory):
    index = DenseIndex(embedded(), factory)
    before = index.search(QUERIES, 10)
    numbers = Dataset.from_dict({"number": list(range(len(QUERIES)))})
    found = numbers.map(Searched(index), batched=True, batch_size=20, num_proc=2, load_from_cache_file=False)
    assert found["rows"][:] == before.rows.tolist()
    assert found["scores"][:] == before.scores.tolist()
    after = index.search(QUERIES, 10)
    np.testing.assert_array_equal(after.rows, before.rows)


# ---- on disk ---------------------------------------------------------------------------------------------------------


def test_an_index_is_built_once_and_opened_again(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    embeddings = embedded(size=300)
    index = DenseIndex(embeddings, "IVF8,Flat", nprobe=3)
    folder = cache_root() / "dense" / index._built
    assert not folder.parent.exists(), "it is built when it is needed"
    index.prepare()
    assert is_complete(folder)
    before = index.search(QUERIES, 5)

    def fail(*_):
        raise RuntimeError("built again")

    monkeypatch.setattr(dense_module, "_OPENED", Opened())
    monkeypatch.setattr(DenseIndex, "_build", fail)
    index.prepare()
    again = DenseIndex(embeddings, "IVF8,Flat", nprobe=np.int64(3))
    assert again == index
    assert again.fingerprint == index.fingerprint
    np.testing.assert_array_equal(again.search(QUERIES, 5).rows, before.rows)
    monkeypatch.setattr(dense_module, "_OPENED", Opened())
    unpickled = pickle.loads(pickle.dumps(index))
    assert len(pickle.dumps(index)) < 1024
    np.testing.assert_array_equal(unpickled.search(QUERIES, 5).scores, before.scores)
    # How it is searched does not make it another index.
    wide = DenseIndex(embeddings, "IVF8,Flat", nprobe=8)
    assert wide.fingerprint != index.fingerprint
    assert wide.recall(QUERIES, 5) > again.recall(QUERIES, 5)
    np.testing.assert_array_equal(index.search(QUERIES, 5).rows, before.rows)
    other = DenseIndex(embeddings, "IVF9,Flat")
    for use in (other.prepare, lambda: other.search(QUERIES, 5), lambda: other.recall(QUERIES, 5)):
        with pytest.raises(RuntimeError, match="built again"):
            use()


def test_the_first_search_builds(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    index = DenseIndex(embedded(size=300), "HNSW8")
    assert not (cache_root() / "dense").exists()
    index.search(QUERIES, 5)
    assert is_complete(cache_root() / "dense" / index._built)


def test_an_index_that_was_cut_short_is_built_again(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    embeddings = embedded(size=300)
    index = DenseIndex(embeddings, "HNSW8")
    before = index.search(QUERIES, 5)
    (path,) = (cache_root() / "dense").glob("*/index.faiss")
    size = path.stat().st_size
    monkeypatch.setattr(dense_module, "_OPENED", Opened())
    path.write_bytes(path.read_bytes()[: size // 2])
    again = DenseIndex(embeddings, "HNSW8")
    again.prepare()
    assert path.stat().st_size == size
    assert (again.search(QUERIES, 5).scores[:, 0] == before.scores[:, 0]).mean() > 0.9


def test_an_exact_index_of_many_vectors_writes_their_numbers_in_a_byte_each(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(dense_module, "_SMALL", 0)
    for module in (dense_module, exact):
        monkeypatch.setattr(module, "quick_products", lambda: frozenset({"int8"}))
    index = DenseIndex(embedded())
    queries, vectors = QUERIES, index.embeddings.vectors
    index.prepare()
    (folder,) = (path for path in (cache_root() / "dense").iterdir() if path.is_dir())
    assert (folder / "vectors.npy").stat().st_size < vectors.nbytes / 3
    assert index.nbytes > vectors.nbytes + vectors.size
    expected = exact.search(queries, vectors, 9, "cosine")
    found = index.search(queries, 9)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.scores, expected.scores)
    index.discard()
    assert not folder.exists()


def test_the_exact_index_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    index = DenseIndex(embedded(size=20))
    index.prepare()
    index.search(QUERIES, 2)
    assert not (cache_root() / "dense").exists()


def test_every_option_is_in_the_fingerprint():
    options = [
        (embedded(), "Flat", {}),
        (embedded("dot"), "Flat", {}),
        (embedded(dtype="float16"), "Flat", {}),
        (embedded(), "IVF8,Flat", {}),
        (embedded(), "IVF8,Flat", {"nprobe": 2}),
        (embedded(), "IVF8,Flat", {"training_size": 100}),
        (embedded(), "HNSW8", {}),
        (embedded(), "HNSW8", {"ef_search": 2}),
    ]
    assert len({DenseIndex(one, factory, **given).fingerprint for one, factory, given in options}) == len(options)


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factory", "options", "error", "match"),
    [
        ("Magic9", {}, ValueError, r"cannot create the index 'Magic9'.*Common choices are 'Flat', 'HNSW32'"),
        (
            "IVF8,PQ7",
            {},
            ValueError,
            r"'IVF8,PQ7' for vectors of dimension 16.*number after PQ must divide the dimension",
        ),
        (
            "IVF500,Flat",
            {},
            ValueError,
            r"has 500 inverted lists\. Training needs at least as many vectors.*only 400.*fewer lists.*'Flat'",
        ),
        ("IVF64,Flat", {"training_size": 50}, ValueError, "64 inverted lists.*but there are only 50"),
        (
            "HNSW16",
            {"nprobe": 4},
            ValueError,
            "'HNSW16' does not support nprobe. nprobe is for IVF indexes, ef_search for HNSW",
        ),
        ("IVF16,Flat", {"ef_search": 40}, ValueError, "'IVF16,Flat' does not support ef_?[sS]earch"),
        ("Flat", {"nprobe": 2}, ValueError, "nprobe has no effect on the exact index 'Flat'; remove it"),
        ("Flat", {"ef_search": 2}, ValueError, "ef_search has no effect on the exact index"),
        ("Flat", {"training_size": 200}, ValueError, "training_size has no effect on the exact index"),
        ("IVF16,Flat", {"nprobe": 0}, ValueError, "nprobe must be a whole number of at least 1, got 0"),
        ("HNSW16", {"ef_search": 1.5}, TypeError, r"ef_search must be a whole number, got 1\.5"),
        (16, {}, TypeError, "factory must be a string such as 'IVF256,Flat', got 16"),
    ],
)
def test_options_are_checked(factory, options, error, match, monkeypatch):
    embeddings = embedded()
    monkeypatch.setattr(DenseIndex, "_build", lambda *_: pytest.fail("built to be checked"))
    with pytest.raises(error, match=match):
        DenseIndex(embeddings, factory, **options)


def test_options_are_named_as_they_were_given():
    with pytest.raises(ValueError, match="does not support ef_search"):
        DenseIndex(embedded(), "IVF16,Flat", ef_search=40)


def test_embeddings_are_checked():
    with pytest.raises(TypeError, match=r"embeddings must be Embeddings, got ndarray.*corpus\.embed\(model\)"):
        DenseIndex(TABLE)
    with pytest.raises(TypeError, match=r"embeddings must be Embeddings, got Corpus"):
        DenseIndex(corpus_of(5))


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat"])
def test_query_vectors_are_checked(factory):
    index = DenseIndex(embedded(), factory)
    for wrong in (QUERIES[:, :8], QUERIES[0], QUERIES[None]):
        with pytest.raises(ValueError, match=r"must be vectors of shape \(B, 16\).*with the model of the embeddings"):
            index.search(wrong, 3)
    for bad in (np.nan, np.inf):
        queries = QUERIES[:4].copy()
        queries[2, 5] = bad
        with pytest.raises(ValueError, match="the query vector 2 contains NaN or infinite values"):
            index.search(queries, 3)
        with pytest.raises(ValueError, match="the query vector 2 contains NaN"):
            index.score(queries, Ragged(np.array([0, 1, 1, 1, 1]), np.array([0])))
