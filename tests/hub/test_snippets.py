"""The Python of a card trains, whatever the form of the rows."""

import re

import pytest
from datasets import Dataset, DatasetDict

from hnm_datasets import BM25Negatives, ToLabeledLists, ToLabeledPairs, ToNTuples, ToTriplets, load_sample
from hnm_datasets.hub.saving import save_mined
from hnm_datasets.markdown import plain

pytestmark = pytest.mark.usefixtures("fast_trainers")


@pytest.fixture(scope="module")
def mined():
    corpus, queries = load_sample()
    return corpus, queries.select(range(40)).map(BM25Negatives(corpus, k=4), batched=True)


def card_of(folder):
    return (folder / "README.md").read_text()


def python_of(card):
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)
    return snippet


def shaped(mined, step):
    return mined.map(step, batched=True, remove_columns=mined.column_names)


def tevatron(corpus, mined):
    def passages(ids):
        return [{"docid": found, "title": corpus[found]["title"], "text": corpus[found]["text"]} for found in ids]

    return Dataset.from_list(
        [
            {
                "query_id": row["query_id"],
                "query": row["query"],
                "positive_passages": passages(row["positive_ids"]),
                "negative_passages": passages(row["negative_ids"]),
            }
            for row in mined
        ]
    )


def flagembedding(corpus, mined):
    def texts(ids):
        return corpus.texts(corpus.rows(ids)).to_pylist()

    return Dataset.from_list(
        [{"query": row["query"], "pos": texts(row["positive_ids"]), "neg": texts(row["negative_ids"])} for row in mined]
    )


def with_gaps(corpus, mined):
    rows = Dataset.from_list(
        [row if place else row | {"negative_ids": []} for place, row in enumerate(mined.select_columns(KEPT))],
        features=mined.select_columns(KEPT).features,
    )
    return shaped(rows, ToTriplets(corpus, missing="keep"))


KEPT = ["query", "positive_ids", "negative_ids"]

FORMS = {
    "triplets": (lambda corpus, mined: shaped(mined, ToTriplets(corpus)), "MultipleNegativesRankingLoss"),
    "triplets with ids and scores": (
        lambda corpus, mined: shaped(mined, ToTriplets(corpus, with_ids=True, with_scores=True)),
        "MultipleNegativesRankingLoss",
    ),
    "triplets with gaps": (with_gaps, "MultipleNegativesRankingLoss"),
    "triplets of other names": (
        lambda corpus, mined: shaped(mined, ToTriplets(corpus)).rename_columns(
            {"anchor": "question", "positive": "ok"}
        ),
        "MultipleNegativesRankingLoss",
    ),
    "triplets with margins": (
        lambda corpus, mined: shaped(mined, ToTriplets(corpus, labels="margins", by="score")),
        "MarginMSELoss",
    ),
    "n-tuples": (lambda corpus, mined: shaped(mined, ToNTuples(corpus, n=2)), "MultipleNegativesRankingLoss"),
    "n-tuples with scores": (
        lambda corpus, mined: shaped(mined, ToNTuples(corpus, n=2, labels="scores", by="score")),
        "MarginMSELoss",
    ),
    "mined": (lambda corpus, mined: mined, "MultipleNegativesRankingLoss"),
    "labeled-pairs": (lambda corpus, mined: shaped(mined, ToLabeledPairs(corpus)), "BinaryCrossEntropyLoss"),
    "labeled-pairs with ids": (
        lambda corpus, mined: shaped(mined, ToLabeledPairs(corpus, with_ids=True, with_scores=True)),
        "BinaryCrossEntropyLoss",
    ),
    "labeled-pairs of a teacher": (
        lambda corpus, mined: shaped(mined, ToLabeledPairs(corpus, labels="scores", by="score")),
        "MSELoss",
    ),
    "labeled-lists": (lambda corpus, mined: shaped(mined, ToLabeledLists(corpus)), "LambdaLoss"),
    "labeled-lists of a teacher": (
        lambda corpus, mined: shaped(mined, ToLabeledLists(corpus, labels="scores", by="score")),
        "ListNetLoss",
    ),
    "tevatron": (tevatron, "MultipleNegativesRankingLoss"),
    "flagembedding": (flagembedding, "MultipleNegativesRankingLoss"),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_snippet_trains(tmp_path, monkeypatch, mined, static_model, make_cross_encoder, form):
    corpus, rows = mined
    make, loss = FORMS[form]
    # Two splits: the snippet takes the first.
    dataset = make(corpus, rows)
    folder = save_mined(DatasetDict(learn=dataset, test=dataset.select([0])), tmp_path / "set", corpus=corpus)
    snippet = python_of(card_of(folder))
    assert all("# replace with the dataset's" in line for line in snippet.splitlines() if "your-name/" in line)
    assert f"import {loss}" in snippet
    crosses = "CrossEncoder(" in snippet
    assert crosses == form.startswith("labeled")
    if crosses:
        model, name = make_cross_encoder(tmp_path / "model"), "cross-encoder/ms-marco-MiniLM-L6-v2"
    else:
        model, name = tmp_path / "model", "sentence-transformers/all-MiniLM-L6-v2"
        static_model.save(str(model))
    changes = {
        "your-name/set": (str(folder), 2 if form == "mined" else 1),
        name: (str(model), 1),
        "num_train_epochs=1": ("max_steps=2, report_to=[], use_cpu=True, disable_tqdm=True", 1),
        "per_device_train_batch_size=64": ("per_device_train_batch_size=4", 1),
    }
    for old, (new, times) in changes.items():
        assert snippet.count(old) == times, old
        snippet = snippet.replace(old, new)
    monkeypatch.chdir(tmp_path)
    known = {}
    exec(compile(snippet, "README.md", "exec"), known)
    assert known["trainer"].state.global_step == 2
    assert len(known["train"]) > 4


def test_without_the_corpus_the_card_says_what_is_missing(tmp_path, mined):
    corpus, rows = mined
    card = card_of(save_mined(rows, tmp_path / "set", corpus=corpus, include_corpus=False))
    assert "The passages are not part of this dataset" in card
    assert corpus.fingerprint in card
    assert 'load_dataset("the/corpus", split="train")' in python_of(card)
    assert corpus.texts(corpus.rows([rows[0]["positive_ids"][0]]))[0].as_py()[:30] in card, "examples show texts"
    alone = card_of(save_mined(rows, tmp_path / "alone"))
    assert f"**positive**: {plain(rows[0]['positive_ids'][0], 100)}\n" in alone, "or ids"
