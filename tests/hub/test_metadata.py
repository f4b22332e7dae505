"""The YAML of a card is what the Hub and `load_dataset` read."""

import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard, metadata_load

from hnm_datasets import BM25Negatives, load_sample
from hnm_datasets.formats.registry import FORMATS
from hnm_datasets.hub.saving import save_mined


@pytest.fixture(scope="module")
def mined():
    corpus, queries = load_sample()
    return corpus, queries.select(range(40)).map(BM25Negatives(corpus, k=4), batched=True)


def test_metadata(tmp_path, mined):
    corpus, rows = mined
    options = {"license": "cc-by-4.0", "language": ["en", "no"], "name": "A: b #c\n---", "source": "me/medquad"}
    folder = save_mined(DatasetDict(train=rows, test=rows.select([0])), tmp_path / "set", corpus=corpus, **options)
    metadata = metadata_load(folder / "README.md")
    assert metadata == DatasetCard.load(folder / "README.md").data.to_dict()
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["language"] == ["en", "no"]
    assert metadata["pretty_name"] == "A: b #c ---"
    assert metadata["source_datasets"] == ["me/medquad"]
    assert metadata["tags"] == ["sentence-transformers", "hard-negatives", "hnm_datasets"]
    assert metadata["task_categories"] == ["text-retrieval"]
    assert metadata["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in metadata["configs"]] == ["default", "corpus"]
    info, corpus_info = metadata["dataset_info"]
    assert [(split["name"], split["num_examples"]) for split in info["splits"]] == [("train", 40), ("test", 1)]
    assert [(split["name"], split["num_examples"]) for split in corpus_info["splits"]] == [("train", len(corpus))]
    bare = metadata_load(save_mined(rows, tmp_path / "bare") / "README.md")
    assert not {"license", "language", "pretty_name", "source_datasets"} & set(bare)


@pytest.mark.parametrize(
    ("rows", "category"), [(999, "n<1K"), (1_000, "1K<n<10K"), (10_000, "10K<n<100K"), (99_999, "10K<n<100K")]
)
def test_size_categories(tmp_path, rows, category):
    pair = Dataset.from_dict({"anchor": ["a"] * rows, "positive": ["b"] * rows, "negative": ["c"] * rows})
    assert metadata_load(save_mined(pair, tmp_path / "set") / "README.md")["size_categories"] == [category]


@pytest.mark.parametrize(
    ("columns", "tasks"),
    [
        (["anchor", "positive", "negative"], ["sentence-similarity", "text-retrieval"]),
        (["anchor", "positive", "negative_1"], ["sentence-similarity", "text-retrieval"]),
        (["anchor", "passage", "label"], ["text-ranking"]),
    ],
)
def test_tasks(tmp_path, columns, tasks):
    rows = Dataset.from_dict({name: [0] if name == "label" else ["a"] for name in columns})
    assert metadata_load(save_mined(rows, tmp_path / "set") / "README.md")["task_categories"] == tasks


def test_every_format_has_tasks_and_a_title_of_its_own():
    assert all(format.tasks for format in FORMATS.values())
    assert len({format.title for format in FORMATS.values()}) == len(FORMATS)
