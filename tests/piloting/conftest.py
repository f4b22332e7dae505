import pytest
from datasets import Dataset
from pilot_helpers import QUICK, make_strategies

from hnm_datasets import Corpus, load_sample, pilot

WORDS = ["plate", "wave", "bread", "stone", "river", "cloud", "metal", "grass"]


@pytest.fixture(scope="module", autouse=True)
def _fast(fast_trainers):
    """Train as quickly as tests do."""


@pytest.fixture(scope="session")
def sample():
    """The corpus and the rows of the embedded sample."""
    return load_sample()


@pytest.fixture(scope="session")
def found(sample):
    """What a pilot of four strategies found."""
    return pilot(sample[1], sample[0], make_strategies(sample[0]), **QUICK)


@pytest.fixture(scope="session")
def tiny():
    """A corpus of 120 passages, and 60 rows with a positive each."""
    texts = [f"{WORDS[at % 8]} {WORDS[at // 8 % 8]} number{at}" for at in range(120)]
    corpus = Corpus.from_dataset({"id": [f"p{at}" for at in range(120)], "text": texts})
    rows = {
        "query_id": [f"q{at}" for at in range(60)],
        "query": [f"what of {WORDS[at % 8]} number{at}?" for at in range(60)],
        "positive_ids": [[f"p{at}"] for at in range(60)],
    }
    return corpus, Dataset.from_dict(rows)
