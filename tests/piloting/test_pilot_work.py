"""What models compute is counted alike on every machine."""

from functools import partial

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

from hnm_datasets import (
    BiEncoderScores,
    BM25Negatives,
    CrossEncoderScores,
    DenseNegatives,
    FuseNegatives,
    RandomNegatives,
    TopNegatives,
)
from hnm_datasets.piloting.strategies import Strategy, checked
from hnm_datasets.piloting.work import size_of, work_of

ROWS, REFRESHES = 1000, 4


@pytest.fixture
def count(tiny, static_model):
    """Count the work of some steps, for 120 passages and 1,000 rows."""

    def work(*steps):
        (strategy,) = checked({"x": list(steps)})
        return work_of(strategy, strategy.made(static_model), tiny[0], ROWS, REFRESHES)

    return work


def test_no_model_is_no_work(count, tiny):
    corpus, _ = tiny
    assert count() == 0
    assert count(BM25Negatives(corpus)) == 0
    assert count(RandomNegatives(corpus), TopNegatives(4)) == 0


def test_a_dense_miner_reads_passages_and_queries(count, tiny, static_model):
    corpus, _ = tiny
    dense = (120 + ROWS) * size_of(static_model)
    assert dense > 0
    assert count(DenseNegatives(corpus, static_model, k=3)) == dense
    fused = FuseNegatives({"a": BM25Negatives(corpus), "b": DenseNegatives(corpus, static_model)})
    assert count(fused) == dense


def test_a_scorer_reads_pairs(count, tiny):
    corpus, _ = tiny
    scorer = CrossEncoderScores(corpus, len, fingerprint="x")
    few, many = (count(BM25Negatives(corpus, k=k), scorer) for k in (4, 49))
    assert (few, many) == (ROWS * 5 * size_of(len), ROWS * 50 * size_of(len))
    assert count(BM25Negatives(corpus, k=49), TopNegatives(4), scorer) == few


def test_dynamic_negatives_are_mined_at_each_refresh(count, tiny, static_model):
    corpus, _ = tiny
    dense = count(DenseNegatives(corpus, static_model))
    waiting = partial(DenseNegatives, corpus, k=9)
    assert count(waiting) == REFRESHES * dense
    scorer = BiEncoderScores(corpus, static_model)
    assert count(waiting, scorer) == REFRESHES * (dense + ROWS * 10 * size_of(static_model))


def test_tables_count_by_what_is_looked_up(static_model):
    # A row of the table for each token; a matrix works as a whole.
    assert size_of(static_model) == static_model[0].embedding.embedding_dim
    assert size_of(SentenceTransformer(modules=[Dense(8, 4)], device="cpu")) == 8 * 4 + 4


def test_a_strategy_makes_what_waits_of_the_model(tiny, static_model):
    made = Strategy("x", (partial(DenseNegatives, tiny[0], k=3), TopNegatives(2)), dynamic=True).made(static_model)
    assert made == [DenseNegatives(tiny[0], static_model, k=3), TopNegatives(2)]
