"""Refreshes of a model of token vectors under the stock trainer with a stock loss."""

from functools import partial

import numpy as np
import pytest
from refresh_helpers import K, generations, lists_of, rows_of
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder import (
    MultiVectorEncoderTrainer,
    MultiVectorEncoderTrainingArguments,
)
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss

from hnm_datasets import (
    BM25Negatives,
    LateInteractionNegatives,
    LateInteractionScores,
    RefreshNegatives,
    TokenIndex,
    live_negatives,
)
from hnm_datasets.storage.folders import cache_root

pytestmark = [
    pytest.mark.usefixtures("fast_trainers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


def train(model, live, folder, steps, *, max_steps=5, every=2, **options):
    refresh = RefreshNegatives(live, steps, every=every, keep=9, **options)
    args = MultiVectorEncoderTrainingArguments(
        output_dir=str(folder), max_steps=max_steps, per_device_train_batch_size=4, learning_rate=0.01,
        logging_steps=1, report_to=[], save_steps=every, disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = MultiVectorEncoderTrainer(
        model=model, args=args, train_dataset=live, loss=MultiVectorMultipleNegativesRankingLoss(model),
        callbacks=[refresh],
    )  # fmt: skip
    trainer.train()
    return refresh, trainer


def kept():
    kinds = ("embeddings", "vectors", "tokens")
    return {path for kind in kinds for path in (cache_root() / kind).glob("*") if path.is_dir()}


STEPS = {
    "plain": lambda corpus: [partial(LateInteractionNegatives, corpus, k=K)],
    "index": lambda corpus: [
        lambda model: LateInteractionNegatives(
            corpus, model, k=K, index=TokenIndex(corpus.embed_tokens(model), "IVF4,SQ8")
        )
    ],
    "candidates": lambda corpus: [
        partial(LateInteractionNegatives, corpus, k=K, candidates=BM25Negatives(corpus, k=2 * K))
    ],
    "scores": lambda corpus: [BM25Negatives(corpus, k=K), partial(LateInteractionScores, corpus)],
}


def test_each_refresh_mines_with_the_model_as_it_is(corpus, mined, make_token_model, tmp_path):
    live = live_negatives(mined, corpus, n=2)
    refresh, trainer = train(make_token_model(), live, tmp_path, STEPS["plain"](corpus))
    assert [about["step"] for about in refresh.history] == [2, 4]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert np.isfinite(losses).all()
    for number, step in ((1, 2), (2, 4)):
        then = MultiVectorEncoder(str(tmp_path / f"checkpoint-{step}"), device="cpu")
        rows = mined.select_columns(["query_id", "query", "positive_ids"])
        expected = rows.map(LateInteractionNegatives(corpus, then, k=K), batched=True)
        assert lists_of(generations(tmp_path)[number])[1] == rows_of(corpus, expected)
    assert lists_of(generations(tmp_path)[1])[1] != lists_of(generations(tmp_path)[2])[1]


@pytest.mark.parametrize("case", STEPS)
def test_vectors_and_indexes_of_the_models_in_between_are_deleted(corpus, mined, make_token_model, tmp_path, case):
    LateInteractionNegatives(corpus, make_token_model(4), k=3)(mined[:3])
    before = kept()
    assert len(before) >= 2
    background = {"background": True} if case == "plain" else {}
    live = live_negatives(mined, corpus, n=2)
    train(make_token_model(), live, tmp_path, STEPS[case](corpus), max_steps=3, **background)
    assert kept() == before


def test_a_fixed_model_is_refused(corpus, mined, make_token_model):
    live = live_negatives(mined, corpus, n=2)
    with pytest.raises(ValueError, match=r"mines with its own model.*partial\(LateInteractionNegatives, corpus, k=50"):
        RefreshNegatives(live, [LateInteractionNegatives(corpus, make_token_model())], every=3)
