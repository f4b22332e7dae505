"""The shards of a corpus searched as one: the answers of one index, to the bit, also in the steps."""

import itertools
import pickle
import sys

import new_processes
import numpy as np
import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from exhaustive import usually
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import (
    BM25Index,
    BM25Negatives,
    Corpus,
    DenseIndex,
    DenseNegatives,
    FuseNegatives,
    ShardedIndex,
    load_sample,
)
from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.transforms.miners.search import mine_candidates

METHODS = ["lucene", "robertson", "atire", "bm25l", "bm25+"]
SIMILARITIES = ["cosine", "dot", "euclidean"]
SIZE, DIMENSION = 400, 16
TABLE = np.random.default_rng(0).normal(size=(SIZE, DIMENSION)).astype(np.float32)
VECTORS = np.random.default_rng(1).normal(size=(40, DIMENSION)).astype(np.float32)


def corpus_of(texts):
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{i}" for i in range(len(texts))], "text": texts}))


def by_number(texts):
    return TABLE[[int(text.split()[-1]) for text in texts]]


def embedded(table, name, similarity="cosine", dtype="float32"):
    """Return embeddings whose vectors are the rows of a table."""
    return corpus_of([f"passage {i}" for i in range(len(table))]).embed(
        lambda texts: table[[int(text.split()[-1]) for text in texts]],
        fingerprint=name,
        similarity=similarity,
        dtype=dtype,
    )


def sharded(corpus, shards, **options):
    return ShardedIndex([BM25Index(corpus, shard=(i, shards), **options) for i in range(shards)])


def sharded_dense(embeddings, shards, **options):
    return ShardedIndex([DenseIndex(embeddings, shard=(i, shards), **options) for i in range(shards)])


def assert_same(one, other):
    for got, expected in zip(one, other, strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def as_lists(rows):
    found = rows >= 0
    return Ragged(offsets_of(found.sum(axis=1)), rows[found])


# ---- the answer of one index ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "shards"),
    usually(
        [*((method, 3) for method in METHODS), ("robertson", 1), ("bm25+", 16)],
        every=list(itertools.product(METHODS, [1, 3, 16])),
    ),
)
def test_bm25_shards_answer_as_one(method, shards):
    corpus, rows = load_sample()
    queries = [*rows["query"][::9], "disease disease the disease", "zyxwv unheard disease", "the of and", ""]
    whole = BM25Index(corpus, method=method, delta=0.7)
    index = sharded(corpus, shards, method=method, delta=0.7)
    for k in (1, 7, len(corpus) + 5):
        hits = whole.search(queries, k)
        assert_same(index.search(queries, k), hits)
    lists = as_lists(hits.rows)
    np.testing.assert_array_equal(index.score(queries, lists), hits.scores[hits.rows >= 0], strict=True)
    shuffled = Ragged(np.array([0, 0, 4, 4]), np.array([len(corpus) - 1, 0, 30, 0]))
    np.testing.assert_array_equal(index.score(queries[:3], shuffled), whole.score(queries[:3], shuffled), strict=True)


@pytest.mark.parametrize(
    "options",
    [
        {"stemmer": None, "stopwords": None},
        {"stemmer": "german", "stopwords": "german"},
        {"stopwords": ["disease", "patients"]},
        {"token_pattern": r"[a-z]"},
        {"k1": 0},
        {"b": 0},
    ],
)
def test_other_tokens_and_options(options):
    corpus, rows = load_sample()
    queries = rows["query"][::15]
    hits = BM25Index(corpus, **options).search(queries, 60)
    assert (hits.rows >= 0).any()
    assert_same(sharded(corpus, 3, **options).search(queries, 60), hits)


WORDS = st.sampled_from(["wave", "waves", "plate", "Plate", "quake", "fault", "the", "of", "slip"])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=8).map(" ".join), min_size=1, max_size=25)
QUERIES = st.lists(st.lists(WORDS | st.just("unknown"), max_size=12).map(" ".join), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(TEXTS, QUERIES, st.integers(1, 30), st.sampled_from([1, 2, 3, 16]), st.sampled_from(METHODS))
def test_any_corpus_in_any_number_of_shards(texts, queries, k, shards, method):
    corpus = corpus_of(texts)
    index = sharded(corpus, min(shards, len(texts)), method=method)
    hits = BM25Index(corpus, method=method).search(queries, k)
    assert_same(index.search(queries, k), hits)
    deeper = index.search(queries, 2 * k)
    np.testing.assert_array_equal(deeper.rows[:, :k], hits.rows)
    assert (index.score(queries, as_lists(hits.rows)) == hits.scores[hits.rows >= 0]).all()


@pytest.mark.parametrize("method", ["bm25l", "bm25+"])
def test_what_all_scores_get_on_top_does_not_reorder_them(method):
    # Long queries: so much is added to each sum that unequal sums round to equal scores.
    random = np.random.default_rng(3)
    words = np.array(["wave", "plate", "quake", "fault", "slip", "crust", "rock", "sea"])
    texts = [" ".join(random.choice(words, random.integers(1, 13))) for _ in range(80)]
    queries = [" ".join(random.choice(words, 20)) for _ in range(300)]
    corpus = corpus_of(texts)
    index = sharded(corpus, 3, method=method, delta=9.0)
    hits = BM25Index(corpus, method=method, delta=9.0).search(queries, 80)
    equal = hits.scores[:, 1:] == hits.scores[:, :-1]
    assert (equal & (hits.rows[:, 1:] < hits.rows[:, :-1]) & (hits.rows[:, 1:] >= 0)).any(), "the case does not occur"
    assert_same(index.search(queries, 80), hits)
    np.testing.assert_array_equal(index.search(queries, 5).rows, hits.rows[:, :5])


def test_shards_without_any_token():
    texts = ["the of", "wave plate", "and the", "of", "", "the plate of", "of the"]
    corpus = corpus_of([text or "!" for text in texts])
    queries = ["plate", "wave plate", "the", "quake"]
    assert_same(sharded(corpus, 7).search(queries, 4), BM25Index(corpus).search(queries, 4))
    nothing = corpus_of(["the of", "of", "and the"])
    hits = sharded(nothing, 3).search(["the plate"], 2)
    assert hits.rows.tolist() == [[-1, -1]]
    assert (hits.scores == -np.inf).all()


def test_no_queries():
    hits = sharded(corpus_of(["plates move", "waves break"]), 2).search([], 3)
    assert hits.rows.shape == hits.scores.shape == (0, 3)
    assert sharded_dense(embedded(TABLE, "table-1"), 2).search(np.empty((0, DIMENSION)), 3).rows.shape == (0, 3)


@pytest.mark.parametrize("shards", [1, 3, 16])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_dense_shards_answer_as_one(similarity, dtype, shards):
    # Every vector is there four times, in other shards.
    embeddings = embedded(np.tile(TABLE[:50], (4, 1)), "tiled", similarity, dtype)
    whole, index = DenseIndex(embeddings), sharded_dense(embeddings, shards)
    for k in (1, 30, len(embeddings) + 7):
        hits = whole.search(VECTORS, k)
        assert_same(index.search(VECTORS, k), hits)
    assert (np.diff(hits.scores[:, :200]) == 0).sum() >= 40 * 150
    lists = as_lists(hits.rows)
    np.testing.assert_array_equal(index.score(VECTORS, lists), hits.scores[hits.rows >= 0], strict=True)
    assert index.embeddings == embeddings


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 60),
    st.integers(1, 70),
    st.sampled_from([1, 2, 5, 16]),
    st.sampled_from(SIMILARITIES),
    st.sampled_from(["float32", "float16"]),
)
def test_any_vectors_in_any_number_of_shards(seed, size, k, shards, similarity, dtype):
    random = np.random.default_rng(seed)
    # Whole numbers: ties and zero distances are common.
    table = random.integers(1, 4, size=(size, 3)).astype(np.float32)
    queries = random.integers(1, 4, size=(4, 3)).astype(np.float32)
    embeddings = embedded(table, f"integers-{seed}-{size}", similarity, dtype)
    hits = DenseIndex(embeddings).search(queries, k)
    assert_same(sharded_dense(embeddings, min(shards, size)).search(queries, k), hits)


@pytest.mark.parametrize("options", [{"factory": "IVF4,Flat", "nprobe": 2}, {"factory": "HNSW8", "ef_search": 32}])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_approximate_shards_find_as_much_with_exact_scores(similarity, options):
    embeddings = embedded(TABLE, "table-1", similarity)
    best = DenseIndex(embeddings).search(VECTORS, 10)
    whole, index = DenseIndex(embeddings, **options), sharded_dense(embeddings, 3, **options)
    hits = index.search(VECTORS, 10)
    found, reference = ((one.scores >= best.scores[:, -1:]).mean() for one in (hits, whole.search(VECTORS, 10)))
    assert found >= reference - 0.1
    assert found > 0.5
    np.testing.assert_array_equal(
        DenseIndex(embeddings).score(VECTORS, as_lists(hits.rows)), hits.scores[hits.rows >= 0], strict=True
    )
    assert len(set(hits.rows[0].tolist())) == 10


# ---- in the steps ---------------------------------------------------------------------------------------------------


def dense_rows():
    queries = {"query": [f"passage {i}" for i in range(0, 60, 3)]}
    return Dataset.from_dict(queries | {"positive_ids": [[f"p{i}", f"p{i + 100}"] for i in range(0, 60, 3)]})


def dense_step(index, **options):
    return DenseNegatives(index.corpus, by_number, fingerprint="table-1", index=index, **options)


def bm25_step(index, **options):
    return BM25Negatives(index.corpus, index=index, **options)


def indexes_of():
    corpus, _ = load_sample()
    embeddings = embedded(TABLE, "table-1")
    return {
        "bm25": (BM25Index(corpus), sharded(corpus, 3)),
        "dense": (DenseIndex(embeddings), sharded_dense(embeddings, 3)),
    }


@pytest.mark.parametrize("num_proc", [None, 2])
@pytest.mark.parametrize("kind", ["bm25", "dense"])
def test_steps_mine_the_same_negatives(kind, num_proc):
    plain, shards = indexes_of()[kind]
    rows = dense_rows() if kind == "dense" else load_sample()[1].select(range(40))
    make = dense_step if kind == "dense" else bm25_step
    expected = rows.map(make(plain, k=9), batched=True)
    mined = rows.map(make(shards, k=9), batched=True, num_proc=num_proc)
    assert mined.to_dict() == expected.to_dict()
    assert all(len(scores) > 0 for scores in mined["positive_scores"])


def test_deeper_searches():
    # The best 60 are excluded, so the miner searches again and again.
    texts = ["wave plate"] * 60 + [f"wave {'rock ' * (i % 7)}" for i in range(60)]
    corpus = corpus_of(texts)
    excluded = Ragged(np.array([0, 60]), corpus.text_codes[:60])
    found = [
        mine_candidates(lambda which, depth, index=index: index.search(["wave plate"], depth), corpus, 3, excluded)
        for index in (BM25Index(corpus), sharded(corpus, 5))
    ]
    assert found[0].ranks[0] == 61
    assert_same(found[1], found[0])


def test_in_a_fused_step():
    embeddings = embedded(TABLE, "table-1")
    corpus = DenseIndex(embeddings).corpus
    fused = [
        FuseNegatives({"bm25": BM25Negatives(corpus, k=5, index=bm25), "dense": dense_step(dense, k=5)}, k=8)
        for bm25, dense in (
            (BM25Index(corpus), DenseIndex(embeddings)),
            (sharded(corpus, 4), sharded_dense(embeddings, 3)),
        )
    ]
    plain, shards = (dense_rows().map(step, batched=True).to_dict() for step in fused)
    assert plain == shards
    assert "negative_dense_ranks" in shards


def test_steps_refuse_shards_of_the_other_kind():
    indexes = indexes_of()
    bm25, dense = indexes["bm25"][1], indexes["dense"][1]
    with pytest.raises(TypeError, match="BM25Negatives: index must be a BM25Index or a ShardedIndex of BM25Index"):
        BM25Negatives(dense.corpus, index=dense)
    with pytest.raises(TypeError, match="DenseNegatives: index must be a DenseIndex or a ShardedIndex of DenseIndex"):
        dense_step(bm25)
    with pytest.raises(ValueError, match="the index belongs to another corpus"):
        BM25Negatives(dense.corpus, index=bm25)
    with pytest.raises(AttributeError, match="no embeddings"):
        _ = bm25.embeddings


def test_pickles_and_hashes(tmp_path):
    corpus, _ = load_sample()
    index = ShardedIndex(sharded(corpus, 3).shards, memory="1GB", workers=2)
    again = pickle.loads(pickle.dumps(index))
    assert again == index
    assert again.fingerprint == index.fingerprint == sharded(corpus, 3).fingerprint
    others = [sharded(corpus, 4), sharded(corpus, 3, k1=1.0), sharded(corpus, 3, stemmer=None)]
    assert len({one.fingerprint for one in [index, *others]}) == 4
    hashes = {Hasher.hash(BM25Negatives(corpus, k=3, index=sharded(corpus, 3))) for _ in range(2)}
    assert len(hashes) == 1
    assert Hasher.hash(BM25Negatives(corpus, k=3, index=others[1])) not in hashes
    script = (
        "from datasets.fingerprint import Hasher\n"
        "from hnm_datasets import BM25Index, BM25Negatives, ShardedIndex, load_sample\n"
        "corpus, _ = load_sample()\n"
        "index = ShardedIndex([BM25Index(corpus, shard=(i, 3)) for i in (2, 0, 1)])\n"
        "print(Hasher.hash(BM25Negatives(corpus, k=3, index=index)))\n"
    )
    (tmp_path / "hash.py").write_text(script)
    assert new_processes.run(tmp_path / "hash.py", log=tmp_path / "log").strip() == hashes.pop()


# ---- errors ---------------------------------------------------------------------------------------------------------


def shards_of(*places, **options):
    corpus = corpus_of(["plates move", "waves break", "rocks fall"])
    return [BM25Index(corpus, shard=place, **options) for place in places]


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: shards_of((0, 2)), ValueError, r"must be \[\(0, 1\)\], each once, got \[\(0, 2\)\].*missing"),
        (lambda: shards_of((0, 3), (2, 3)), ValueError, r"each once, got \[\(0, 3\), \(2, 3\)\]"),
        (lambda: shards_of((0, 2), (0, 2)), ValueError, r"each once, got \[\(0, 2\), \(0, 2\)\]"),
        (lambda: shards_of((0, 2), (1, 3)), ValueError, "created for another number of shards"),
        (
            lambda: [*shards_of((0, 2)), *shards_of((1, 2), k1=1, b=0)],
            ValueError,
            r"differ in k1, b\. Create all .* the same",
        ),
        (lambda: [*shards_of((0, 2)), BM25Index(load_sample()[0], shard=(1, 2))], ValueError, "differ in corpus"),
        (lambda: [*shards_of((0, 2)), DenseIndex(embedded(TABLE, "t"), shard=(1, 2))], ValueError, "differ in type"),
        (
            lambda: shards_of(None),
            ValueError,
            r"index of the whole corpus\. Create each shard with shard=\(i, n\)",
        ),
        (
            lambda: shards_of((0, 1))[0],
            TypeError,
            r"must be a list of indexes, such as \[BM25Index\(corpus, shard=",
        ),
        (list, TypeError, "shards must be a list"),
        (lambda: iter(shards_of((0, 1))), TypeError, "shards must be a list"),
        (lambda: ["bm25"], TypeError, "each shard must be a BM25Index, a DenseIndex or a SparseIndex, got str"),
    ],
)
def test_shards_are_checked(make, error, match):
    shards = make()
    with pytest.raises(error, match=match):
        ShardedIndex(shards)


def test_comparing_shards_builds_nothing(monkeypatch):
    shards = [*shards_of((0, 2)), *shards_of((1, 2), k1=0.5)]
    monkeypatch.setattr(BM25Index, "_build", lambda *_: pytest.fail("built an index to compare with"))
    with pytest.raises(ValueError, match="differ in k1"):
        ShardedIndex(shards)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"memory": "much"}, ValueError, "memory must be a number of bytes or a size such as '8GB', got 'much'"),
        ({"memory": 0}, ValueError, "memory must be a whole number of at least 1"),
        ({"memory": -5}, ValueError, "memory must be a whole number of at least 1"),
        ({"memory": 1.5}, ValueError, "memory must be a number of bytes"),
        ({"memory": True}, ValueError, "memory must be a whole number"),
        ({"memory": ["8GB"]}, ValueError, "memory must be a number of bytes"),
        ({"workers": "dask"}, ValueError, "workers must be a number of processes or 'ray', got 'dask'"),
        ({"workers": 0}, ValueError, "workers must be a whole number of at least 1"),
        ({"workers": 1.5}, TypeError, "workers must be a whole number"),
        ({"workers": True}, ValueError, "workers must be a whole number"),
    ],
)
def test_options_are_checked(options, error, match):
    with pytest.raises(error, match=match):
        ShardedIndex(shards_of((0, 1)), **options)


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"^ShardedIndex: workers='ray' needs Ray\. To install it: pip install"):
        ShardedIndex(shards_of((0, 1)), workers="ray")


def test_sizes_and_orders_of_shards():
    assert ShardedIndex(shards_of((0, 1)), "8GB").memory == 8 * 10**9
    index = ShardedIndex(shards_of((1, 3), (2, 3), (0, 3)))
    assert [shard.shard for shard in index.shards] == [(0, 3), (1, 3), (2, 3)]
    assert index == ShardedIndex(shards_of((0, 3), (1, 3), (2, 3)))
    assert index.corpus == index.shards[0].corpus
