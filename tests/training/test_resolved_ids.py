"""Mined rows of ids as `sentence_transformers.util.resolve_ids` reads them, under the stock trainers."""

import numpy as np
import pytest
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import LambdaLoss
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import resolve_ids

from hnm_datasets import BM25Negatives, Corpus, TopNegatives

pytestmark = [
    pytest.mark.usefixtures("fast_trainers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]
TEXTS = {f"{word}{place}": f"{word} number {place}" for word in ("plate", "wave", "ridge") for place in range(5)}
QUESTIONS = {"q-plate": "plate", "q-wave": "wave", "q-ridge": "ridge"}


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_dataset({"id": list(TEXTS), "text": list(TEXTS.values())})


@pytest.fixture(scope="module")
def mined(corpus):
    # The first query has two positives, so that lists are of different lengths.
    positives = [[f"{word}0", *([f"{word}1"] if word == "plate" else [])] for word in QUESTIONS.values()]
    rows = {"query_id": list(QUESTIONS), "query": list(QUESTIONS.values()), "positive_ids": positives}
    return Dataset.from_dict(rows).map(BM25Negatives(corpus, k=3), batched=True)


def options(folder):
    common = {"num_train_epochs": 1, "per_device_train_batch_size": 3, "logging_steps": 1, "report_to": []}
    return common | {"output_dir": str(folder), "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}


def losses_of(trainer):
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_lists_of_ids_become_lists_of_texts(corpus, mined):
    texts, queries = (corpus.to_dataset(), "id", "text"), mined.select_columns(["query_id", "query"])
    lookups = {"query_id": queries, "positive_ids": texts, "negative_ids": texts}
    train = mined.with_transform(resolve_ids(lookups, output_format="lists"))
    for row, before in zip(train, mined, strict=True):
        assert row == {
            "query": before["query"],
            "positives": [TEXTS[one] for one in before["positive_ids"]],
            "negatives": [TEXTS[one] for one in before["negative_ids"]],
        }


def test_a_cross_encoder_trains_on_lists(corpus, mined, make_cross_encoder, tmp_path):
    texts, queries = (corpus.to_dataset(), "id", "text"), mined.select_columns(["query_id", "query"])

    def as_lists(row):
        own, others = row["positive_ids"], row["negative_ids"]
        return {"document_ids": own + others, "labels": [1] * len(own) + [0] * len(others)}

    train = mined.map(as_lists).with_transform(
        resolve_ids({"query_id": queries, "document_ids": texts}, output_format="lists")
    )
    assert [len(row["documents"]) for row in train] == [len(row["labels"]) for row in train] == [5, 4, 4]
    model = CrossEncoder(str(make_cross_encoder(tmp_path / "model")), device="cpu", num_labels=1)
    args = CrossEncoderTrainingArguments(**options(tmp_path / "out"))
    trainer = CrossEncoderTrainer(model=model, args=args, train_dataset=train, loss=LambdaLoss(model))
    assert np.isfinite(losses_of(trainer)).all()


def test_a_bi_encoder_trains_on_columns(corpus, mined, make_static_model, tmp_path):
    texts, queries = (corpus.to_dataset(), "id", "text"), mined.select_columns(["query_id", "query"])
    tuples = mined.map(TopNegatives(2), batched=True).map(lambda row: {"positive_id": row["positive_ids"][0]})
    train = tuples.with_transform(resolve_ids({"query_id": queries, "positive_id": texts, "negative_ids": texts}))
    assert list(train[0]) == ["query", "positive", "negative_1", "negative_2"]
    assert train[1]["positive"] == TEXTS["wave0"]
    model = make_static_model(16)
    args = SentenceTransformerTrainingArguments(**options(tmp_path))
    loss = MultipleNegativesRankingLoss(model)
    trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=train, loss=loss)
    assert np.isfinite(losses_of(trainer)).all()
