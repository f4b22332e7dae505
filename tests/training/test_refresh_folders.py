"""A refresh leaves only generations below output_dir; results of models go to the cache, and are found again."""

import time
from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import TrainerCallback

from hnm_datasets import (
    Corpus,
    CrossEncoderScores,
    DenseNegatives,
    HardNegativesRankingLoss,
    RefreshNegatives,
    RelativeMargin,
    live_negatives,
)
from hnm_datasets.storage.folders import cache_root

pytestmark = [
    pytest.mark.usefixtures("fast_trainers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]

WORDS = [f"w{number}" for number in range(40)]


class Teacher:
    """Counts shared words, and the pairs that it was asked for."""

    def __init__(self):
        self.pairs = 0

    def __call__(self, pairs):
        self.pairs += len(pairs)
        return [len(set(query.split()) & set(passage.split())) for query, passage in pairs]


class Watch(TrainerCallback):
    """Notes the cache folder that the training thread sees at each step."""

    def __init__(self):
        self.roots = set()

    def on_step_end(self, args, state, control, **kwargs):
        self.roots.add(cache_root())
        # A refresh in the background takes its time.
        time.sleep(0.1)


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=4)) for _ in range(60)]
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{row}" for row in range(60)], "text": texts}))


@pytest.fixture(scope="module")
def queries(corpus):
    texts = corpus.texts(np.arange(20)).to_pylist()
    rows = {"query": [" ".join(text.split()[:2]) + f" {number}" for number, text in enumerate(texts)]}
    return Dataset.from_dict(rows | {"positive_ids": [[f"p{row}"] for row in range(20)]})


def make_model():
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(["[UNK]", *WORDS])}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    return SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu", similarity_fn_name="cosine"
    )


def train(corpus, queries, folder, teacher, watch=None, **options):
    model = make_model()
    live = live_negatives(queries, corpus, n=2, teacher="teacher")
    steps = [
        partial(DenseNegatives, corpus, k=6),
        CrossEncoderScores(corpus, teacher, fingerprint=f"shared-words-{folder.parent.name}"),
        RelativeMargin(-5.0, by="teacher"),
    ]
    refresh = RefreshNegatives(live, steps, 3, **options)
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder), max_steps=10, per_device_train_batch_size=4, learning_rate=0.05, report_to=[],
        save_strategy="no", disable_tqdm=True, use_cpu=True, logging_strategy="no",
    )  # fmt: skip
    callbacks = [refresh] if watch is None else [refresh, watch]
    loss = HardNegativesRankingLoss(model)
    SentenceTransformerTrainer(model=model, args=args, train_dataset=live, loss=loss, callbacks=callbacks).train()
    return refresh


def kept():
    """List what the cache holds of models."""
    return {path for kind in ("embeddings", "vectors", "dense") for path in (cache_root() / kind).glob("*")}


@pytest.mark.parametrize("background", [False, True])
def test_only_generations_lie_below_the_output(corpus, queries, tmp_path, background):
    before, folder, teacher, watch = kept(), tmp_path / "first", Teacher(), Watch()
    refresh = train(corpus, queries, folder, teacher, watch, background=background)
    assert len(refresh.history) >= 2
    # The folder of these rows holds numbered generations and a note on each.
    (rows,) = (folder / "generations").iterdir()
    assert {path.name[:6].isdigit() for path in rows.iterdir()} == {True}
    assert {path.suffix for path in rows.iterdir()} <= {"", ".json"}
    found = {path.name for path in folder.rglob("*") if path.is_dir()}
    assert not found & {"vectors", "pair_scores", "embeddings", "dense", "corpora", "bm25"}
    # The vectors of a model in training are deleted; the teacher's scores stay for the next one.
    assert kept() == before
    assert any((cache_root() / "pair_scores").iterdir())
    assert watch.roots == {cache_root()}


def test_a_second_training_asks_the_teacher_for_nothing_again(corpus, queries, tmp_path):
    first, second = Teacher(), Teacher()
    history = train(corpus, queries, tmp_path / "first", first).history
    assert first.pairs > 0
    again = train(corpus, queries, tmp_path / "second", second).history
    assert second.pairs == 0
    assert [one["replaced"] for one in again] == [one["replaced"] for one in history]
