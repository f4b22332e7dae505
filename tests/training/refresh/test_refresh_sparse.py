"""Refreshes of a sparse model under the stock trainer with a stock loss."""

from functools import partial

import numpy as np
import pytest
from refresh_helpers import WORDS, K, generations, lists_of, rows_of
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder import (
    SparseEncoderTrainer,
    SparseEncoderTrainingArguments,
)
from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss

from hnm_datasets import (
    BiEncoderScores,
    BM25Negatives,
    FuseNegatives,
    RefreshNegatives,
    ShardedIndex,
    SparseIndex,
    SparseNegatives,
    live_negatives,
)
from hnm_datasets.storage.folders import cache_root

pytestmark = [
    pytest.mark.usefixtures("fast_trainers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    # Torch's own, of the stock losses and vectors.
    pytest.mark.filterwarnings("ignore:Sparse "),
]


def train(model, live, folder, steps, *, max_steps=9, every=3, **options):
    loss = SpladeLoss(
        model,
        SparseMultipleNegativesRankingLoss(model),
        document_regularizer_weight=1e-3,
        query_regularizer_weight=1e-3,
    )
    refresh = RefreshNegatives(live, steps, every=every, keep=9, **options)
    args = SparseEncoderTrainingArguments(
        output_dir=str(folder), max_steps=max_steps, per_device_train_batch_size=4, learning_rate=0.1,
        logging_steps=1, report_to=[], save_steps=3, disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = SparseEncoderTrainer(model=model, args=args, train_dataset=live, loss=loss, callbacks=[refresh])
    trainer.train()
    return refresh, trainer


def kept():
    kinds = ("embeddings", "vectors", "sparse")
    return {path for kind in kinds for path in (cache_root() / kind).glob("*") if path.is_dir()}


def mine(corpus, model):
    return [SparseNegatives(corpus, model, k=K)]


STEPS = {
    "plain": lambda corpus: [partial(SparseNegatives, corpus, k=K)],
    "fused": lambda corpus: [
        lambda model: FuseNegatives(
            {"sparse": SparseNegatives(corpus, model, k=K), "bm25": BM25Negatives(corpus, k=K)}
        )
    ],
    "sharded": lambda corpus: [lambda model: SparseNegatives(corpus, model, k=K, index=sharded(corpus, model))],
    "scores": lambda corpus: [BM25Negatives(corpus, k=K), partial(BiEncoderScores, corpus)],
    "embeddings": lambda corpus: [
        BM25Negatives(corpus, k=K),
        lambda model: BiEncoderScores(corpus, model, embeddings=corpus.embed_sparse(model)),
    ],
}  # fmt: skip


def sharded(corpus, model):
    embeddings = corpus.embed_sparse(model)
    return ShardedIndex([SparseIndex(embeddings, shard=(number, 2)) for number in range(2)])


def test_each_refresh_mines_with_the_model_as_it_is(corpus, mined, make_sparse_model, tmp_path):
    model = make_sparse_model(WORDS)
    live = live_negatives(mined, corpus, n=3)
    refresh, trainer = train(model, live, tmp_path, STEPS["plain"](corpus))
    assert [about["step"] for about in refresh.history] == [3, 6]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert np.isfinite(losses).all()
    for number, step in ((1, 3), (2, 6)):
        then = SparseEncoder(str(tmp_path / f"checkpoint-{step}"), device="cpu")
        rows = mined.select_columns(["query_id", "query", "positive_ids"])
        expected = rows.map(SparseNegatives(corpus, then, k=K), batched=True)
        assert lists_of(generations(tmp_path)[number])[1] == rows_of(corpus, expected)
    assert lists_of(generations(tmp_path)[1])[1] != lists_of(generations(tmp_path)[2])[1]


@pytest.mark.parametrize("case", STEPS)
def test_vectors_and_indexes_of_the_models_in_between_are_deleted(corpus, mined, make_sparse_model, tmp_path, case):
    SparseNegatives(corpus, make_sparse_model(WORDS, np.ones(len(WORDS))), k=3)(mined[:3])
    before = kept()
    assert len(before) >= 3
    background = {"background": True} if case == "plain" else {}
    refresh, _ = train(
        make_sparse_model(WORDS), live_negatives(mined, corpus, n=3), tmp_path, STEPS[case](corpus), max_steps=5,
        every=2, **background,
    )  # fmt: skip
    assert kept() == before


def test_a_fixed_sparse_model_is_refused(corpus, mined, make_sparse_model):
    live = live_negatives(mined, corpus, n=3)
    with pytest.raises(ValueError, match=r"mines with its own model.*partial\(SparseNegatives, corpus, k=50\)"):
        RefreshNegatives(live, [SparseNegatives(corpus, make_sparse_model(WORDS))], every=3)
