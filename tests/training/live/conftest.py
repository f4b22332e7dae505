import pytest
from datasets import Dataset
from live_helpers import PASSAGES, make_rows, text_of

from hnm_datasets import Corpus


@pytest.fixture(scope="module")
def corpus():
    ids = [f"id{row}" for row in range(PASSAGES)]
    return Corpus.from_dataset(Dataset.from_dict({"id": ids, "text": [text_of(row) for row in range(PASSAGES)]}))


@pytest.fixture(scope="module")
def rows():
    return make_rows()
