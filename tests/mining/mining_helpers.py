"""Rows and steps of the tests in this folder."""

from datasets import Dataset

from hnm_datasets import (
    BM25Negatives,
    Corpus,
    DropNearDuplicates,
    FuseNegatives,
    RandomNegatives,
    RankWindow,
    RelativeMargin,
    SampleNegatives,
    ScoreBand,
    SortNegatives,
    TeacherThreshold,
    ToLabeledLists,
    ToLabeledPairs,
    ToNTuples,
    TopNegatives,
    ToTriplets,
    pool_positives,
)

WORDS = ("plates", "waves", "move", "roll", "break", "deep", "slow", "hot")


def make_corpus():
    texts = [f"{one} {other} {number}" for number, one in enumerate(WORDS) for other in WORDS[: 3 + number % 3]]
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{place}" for place in range(len(texts))], "text": texts}))


def make_rows(size=7):
    """Rows in memory: some ask the same question, some have several positives, some have none."""
    queries = [f"why do {WORDS[place % 5]} {WORDS[(place + 3) % 5]}" for place in range(size)]
    positives = [[f"p{place * 2 + more}" for more in range(place % 4)] for place in range(size)]
    return Dataset.from_dict(
        {"query_id": [f"q{place}" for place in range(size)], "query": queries, "positive_ids": positives}
    )


def pooled_rows():
    return pool_positives(make_rows())


def miners(corpus):
    """Steps that mine, each with the name of scores that negatives and positives then have."""
    bm25, random = BM25Negatives(corpus, k=8), RandomNegatives(corpus, k=5, seed=2)
    return [(bm25, "score"), (random, "score"), (FuseNegatives({"bm25": bm25, "random": random}, k=9), "bm25")]


def middle_steps(corpus, by):
    return [
        RankWindow(2, 6),
        RelativeMargin(0.3, by=by),
        RelativeMargin(50.0, by=by),
        ScoreBand(min=0.4, by=by),
        SortNegatives(by),
        TeacherThreshold(1.2, by=by),
        TeacherThreshold(0.5, 0.9, by=by, promote=True),
        DropNearDuplicates(corpus, 0.9),
        TopNegatives(3),
        SampleNegatives(4, seed=1),
    ]


def shapes(corpus, missing):
    return [
        ToTriplets(corpus, missing=missing, with_ids=True),
        ToTriplets(corpus, n=3, positives="first", missing=missing, with_ids=True),
        ToNTuples(corpus, n=3, missing=missing, with_ids=True),
        ToLabeledPairs(corpus, n=4, missing=missing, with_ids=True),
        ToLabeledLists(corpus, n=4, missing=missing, with_ids=True),
        ToLabeledLists(corpus, n=2, positives="each", missing=missing, with_ids=True),
    ]
