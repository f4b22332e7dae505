"""`map` without `batched=True` gives the same rows, and warns that it is slow."""

import pytest
from datasets import Dataset

from hnm_datasets import BM25Negatives, Corpus, RankWindow, ToTriplets


@pytest.fixture(scope="module")
def corpus():
    texts = ["plates move", "plates of food", "slow plates"]
    return Corpus.from_dataset(Dataset.from_dict({"id": ["a", "b", "c"], "text": texts}))


@pytest.fixture
def rows():
    return Dataset.from_dict({"query": [f"plates {n}" for n in range(5)], "positive_ids": [["a"]] * 5})


def test_each_map_call_warns_once(corpus, rows, caplog):
    whole = single = rows
    for step in (BM25Negatives(corpus), RankWindow(1), ToTriplets(corpus)):
        caplog.clear()
        whole = whole.map(step, batched=True, batch_size=1)
        assert not caplog.messages
        single = single.map(step)
        name = type(step).__name__
        assert caplog.messages == [
            f"{name}: map passes one row at a time, which is many times slower. Add batched=True."
        ]
    assert single.to_list() == whole.to_list()


def test_direct_calls_are_silent(corpus, rows, caplog):
    step = BM25Negatives(corpus)
    for row in range(3):
        step(rows[row : row + 1])
    rows.map(lambda row: {"size": len(step(rows[:1])["negative_ids"])})
    assert not caplog.messages
