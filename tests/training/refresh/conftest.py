import numpy as np
import pytest
from datasets import Dataset
from refresh_helpers import (
    PASSAGES,
    QUERIES,
    WORDS,
)

from hnm_datasets import (
    Corpus,
    RandomNegatives,
)


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(2, 6))) for _ in range(PASSAGES)]
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"id{row}" for row in range(PASSAGES)], "text": texts}))


@pytest.fixture(scope="module")
def queries(corpus):
    """Queries that were not mined, with 40 positives in all."""
    rng, rows = np.random.default_rng(1), []
    for query in range(QUERIES):
        own = rng.permutation(PASSAGES)[: 1 + (query % 5 < 3)]
        words = " ".join(corpus.texts(own).to_pylist()).split()
        rows.append(
            {
                "query_id": f"query{query}",
                "query": " ".join([*rng.permutation(words)[:3], str(rng.choice(WORDS))]),
                "positive_ids": [f"id{row}" for row in own],
            }
        )
    assert sum(len(row["positive_ids"]) for row in rows) == 40
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def mined(corpus, queries):
    return queries.map(RandomNegatives(corpus, k=6), batched=True)
