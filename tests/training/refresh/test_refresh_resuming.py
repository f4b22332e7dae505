"""A refresh changes nothing else of a training, and a training resumes with it."""

import random
import shutil

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from refresh_helpers import (
    CASES,
    LIMITATION,
    OPTIONS,
    Save,
    chain,
    generations,
    lists_of,
    make_model,
    meddle,
    owners_of,
    train,
)
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments

from hnm_datasets import (
    BM25Negatives,
)
from hnm_datasets.training.labels import PADDING, unpack
from hnm_datasets.training.live import live_negatives
from hnm_datasets.training.loss import HardNegativesRankingLoss
from hnm_datasets.training.refresh import RefreshNegatives
from hnm_datasets.training.refresh_job import untouched

pytestmark = [
    pytest.mark.usefixtures("fast_trainers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


@pytest.mark.parametrize(
    ("options", "meddling"),
    [
        ({}, False),
        ({}, True),
        ({"gradient_accumulation_steps": 2}, True),
        ({"dataloader_num_workers": 1}, False),
        ({"options": {"memory": 0.5, "corpus_every": 2, "start": 3}}, False),
    ],
)
def test_a_refresh_that_finds_the_same_leaves_every_loss_as_it_was(corpus, queries, tmp_path, options, meddling):
    rows = queries.map(BM25Negatives(corpus, k=6), batched=True)
    arguments = {name: value for name, value in options.items() if name != "options"}
    plain = train(live_negatives(rows, corpus, n=3), tmp_path / "plain", **arguments)
    steps = [meddle(corpus) if meddling else BM25Negatives(corpus, k=6)]
    done = train(live_negatives(rows, corpus, n=3), tmp_path / "refreshed", steps, 3, **options)
    assert len(done.refresh.history) == 7
    assert {one["replaced"] for one in done.refresh.history} == {0.0}
    done.same_end(plain, plain.losses)
    keys = ("loss", "grad_norm", "learning_rate", "epoch")
    entries = [[{key: one[key] for key in keys} for one in run.log if "loss" in one] for run in (plain, done)]
    assert entries[0] == entries[1]


def test_modes_and_random_states_are_restored():
    model = make_model()
    model.train()
    model[0].eval()
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    expected = random.random(), np.random.random(), torch.rand(3).tolist()  # noqa: NPY002
    for fails in (False, True):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        try:
            with untouched(model):
                assert not any(module.training for module in model.modules())
                random.random(), np.random.random(), torch.rand(3)  # noqa: NPY002
                model[0].train()
                if fails:
                    raise InterruptedError
        except InterruptedError:
            assert fails
        assert [module.training for module in (model, model[0], model[1])] == [True, False, True]
        assert (random.random(), np.random.random(), torch.rand(3).tolist()) == expected  # noqa: NPY002


def test_an_unchanged_model_is_not_mined_with_again(corpus, mined, tmp_path):
    done = train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 4, learning_rate=0.0)
    assert [one["step"] for one in done.refresh.history] == [4]
    assert list(generations(tmp_path)) == [1]


def test_a_second_training_with_the_same_callback_starts_over(corpus, queries, tmp_path):
    live = live_negatives(queries, corpus, n=2)
    model = make_model()
    loss = HardNegativesRankingLoss(model)
    refresh = RefreshNegatives(live, chain(corpus), 4)
    for turn in range(2):
        args = SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / str(turn)), max_steps=6, per_device_train_batch_size=4, learning_rate=0.0,
            report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        SentenceTransformerTrainer(model=model, args=args, train_dataset=live, loss=loss, callbacks=[refresh]).train()
        assert [one["step"] for one in refresh.history] == [0]
        assert len(live.source.generation().negatives.values) > 0


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[LIMITATION] if case == "no duplicates" else []) for case in CASES]
)
def test_a_training_goes_on_from_a_checkpoint_as_if_nothing_had_happened(corpus, queries, mined, tmp_path, case):
    arguments, every, places = CASES[case]
    options = OPTIONS.get(case, {})
    rows = queries if case == "unmined" else mined

    def run(folder, **more):
        live = live_negatives(rows, corpus, n=3)
        return train(live, folder, chain(corpus), every, options=options, **arguments, **more)

    plain = run(tmp_path / "plain", save=places)
    batches = len(plain.losses)
    for step in places:
        folder = tmp_path / "again"
        shutil.copytree(tmp_path / "plain", folder)
        for later in places:
            if later > step:
                shutil.rmtree(folder / f"checkpoint-{later}")
        done = run(folder, resume=folder / f"checkpoint-{step}")
        left = len(done.losses)
        assert 0 < left < batches, step
        assert done.losses == plain.losses[-left:], step
        done.same_end(plain, plain.losses[-left:])
        for one, other in zip(done.labels, plain.labels[-left:], strict=True):
            assert torch.equal(one, other), step
        timeless = [
            [{name: value for name, value in one.items() if "seconds" not in name} for one in run.refresh.history]
            for run in (done, plain)
        ]
        assert timeless[0] == timeless[1]
        entries = [[one["loss"] for one in run.log if "loss" in one] for run in (done, plain)]
        assert entries[0] == entries[1]
        for number, path in generations(folder).items():
            if number in generations(tmp_path / "plain"):
                assert lists_of(path) == lists_of(generations(tmp_path / "plain")[number])
        shutil.rmtree(folder)


@pytest.mark.parametrize("step", [4, 5])
def test_two_sets_go_on_from_a_checkpoint_too(corpus, mined, tmp_path, step):
    def run(folder, resume=None):
        data = DatasetDict(
            one=live_negatives(mined, corpus, n=3), two=live_negatives(mined.select(range(12)), corpus, n=3)
        )
        model = make_model()
        loss = HardNegativesRankingLoss(model)
        losses = []
        loss.register_forward_hook(lambda _, given, answer: losses.append(float(answer.detach())))
        args = SentenceTransformerTrainingArguments(
            output_dir=str(folder), max_steps=14, per_device_train_batch_size=4, learning_rate=0.05, logging_steps=1,
            report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        refreshes = [RefreshNegatives(one, chain(corpus), 4) for one in data.values()]
        SentenceTransformerTrainer(
            model=model, args=args, train_dataset=data, loss=loss, callbacks=[*refreshes, Save([step])]
        ).train(resume_from_checkpoint=resume)
        return losses, data

    plain, _ = run(tmp_path)
    again, data = run(tmp_path, str(tmp_path / f"checkpoint-{step}"))
    for live in data.values():
        # What is in use in the end is what was mined last.
        assert not live.source._holds()
    assert again == plain[step:]


def test_resuming_with_other_rows_is_refused(corpus, mined, tmp_path):
    train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 4, save=[5], max_steps=6)
    other = live_negatives(mined.select(range(20)), corpus, n=3)
    with pytest.raises(ValueError, match="has no generation"):
        train(other, tmp_path, chain(corpus), 4, resume=tmp_path / "checkpoint-5")
    (tmp_path / "checkpoint-5" / "live_negatives.json").unlink()
    with pytest.raises(ValueError, match="has no generation"):
        train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 4, resume=tmp_path / "checkpoint-5")


def test_resuming_without_the_generation_is_refused(corpus, mined, tmp_path):
    train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 4, save=[5], max_steps=6)
    shutil.rmtree(tmp_path / "generations")
    with pytest.raises(FileNotFoundError, match="generation 1"):
        train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 4, resume=tmp_path / "checkpoint-5")


def test_workers_hold_back_a_generation_at_the_first_batch_alone(corpus, mined, tmp_path):
    live = live_negatives(mined, corpus, n=3)
    train(live, tmp_path, chain(corpus), 4, save=[4], max_steps=6)
    live = live_negatives(mined, corpus, n=3)
    done = train(
        live, tmp_path, chain(corpus), 99, resume=tmp_path / "checkpoint-4", max_steps=31, dataloader_num_workers=1
    )
    old, new = lists_of(live.source.folder_of(0))[1], lists_of(live.source.folder_of(1))[1]
    owners = owners_of(corpus, mined)
    for place, labels in enumerate(done.labels[1:], start=5):
        known = unpack(labels, 4)
        for passages, positives in zip(known.passages.tolist(), known.positives.tolist(), strict=True):
            query = owners[frozenset(positives) - {PADDING}]
            drawn = {key for key in passages[1:] if key != PADDING}
            assert drawn <= {int(corpus.text_codes[row]) for row in new[query]}, f"batch {place} is of old negatives"
    assert old != new
