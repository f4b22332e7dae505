"""A passage is known by its text with its title and without."""

import numpy as np
import pytest
from datasets import Dataset

from hnm_datasets import (
    BM25Index,
    BM25Negatives,
    Corpus,
    DenseNegatives,
    FuseNegatives,
    RandomNegatives,
    ShardedIndex,
)

QUERY = "Zoos harm the animals that live in them"
COUNTER = "A counter-argument on zoos."


def by_length(texts):
    return np.array([[1.0, len(text)] for text in texts])


def corpus_of(titles, texts):
    ids = [chr(ord("a") + place) for place in range(len(texts))]
    return Corpus.from_dataset(Dataset.from_dict({"id": ids, "title": titles, "text": texts}))


def miners(corpus):
    bm25, random = BM25Negatives(corpus, k=9), RandomNegatives(corpus, k=9)
    shards = ShardedIndex([BM25Index(corpus, shard=(number, 2)) for number in range(2)])
    return {
        "bm25": bm25,
        "random": random,
        "dense": DenseNegatives(corpus, by_length, k=9, fingerprint="length-1"),
        "fused": FuseNegatives({"bm25": bm25, "random": random}),
        "shards": BM25Negatives(corpus, k=9, index=shards),
    }


def mined(corpus, query, positives):
    rows = Dataset.from_dict({"query": [query], "positive_ids": [positives]})
    return {name: rows.map(miner, batched=True)[0]["negative_ids"] for name, miner in miners(corpus).items()}


@pytest.mark.parametrize(
    ("titles", "texts", "query", "positives"),
    [
        (["zoos", "zoos"], [QUERY, COUNTER], QUERY, ["b"]),
        (["zoos", "zoos"], [f"  {QUERY.upper()}\n", COUNTER], QUERY, ["b"]),
        (["zoos", None], [QUERY, COUNTER], QUERY.replace(" ", "\n"), ["b"]),
        # The query is a title and a text.
        (["zoos", "zoos"], ["harm the animals", COUNTER], "ZOOS harm the animals", ["b"]),
        # A title alone.
        ([QUERY, "zoos"], ["", COUNTER], QUERY, ["b"]),
        # The query's text, once with a title and once without.
        (["zoos", "zoos", None], [QUERY, COUNTER, QUERY], QUERY, ["b"]),
        # A copy of the query under another title, in another case.
        (["zoos", "zoos", "animals"], [QUERY, COUNTER, QUERY.lower()], QUERY, ["b"]),
        # The positive under another title, and without one.
        (["zoos", "parks", None], [COUNTER, COUNTER.upper(), COUNTER], QUERY, ["a"]),
        # The positive's title and text as one text.
        (["zoos", "animals"], ["harm the animals", "zoos harm the animals"], QUERY, ["a"]),
    ],
)
def test_neither_the_query_nor_a_positive_is_mined_under_another_title(titles, texts, query, positives):
    corpus = corpus_of(titles, texts)
    assert mined(corpus, query, positives) == {name: [] for name in miners(corpus)}


def test_equal_titles_and_empty_texts_make_no_copies():
    corpus = corpus_of(["zoos", "zoos", "animals", "zoos animals"], ["", "harm", "", "\n"])
    found = mined(corpus, "zoos harm animals", ["a"])
    assert {name: sorted(ids) for name, ids in found.items()} == {name: ["b", "c", "d"] for name in found}


def test_a_passage_of_another_text_stays_whatever_its_title_and_id():
    corpus = corpus_of(["zoos", QUERY], [COUNTER, "Another text on zoos and animals."])
    # Query and passage ids may coincide by numbering.
    row = Dataset.from_dict({"query_id": ["b"], "query": [QUERY], "positive_ids": [["a"]]})
    assert row.map(BM25Negatives(corpus), batched=True)["negative_ids"][:] == [["b"]]


def test_titled_passages_with_one_text_are_two_candidates():
    corpus = corpus_of(["zoos", "parks", "zoos"], ["harm animals", "harm animals", "feed animals"])
    assert sorted(mined(corpus, "do zoos and parks harm animals", ["c"])["bm25"]) == ["a", "b"]


@pytest.mark.parametrize("rows", [{"title": [f"zoo {number}" for number in range(100)]}, {"group": ["zoos"] * 100}, {}])
def test_what_is_known_to_be_excluded_needs_no_second_search(rows, monkeypatch):
    texts = ["zoos harm animals"] * 20 + [f"animals {number}" for number in range(80)]
    if "group" in rows:
        rows = {"group": ["zoos"] * 20 + [None] * 80}
        texts[:20] = [f"zoos harm animals {number}" for number in range(20)]
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": [str(row) for row in range(100)], "text": texts} | rows))
    miner = BM25Negatives(corpus, k=10, exclude_group="group" in rows)
    queries = Dataset.from_dict({"query": ["do zoos harm animals"] * 3, "positive_ids": [["0"]] * 3})
    depths = []
    search = BM25Negatives._search

    def counted(self, encoded, which, depth):
        depths.append(depth)
        return search(self, encoded, which, depth)

    monkeypatch.setattr(BM25Negatives, "_search", counted)
    found = miner(queries[:])
    assert found["negative_ranks"] == [list(range(21, 31))] * 3
    assert len(depths) == 1
    # Nothing is in the way of one that has no copies.
    depths.clear()
    miner({"query": ["animals"], "positive_ids": [["99"]]})
    assert depths == [18]
