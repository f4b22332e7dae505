import pytest
from datasets import Dataset

from hnm_datasets import Corpus


@pytest.fixture(scope="module")
def corpus():
    names = list("abcde")
    rows = {
        "id": names,
        "title": [f"Title {n}" if n < "d" else None for n in names],
        "text": [f"text {n}" for n in names],
    }
    return Corpus.from_dataset(Dataset.from_dict(rows))
