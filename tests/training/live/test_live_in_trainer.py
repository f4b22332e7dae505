"""Live negatives on disk and in the trainer, and bad input."""

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from live_helpers import Epochs, Watched, expected_by_epoch, make_model, make_rows, rows_by_epoch, trainer_of
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from hnm_datasets.storage.folders import cache_root
from hnm_datasets.training.follow_epochs import FollowEpochs
from hnm_datasets.training.live import live_negatives
from hnm_datasets.training.loss import HardNegativesRankingLoss

# Two cores, or one, are enough for two small workers.
pytestmark = [
    pytest.mark.usefixtures("fast_trainers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


def test_the_first_generation_is_written_once(corpus):
    rows = make_rows(seed=11)
    live = live_negatives(rows, corpus, n=2)
    folder = live.source.folder_of(0)
    assert folder.is_relative_to(cache_root() / "live")
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name[0] != "."}
    assert stamps
    again = live_negatives(rows, corpus, n=4, seed=3, positives="first", max_positives=9)
    assert again.source.folder_of(0) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name[0] != "."} == stamps
    assert live_negatives(rows.select(range(5)), corpus).source.folder_of(0) != folder
    assert live_negatives(rows, corpus, teacher="teacher").source.folder_of(0) != folder


def test_rows_in_other_forms(corpus, rows):
    wanted = live_negatives(rows, corpus, n=2)[:3]
    for form in (rows.to_pandas(), rows.to_list(), DatasetDict({"train": rows})):
        assert live_negatives(form, corpus, n=2)[:3] == wanted


def test_bad_rows(corpus, rows):
    with pytest.raises(ValueError, match=r"live_negatives: rows is a DatasetDict of 2 splits.*rows\['train'\]"):
        live_negatives(DatasetDict({"train": rows, "dev": rows}), corpus)
    with pytest.raises(TypeError, match="live_negatives: rows must be a Dataset"):
        live_negatives("rows", corpus)
    with pytest.raises(TypeError, match="orpus"):
        live_negatives(rows, rows)
    for name in ("query", "positive_ids"):
        with pytest.raises(KeyError, match=name):
            live_negatives(rows.remove_columns(name), corpus)
    unknown = Dataset.from_dict({"query": ["q"], "positive_ids": [["id1"]], "negative_ids": [["nowhere"]]})
    with pytest.raises(KeyError, match="nowhere"):
        live_negatives(unknown, corpus)
    unknown = Dataset.from_dict({"query": ["q"], "positive_ids": [["elsewhere"]], "negative_ids": [["id1"]]})
    with pytest.raises(KeyError, match="elsewhere"):
        live_negatives(unknown, corpus)
    nobody = Dataset.from_dict({"query": ["q"], "positive_ids": [[]], "negative_ids": [["id1"]]})
    with pytest.raises(ValueError, match="positive"):
        live_negatives(nobody, corpus)
    with pytest.raises(ValueError, match="positive"):
        live_negatives(rows.select([]), corpus)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n": 0}, ValueError, "n"),
        ({"n": 1.5}, TypeError, "n"),
        ({"n": True}, ValueError, "n"),
        ({"seed": -1}, ValueError, "seed"),
        ({"positives": "random"}, ValueError, "positives"),
        ({"max_positives": 2}, ValueError, "max_positives"),
        ({"max_positives": 0}, ValueError, "max_positives"),
        ({"teacher": "nobody"}, KeyError, "nobody"),
    ],
)
def test_bad_options(corpus, rows, options, error, match):
    with pytest.raises(error, match=match):
        live_negatives(rows, corpus, **options)


def test_an_error_leaves_no_half_generation(corpus):
    rows = Dataset.from_dict({"query": ["lost"], "positive_ids": [["id1"]], "negative_ids": [["id2", "nowhere"]]})
    before = {path for path in (cache_root() / "live").glob("*/*") if path.is_dir()}
    with pytest.raises(KeyError):
        live_negatives(rows, corpus)
    assert {path for path in (cache_root() / "live").glob("*/*") if path.is_dir()} == before


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dataloader_num_workers": 2},
        {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
        {"prompts": {"anchor": "query: "}},
        {"accelerator_config": {"use_seedable_sampler": False}},
    ],
    ids=["plain", "workers", "persistent", "prompts", "unseeded"],
)
def test_the_trainer_sees_each_epochs_own_negatives(corpus, rows, tmp_path, options):
    model, words = make_model()
    loss = HardNegativesRankingLoss(model)
    watched = Watched(loss, words)
    epochs = Epochs([watched])
    trainer_of(model, live_negatives(rows, corpus, n=3), loss, tmp_path, epochs, **options).train()
    prompt = options.get("prompts", {}).get("anchor", "")
    expected = expected_by_epoch(live_negatives(rows, corpus, n=3), 3, prompt)
    assert rows_by_epoch(watched, epochs.begins) == expected
    assert expected[0] != expected[1] != expected[2]
    assert np.isfinite(watched.losses).all()


@pytest.mark.parametrize("kind", [BatchSamplers.NO_DUPLICATES, BatchSamplers.NO_DUPLICATES_HASHED])
def test_batches_without_duplicates(corpus, rows, tmp_path, kind):
    model, words = make_model()
    loss = HardNegativesRankingLoss(model)
    watched = Watched(loss, words)
    epochs = Epochs([watched])
    live = live_negatives(rows, corpus, n=2)
    trainer_of(model, live, loss, tmp_path, epochs, batch_sampler=kind).train()
    expected = expected_by_epoch(live_negatives(rows, corpus, n=2), 3)
    # It takes some rows twice, where too few go together.
    for seen, should in zip(rows_by_epoch(watched, epochs.begins), expected, strict=True):
        assert len(seen) > 0.8 * len(should)
        assert all(row in should for row in seen)
    for place, (columns, _) in enumerate(watched.batches):
        # The hashes are of the time of the first batch.
        old = kind == BatchSamplers.NO_DUPLICATES_HASHED and place >= epochs.begins[1]
        texts = [text for column in (columns[:2] if old else columns) for text in column]
        assert len(set(texts)) == len(texts), place


def test_the_stock_loss_trains_on_them(corpus, rows, tmp_path):
    model, words = make_model()
    loss = MultipleNegativesRankingLoss(model)
    watched = Watched(loss, words)
    trainer_of(
        model, live_negatives(rows, corpus, n=2), loss, tmp_path, num_train_epochs=12, learning_rate=0.05
    ).train()
    assert np.isfinite(watched.losses).all()
    assert np.mean(watched.losses[-8:]) < 0.7 * np.mean(watched.losses[:8])


@pytest.mark.parametrize("several_losses", [False, True])
def test_two_sets_with_follow_epochs(corpus, rows, tmp_path, several_losses):
    model, words = make_model()
    others = make_rows(queries=18, seed=5)
    makers = {
        "one": lambda: live_negatives(rows, corpus, n=2),
        "two": lambda: live_negatives(others, corpus, n=2, seed=4),
    }
    data = DatasetDict({name: make() for name, make in makers.items()})
    losses = {name: HardNegativesRankingLoss(model) for name in makers}
    if not several_losses:
        losses = dict.fromkeys(makers, losses["one"])
    watched = [Watched(loss, words) for loss in dict.fromkeys(losses.values())]
    epochs = Epochs(watched)
    trainer = trainer_of(
        model, data, losses if several_losses else losses["one"], tmp_path, FollowEpochs(*data.values()), epochs,
        multi_dataset_batch_sampler="proportional", dataloader_num_workers=0,
    )  # fmt: skip
    trainer.train()
    expected = [expected_by_epoch(make(), 3) for make in makers.values()]
    if several_losses:
        for one, should in zip(watched, expected, strict=True):
            seen = rows_by_epoch(one, [len(one.batches) * epoch // 3 for epoch in range(3)])
            assert seen == should
    else:
        seen = rows_by_epoch(watched[0], epochs.begins)
        assert seen == [sorted(one + other) for one, other in zip(*expected, strict=True)]


def test_follow_epochs_takes_live_negatives_alone(rows):
    with pytest.raises(TypeError, match="live_negatives"):
        FollowEpochs(rows)


def test_a_selection_of_the_rows_has_its_own_draw_in_each_epoch(corpus, rows, tmp_path):
    """`select` and `shuffle` answer with rows that the trainer must still be able to tell the epoch."""
    model, words = make_model()
    loss = HardNegativesRankingLoss(model)
    watched = Watched(loss, words)
    epochs = Epochs([watched])
    data = live_negatives(rows, corpus, n=3).select(range(20))
    trainer_of(model, data, loss, tmp_path, epochs).train()
    seen = rows_by_epoch(watched, epochs.begins)
    assert seen[0] != seen[1] != seen[2]


def test_a_training_that_is_resumed_within_an_epoch_draws_that_epochs_negatives(corpus, rows, tmp_path):
    def train(resume=None):
        model, words = make_model()
        loss = HardNegativesRankingLoss(model)
        watched = Watched(loss, words)
        options = {"save_strategy": "steps", "save_steps": 12, "save_only_model": False}
        live = live_negatives(rows, corpus, n=3)
        trainer_of(model, live, loss, tmp_path, FollowEpochs(live), **options).train(resume_from_checkpoint=resume)
        return watched

    plain = train()
    assert len(plain.batches) == 24
    resumed = train(str(tmp_path / "checkpoint-12"))
    assert resumed.losses == plain.losses[12:]
    for (columns, labels), (expected, other) in zip(resumed.batches, plain.batches[12:], strict=True):
        assert columns == expected
        assert torch.equal(labels, other)


def test_rows_that_were_never_mined_are_refused(corpus, rows, tmp_path):
    live = live_negatives(rows.select_columns(["query", "positive_ids"]), corpus, n=2)
    model, _ = make_model()
    with pytest.raises(ValueError, match=r"FollowEpochs: the rows have no mined negatives.*RefreshNegatives"):
        trainer_of(model, live, HardNegativesRankingLoss(model), tmp_path, FollowEpochs(live)).train()
