"""Miners: whatever the corpus, the candidates are what a plain Python loop over the full list would take."""

import unicodedata

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import (
    BM25Index,
    BM25Negatives,
    Corpus,
    FuseNegatives,
    RandomNegatives,
    RunNegatives,
    SearchNegatives,
    load_sample,
)
from hnm_datasets.arrays.ragged import Ragged, offsets_of


def same(text):
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def corpus_of(texts, groups=None):
    columns = {"id": [f"p{i}" for i in range(len(texts))], "text": texts}
    return Corpus.from_dataset(Dataset.from_dict(columns | ({} if groups is None else {"group": groups})))


WORDS = st.sampled_from(["wave", "plate", "quake", "fault", "slip"])
SENTENCES = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
VARIANTS = st.sampled_from([str, str.upper, str.title, lambda text: f"  {text.replace(' ', '  ')}\n"])
TEXTS = st.builds(lambda text, variant: variant(text), SENTENCES, VARIANTS)


@st.composite
def cases(draw):
    texts = draw(st.lists(TEXTS, min_size=1, max_size=40))
    groups = draw(st.lists(st.sampled_from(["g1", "g2", "g3", None]), min_size=len(texts), max_size=len(texts)))
    n_queries = draw(st.integers(1, 4))
    own = st.sampled_from(texts) | TEXTS | st.just("nothing known")
    queries = draw(st.lists(own, min_size=n_queries, max_size=n_queries))
    ids = st.lists(st.integers(0, len(texts) - 1).map("p{}".format), max_size=4, unique=True)
    positives = draw(st.lists(ids, min_size=n_queries, max_size=n_queries))
    return texts, groups, queries, positives, draw(st.integers(1, 12)), draw(st.booleans())


def expected(texts, groups, query, positives, ranking, k, exclude_group):
    """Take the first k allowed passages of a full ranking, as [(id, rank)]."""
    place = [int(name[1:]) for name in positives]
    forbidden = {same(texts[p]) for p in place} | {same(query)}
    forbidden_groups = {groups[p] for p in place} - {None} if exclude_group else set()
    taken, seen = [], set(forbidden)
    for rank, row in enumerate(ranking, start=1):
        if same(texts[row]) in seen or groups[row] in forbidden_groups:
            continue
        seen.add(same(texts[row]))
        taken.append((f"p{row}", rank))
    return taken[:k]


def check(out, number, texts, groups, query, positives, k, exclude_group, source):
    """What must hold of any miner's answer."""
    ids = out["negative_ids"][number]
    rows = [int(name[1:]) for name in ids]
    positive_rows = [int(name[1:]) for name in positives]
    forbidden = {same(texts[row]) for row in positive_rows} | {same(query)}
    mined = [same(texts[row]) for row in rows]
    assert not set(ids) & set(positives)
    assert not set(mined) & forbidden
    assert len(set(mined)) == len(mined) <= k
    if exclude_group:
        assert not {groups[row] for row in rows} & ({groups[row] for row in positive_rows} - {None})
    ranks = out["negative_ranks"][number]
    assert ranks == sorted(set(ranks))
    assert out["negative_source"][number] == [source] * len(ids)
    assert len(out["negative_scores"][number]) == len(ranks) == len(ids)
    assert len(out["positive_scores"][number]) == len(positives)


@settings(max_examples=80, deadline=None)
@given(cases())
def test_bm25_takes_what_a_plain_loop_takes(case):
    texts, groups, queries, positives, k, exclude_group = case
    corpus = corpus_of(texts, groups)
    index = BM25Index(corpus)
    out = BM25Negatives(corpus, k=k, exclude_group=exclude_group, index=index)(
        {"query": queries, "positive_ids": positives}
    )
    full = index.search(queries, len(texts))
    for number, query in enumerate(queries):
        check(out, number, texts, groups, query, positives[number], k, exclude_group, "bm25")
        ranking = [row for row in full.rows[number].tolist() if row >= 0]
        wanted = expected(texts, groups, query, positives[number], ranking, k, exclude_group)
        ranks = out["negative_ranks"][number]
        assert list(zip(out["negative_ids"][number], ranks, strict=True)) == wanted
        assert out["negative_scores"][number] == [full.scores[number, rank - 1] for rank in ranks]
        rows = corpus.rows(positives[number])
        scores = index.score([query], Ragged(offsets_of(np.array([len(rows)])), rows))
        assert out["positive_scores"][number] == scores.tolist()
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
            place = np.flatnonzero(full.rows[number] == row)
            assert score == (full.scores[number, place[0]] if len(place) else 0)


@settings(max_examples=80, deadline=None)
@given(cases(), st.integers(0, 3))
def test_random_takes_k_whenever_the_corpus_has_them(case, seed):
    texts, groups, queries, positives, k, exclude_group = case
    corpus = corpus_of(texts, groups)
    batch = {"query": queries, "positive_ids": positives}
    out = RandomNegatives(corpus, k=k, exclude_group=exclude_group, seed=seed)(batch)
    everything = range(len(texts))
    for number, query in enumerate(queries):
        check(out, number, texts, groups, query, positives[number], k, exclude_group, "random")
        allowed = expected(texts, groups, query, positives[number], everything, len(texts), exclude_group)
        assert len(out["negative_ids"][number]) == min(k, len(allowed))
        assert set(out["negative_scores"][number]) | set(out["positive_scores"][number]) <= {0.0}
        assert all(1 <= rank <= len(texts) for rank in out["negative_ranks"][number])


@settings(max_examples=15, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_an_engine_and_a_run_give_what_a_plain_loop_takes(case, random):
    """Of lists that end somewhere; positives have the scores of the first k hits, or of the whole list of a run."""
    texts, groups, queries, positives, k, exclude_group = case
    corpus = corpus_of(texts, groups)
    rankings = {}
    for query in queries:
        rankings[query] = random.sample(range(len(texts)), random.randint(0, len(texts)))
    scores = np.linspace(9, -9, len(texts)).astype(np.float32).tolist()

    def search(asked, depth):
        found = [rankings[query][:depth] for query in asked]
        return [[f"p{row}" for row in own] for own in found], [scores[: len(own)] for own in found]

    run = {"query_id": list(rankings)}
    run["ids"], run["scores"] = search(run["query_id"], len(texts))
    batch = {"query_id": queries, "query": queries, "positive_ids": positives}
    options = {"k": k, "exclude_group": exclude_group}
    engine = SearchNegatives(corpus, search, fingerprint="sampled", **options)
    for step, source, most in ((engine, "search", k), (RunNegatives(corpus, run, **options), "run", len(texts))):
        out = step(batch)
        for number, query in enumerate(queries):
            check(out, number, texts, groups, query, positives[number], k, exclude_group, source)
            ranks = out["negative_ranks"][number]
            wanted = expected(texts, groups, query, positives[number], rankings[query], k, exclude_group)
            assert list(zip(out["negative_ids"][number], ranks, strict=True)) == wanted
            assert out["negative_scores"][number] == [scores[rank - 1] for rank in ranks]
            known = dict(zip(rankings[query][:most], scores, strict=False))
            assert out["positive_scores"][number] == [known.get(int(name[1:])) for name in positives[number]]


def test_random_depends_on_key_and_seed_and_not_on_place():
    corpus = corpus_of([f"text {i}" for i in range(100)])
    rows = Dataset.from_dict(
        {"query_id": list("abcd"), "query": ["q"] * 4, "positive_ids": [["p0"], ["p1"], [], ["p2"]]}
    )
    step = RandomNegatives(corpus, k=10, seed=3)
    together = rows.map(step, batched=True)["negative_ids"][:]
    backwards = rows.select([3, 2, 1, 0]).map(step, batched=True, batch_size=1)["negative_ids"][:]
    assert together == backwards[::-1]
    assert len({tuple(ids) for ids in together}) == 4
    assert rows.map(RandomNegatives(corpus, k=10, seed=4), batched=True)["negative_ids"][:] != together


def test_random_is_even():
    corpus = corpus_of([f"text {i}" for i in range(20)])
    step = RandomNegatives(corpus, k=2)
    out = step({"query": [f"query {i}" for i in range(4000)], "positive_ids": [["p0"]] * 4000})
    counts = np.bincount(corpus.rows([name for ids in out["negative_ids"] for name in ids]), minlength=20)
    assert counts[0] == 0
    # 8,000 draws over 19 passages: 421 each, standard deviation 19.
    assert (np.abs(counts[1:] - 421) < 100).all()


def test_exclude_group_example():
    texts = ["quake one", "quake two", "quake three", "quake four", "sea"]
    corpus = corpus_of(texts, ["d1", "d1", "d2", None, None])
    batch = {"query": ["quake"], "positive_ids": [["p0"]]}
    assert set(BM25Negatives(corpus)(batch)["negative_ids"][0]) == {"p1", "p2", "p3"}
    assert set(BM25Negatives(corpus, exclude_group=True)(batch)["negative_ids"][0]) == {"p2", "p3"}
    assert set(RandomNegatives(corpus, exclude_group=True)(batch)["negative_ids"][0]) == {"p2", "p3", "p4"}
    # A positive on its own excludes no other passage that is on its own.
    alone = {"query": ["quake"], "positive_ids": [["p3"]]}
    assert set(RandomNegatives(corpus, exclude_group=True)(alone)["negative_ids"][0]) == {"p0", "p1", "p2", "p4"}


def test_many_excluded_passages_make_the_search_go_deeper():
    texts = ["wave plate"] * 300 + [f"wave number{i}" for i in range(30)]
    corpus = corpus_of(texts)
    batch = {"query": ["wave plate fault"] * 2, "positive_ids": [["p0"], []]}
    out = BM25Negatives(corpus, k=5)(batch)
    assert out["negative_ids"][0] == [f"p{i}" for i in range(300, 305)]
    assert out["negative_ranks"][0] == [301, 302, 303, 304, 305]
    assert out["negative_ids"][1] == ["p0", "p300", "p301", "p302", "p303"]


def test_map_over_the_sample_gives_what_one_batch_gives():
    corpus, rows = load_sample()
    rows = rows.select(range(100))
    step = BM25Negatives(corpus, k=20)
    mined = rows.map(step, batched=True, batch_size=7)
    assert mined.column_names[: len(rows.column_names)] == rows.column_names
    whole = step(rows.to_dict())
    for name in whole:
        assert mined[name][:] == whole[name], name
    stream = rows.to_iterable_dataset().map(step, batched=True, batch_size=9)
    assert list(stream) == mined.to_list()


def test_an_empty_batch():
    out = BM25Negatives(corpus_of(["x y"]))({"query": [], "positive_ids": []})
    assert {name: list(values) for name, values in out.items()} == {
        "negative_ids": [],
        "negative_scores": [],
        "negative_ranks": [],
        "negative_source": [],
        "positive_scores": [],
    }


# ---- errors ------------------------------------------------------------------------------------------------------

MINERS = [BM25Negatives, RandomNegatives]


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"k": 0}, ValueError, "k must be a whole number of at least 1, got 0"),
        ({"k": True}, ValueError, "k must be a whole number of at least 1, got True"),
        ({"k": 1.5}, TypeError, r"k must be a whole number, got 1\.5"),
        ({"exclude_group": 1}, TypeError, "exclude_group must be True or False, got 1"),
        ({"exclude_group": True}, ValueError, "no groups.*group_column="),
    ],
)
def test_options_are_checked(miner, options, error, match):
    with pytest.raises(error, match=match):
        miner(corpus_of(["x y"]), **options)


@pytest.mark.parametrize("miner", MINERS)
def test_the_corpus_is_checked(miner):
    with pytest.raises(TypeError, match=rf"{miner.__name__}: corpus must be a Corpus, got Dataset"):
        miner(Dataset.from_dict({"id": ["a"], "text": ["x"]}))


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize(
    ("batch", "error", "match"),
    [
        ({"query": ["q"]}, KeyError, r"needs the column 'positive_ids'.*only \['query'\].*attach_positives.*load_beir"),
        ({"question": ["q"], "positive_ids": [["p0"]]}, KeyError, "needs the column 'query'.*rename your column"),
        (
            {"query_id": ["q1", "q2"], "query": ["a", "b"], "positive_ids": [["p0"], ["p0", "p9"]]},
            KeyError,
            "'positive_ids' of the row with query_id 'q2' names the passage 'p9'.*not among the 1 passages",
        ),
        (
            {"query": ["a", "what?"], "positive_ids": [["p0"], ["p9"]]},
            KeyError,
            r"the row with query 'what\?' names the passage 'p9'",
        ),
        (
            {"query_id": ["q1", "q2"], "query": ["a", " \n"], "positive_ids": [["p0"], ["p0"]]},
            ValueError,
            r"'query' is empty in the row with query_id 'q2'.*dataset\.filter",
        ),
        (
            {"query": ["a", None], "positive_ids": [["p0"], ["p0"]]},
            ValueError,
            "'query' is null in the row with query None",
        ),
        ({"query": [1, 2], "positive_ids": [["p0"], ["p0"]]}, TypeError, "'query' must hold strings, got int64"),
        ({"query": ["a"], "positive_ids": ["p0"]}, TypeError, "'positive_ids' must hold lists, got string"),
        (
            {"query": ["a"], "positive_ids": [[True]]},
            TypeError,
            "'positive_ids' must hold ids, which are strings or whole numbers, got bool",
        ),
        (
            {"query": ["a"], "positive_ids": [[None, "p0"]]},
            ValueError,
            "'positive_ids' holds a null in the row with query 'a'",
        ),
        ({"query": "a", "positive_ids": ["p0"]}, TypeError, "one row instead of a batch.*batched=True"),
    ],
)
def test_bad_batches_are_refused(miner, batch, error, match):
    with pytest.raises(error, match=match):
        miner(corpus_of(["x y"]))(batch)


def test_the_index_must_be_of_this_corpus():
    with pytest.raises(ValueError, match=r"index belongs to another corpus.*BM25Index\(corpus"):
        BM25Negatives(corpus_of(["x y"]), index=BM25Index(corpus_of(["z z"])))
    with pytest.raises(TypeError, match="index must be a BM25Index or a ShardedIndex of BM25Index, got str"):
        BM25Negatives(corpus_of(["x y"]), index="bm25")


def test_the_seed_is_checked():
    with pytest.raises(ValueError, match="seed must be a whole number of at least 0, got -1"):
        RandomNegatives(corpus_of(["x y"]), seed=-1)


@pytest.mark.parametrize("make", [BM25Negatives, RandomNegatives])
@pytest.mark.parametrize("count", [0, 1, 3, 5, 4000])
def test_columns_of_other_lengths_are_refused(make, count):
    step = make(corpus_of(["wave", "plate", "slip"]))
    batch = {"query": ["wave", "plate", "slip", "fault"], "positive_ids": [["p0"]] * count}
    with pytest.raises(ValueError, match=f"^{make.__name__}: the column 'positive_ids' has {count} rows"):
        step(batch)


def test_more_candidates_than_passages_are_reported_once_per_map(caplog):
    corpus = corpus_of(["wave", "plate", "slip"])
    rows = Dataset.from_dict({"query": [f"wave {n}?" for n in range(6)], "positive_ids": [["p0"]] * 6})
    bm25, random = BM25Negatives(corpus, k=100_000), RandomNegatives(corpus, k=101)
    for step, names in (
        (bm25, ["BM25Negatives: k=100,000"]),
        (random, ["RandomNegatives: k=101"]),
        (FuseNegatives({"a": bm25, "b": random}), ["BM25Negatives: k=100,000", "RandomNegatives: k=101"]),
        (BM25Negatives(corpus), []),
    ):
        caplog.clear()
        rows.map(step, batched=True, batch_size=2)
        wanted = [f"{name}, but the corpus has only 3 passages, so every row gets fewer candidates." for name in names]
        assert [record.getMessage() for record in caplog.records if "k=" in record.getMessage()] == wanted
