"""Live negatives under the trainers of cross-encoders, sparse and multi-vector models, with their stock losses."""

import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder import losses as cross_encoder_losses
from sentence_transformers.multi_vector_encoder import MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss
from sentence_transformers.sparse_encoder import SparseEncoderTrainer, SparseEncoderTrainingArguments
from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss
from sentence_transformers.util import dot_score

from hnm_datasets import Corpus, FollowEpochs, HardNegativesRankingLoss, live_negatives

pytestmark = [
    pytest.mark.usefixtures("fast_trainers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    # Torch's own, of the stock losses and vectors.
    pytest.mark.filterwarnings("ignore:Sparse "),
]
WORDS = [a + b for a, b in itertools.product("abcdef", "ghij")]
QUERIES = 12


@pytest.fixture(scope="module")
def own_corpus():
    """Passage i is the word i, twice."""
    return Corpus.from_dataset(Dataset.from_dict({"id": WORDS, "text": [f"{word} {word}" for word in WORDS]}))


@pytest.fixture(scope="module")
def own_rows():
    """Each query is a word, and its passage relevant; so is that of the first query to all of them."""
    return Dataset.from_dict(
        {
            "query_id": [f"q{row}" for row in range(QUERIES)],
            "query": WORDS[:QUERIES],
            "positive_ids": [[WORDS[row], WORDS[0]] if row else [WORDS[0]] for row in range(QUERIES)],
            "negative_ids": [[WORDS[QUERIES + (row + step) % QUERIES] for step in range(6)] for row in range(QUERIES)],
        }
    )


def live_of(own_rows, own_corpus):
    return live_negatives(own_rows, own_corpus, n=2, positives="first")


def train(trainer, arguments, model, loss, live, folder, **options):
    args = arguments(
        **{
            "output_dir": str(folder), "num_train_epochs": 3, "per_device_train_batch_size": 6, "learning_rate": 0.05,
            "logging_steps": 1, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True,
        } | options
    )  # fmt: skip
    one = trainer(model=model, args=args, train_dataset=live, loss=loss, callbacks=[FollowEpochs(live)])
    one.train()
    return one.state.log_history


def losses_of(history):
    return [entry["loss"] for entry in history if "loss" in entry]


def sparse(model, loss):
    return SpladeLoss(model, loss, document_regularizer_weight=1e-4, query_regularizer_weight=1e-4)


def test_a_cross_encoder_sees_each_epochs_own_negatives(own_rows, own_corpus, make_cross_encoder, tmp_path):
    model = CrossEncoder(str(make_cross_encoder(tmp_path / "model")), device="cpu", num_labels=1)
    loss = cross_encoder_losses.MultipleNegativesRankingLoss(model, num_negatives=1)
    seen = []
    loss.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    live = live_of(own_rows, own_corpus)
    history = train(
        CrossEncoderTrainer, CrossEncoderTrainingArguments, model, loss, live, tmp_path / "out", learning_rate=0.01,
        num_train_epochs=2,
    )  # fmt: skip
    assert np.isfinite(losses_of(history)).all()
    epochs = []
    for epoch in range(2):
        live.set_epoch(epoch)
        epochs.append(sorted(tuple(row[name] for name in live.column_names) for row in live))
        batches = seen[2 * epoch : 2 * epoch + 2]
        assert sorted(row for batch in batches for row in zip(*batch, strict=True)) == epochs[-1]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (lambda model: cross_encoder_losses.BinaryCrossEntropyLoss(model), "expects a dataset with two non-label"),
        (lambda model: cross_encoder_losses.LambdaLoss(model), "expects two inputs"),
        (lambda model: cross_encoder_losses.ListNetLoss(model), "expects two inputs"),
    ],
    ids=["binary", "lambda", "listnet"],
)
def test_losses_of_labels_refuse_live_rows(own_rows, own_corpus, make_cross_encoder, tmp_path, loss, match):
    model = CrossEncoder(str(make_cross_encoder(tmp_path / "model")), device="cpu", num_labels=1)
    live = live_of(own_rows, own_corpus)
    with pytest.raises(ValueError, match=match):
        train(CrossEncoderTrainer, CrossEncoderTrainingArguments, model, loss(model), live, tmp_path / "out")


def test_a_sparse_model_learns_from_them(own_rows, own_corpus, make_sparse_model, tmp_path):
    model = make_sparse_model(WORDS, np.full(len(WORDS), 0.5))
    losses = losses_of(
        train(
            SparseEncoderTrainer, SparseEncoderTrainingArguments, model,
            sparse(model, SparseMultipleNegativesRankingLoss(model)), live_of(own_rows, own_corpus), tmp_path,
        )
    )  # fmt: skip
    assert losses[-1] < losses[0] - 0.1


def test_a_sparse_model_leaves_known_positives_out(own_rows, own_corpus, make_sparse_model, tmp_path):
    """The loss of this library takes the labels through SpladeLoss, and masks what every query knows."""
    found = {}
    for name, make in {
        "stock": lambda model: SparseMultipleNegativesRankingLoss(model),
        "ours": lambda model: HardNegativesRankingLoss(model, scale=1.0, similarity_fct=dot_score),
    }.items():
        model = make_sparse_model(WORDS, np.full(len(WORDS), 0.5))
        history = train(
            SparseEncoderTrainer, SparseEncoderTrainingArguments, model, sparse(model, make(model)),
            live_of(own_rows, own_corpus), tmp_path / name, num_train_epochs=1, per_device_train_batch_size=QUERIES,
        )  # fmt: skip
        found[name] = history
    assert found["ours"][0]["masked_in_batch"] > 0
    # All words weigh the same, so a passage less in the denominator is all that is between the first losses.
    assert losses_of(found["ours"])[0] < losses_of(found["stock"])[0]


def test_a_multi_vector_model_learns_from_them(own_rows, own_corpus, make_token_model, tmp_path):
    model = make_token_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    live = live_of(own_rows, own_corpus)
    losses = losses_of(
        train(
            MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments, model,
            MultiVectorMultipleNegativesRankingLoss(model), live, tmp_path, learning_rate=0.01,
        )
    )  # fmt: skip
    assert np.isfinite(losses).all()
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert live.source.progress.epoch == 2
