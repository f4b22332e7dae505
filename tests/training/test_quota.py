"""Negatives by source in each row, in each epoch."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import BM25Negatives, Corpus, FuseNegatives, RandomNegatives, live_negatives
from hnm_datasets.arrays.ragged import offsets_of
from hnm_datasets.training.quota import draw_by_source

WORDS = [f"w{number}" for number in range(30)]


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=6)) for _ in range(80)]
    return Corpus.from_dataset({"id": [f"p{row}" for row in range(80)], "text": texts})


@pytest.fixture(scope="module")
def mined(corpus):
    rng = np.random.default_rng(1)
    rows = Dataset.from_list(
        [
            {"query_id": f"q{row}", "query": " ".join(rng.choice(WORDS, size=3)), "positive_ids": [f"p{row}"]}
            for row in range(20)
        ]
    )
    fused = {"bm25": BM25Negatives(corpus, k=8), "random": RandomNegatives(corpus, k=8)}
    return rows.map(FuseNegatives(fused, "union"), batched=True)


@settings(max_examples=80)
@given(data=st.data(), counts=st.lists(st.integers(0, 3), min_size=1, max_size=3), seed=st.integers(0, 2))
def test_each_source_gives_what_it_can_and_others_make_up_for_it(data, counts, seed):
    rows = data.draw(st.lists(st.lists(st.integers(0, 2 ** len(counts) - 1), max_size=8), min_size=1, max_size=5))
    offsets = offsets_of(np.array([len(one) for one in rows]))
    bits = np.array([one for row in rows for one in row], dtype=np.int64)
    keys = np.arange(len(rows), dtype=np.uint64)
    keep = draw_by_source(offsets, bits, counts, keys, seed)
    for row, (start, stop) in enumerate(pairwise(offsets.tolist())):
        own, drawn = bits[start:stop], bits[start:stop][keep[start:stop]]
        assert len(drawn) == min(sum(counts), len(own))
        for place, count in enumerate(counts):
            there, found = (int((one >> place & 1).sum()) for one in (own, drawn))
            # What two sources found may have been drawn for the one before it, which leaves fewer.
            earlier = sum(counts[:place])
            assert found >= min(count, max(there - earlier, 0))
        alone = draw_by_source(np.array([0, stop - start]), own, counts, keys[row : row + 1], seed)
        assert alone.tolist() == keep[start:stop].tolist()


def sources_in(live, mined, epoch):
    """By source, how many negatives each row of an epoch has."""
    live.set_epoch(epoch)
    texts = live.source.corpus
    found = []
    for row, source in zip(live, mined, strict=True):
        names = dict(
            zip(texts.texts(texts.rows(source["negative_ids"])).to_pylist(), source["negative_source"], strict=True)
        )
        drawn = [names[row[f"negative_{number}"]] for number in range(1, 5)]
        found.append({name: sum(name in one.split("+") for one in drawn) for name in ("bm25", "random")})
    return found


def test_rows_have_their_quota_in_every_epoch(corpus, mined):
    live = live_negatives(mined, corpus, n=4, quota={"bm25": 3, "random": 1})
    for epoch in range(3):
        for one in sources_in(live, mined, epoch):
            assert one["bm25"] >= 3
            assert one["random"] >= 1


def test_a_quota_changes_with_the_epoch_and_the_last_one_stays(corpus, mined):
    live = live_negatives(mined, corpus, n=4, quota=[{"random": 4}, {"random": 2, "bm25": 2}, {"bm25": 4}])
    for epoch, (random, bm25) in enumerate([(4, 0), (2, 2), (0, 4), (0, 4)]):
        for one in sources_in(live, mined, epoch):
            assert one["random"] >= random
            assert one["bm25"] >= bm25


def test_where_a_source_is_missing_others_fill_the_row_and_a_warning_says_so(corpus, mined, caplog):
    with caplog.at_level("WARNING", "hnm_datasets"):
        live_negatives(mined, corpus, n=4, quota={"random": 3, "bm25": 1})
        assert not caplog.text
        live = live_negatives(mined, corpus, n=4, quota={"dense": 3, "bm25": 1})
    assert "the quota names 'dense', but no candidate has such a source" in caplog.text
    for one in sources_in(live, mined, 0):
        assert sum(one.values()) >= 4


def test_a_quota_of_all_candidates_is_a_draw_of_its_own(corpus, mined):
    with_quota = live_negatives(mined, corpus, n=4, quota={"bm25": 4})
    assert with_quota.source.name != live_negatives(mined, corpus, n=4).source.name
    assert with_quota.source.name != live_negatives(mined, corpus, n=4, quota={"random": 4}).source.name


@pytest.mark.parametrize(
    ("quota", "error", "match"),
    [
        ({"bm25": 3}, ValueError, "adds up to 3 .* n=4"),
        ([{"bm25": 4}, {"bm25": 5}], ValueError, "adds up to 5"),
        ({}, ValueError, "adds up to 0"),
        ([], TypeError, "quota must be"),
        ("bm25", TypeError, "quota must be"),
        ({"bm25": -1, "random": 5}, ValueError, r"quota\['bm25'\]"),
        ({"bm25": 4.0}, (TypeError, ValueError), r"quota\['bm25'\]"),
        ({"bm25+random": 4}, TypeError, "must be names of sources"),
        ({1: 4}, TypeError, "must be names of sources"),
    ],
)
def test_bad_quotas(corpus, mined, quota, error, match):
    with pytest.raises(error, match=match):
        live_negatives(mined, corpus, n=4, quota=quota)


def test_rows_without_sources_are_refused_by_name(corpus, mined):
    with pytest.raises(KeyError, match="negative_source"):
        live_negatives(mined.remove_columns("negative_source"), corpus, n=4, quota={"bm25": 4})


def test_rows_that_refreshes_mine_may_have_a_quota_too(corpus, mined):
    plain = mined.select_columns(["query_id", "query", "positive_ids"])
    live = live_negatives(plain, corpus, n=4, quota={"bm25": 4})
    assert not len(live.source.generation().negatives.values)
    assert partial(live.source.table_of, live.source.generation())(np.arange(3)).num_rows == 3
