"""Refreshed negatives: they are those of the model as it is then, and nothing else of the training notices."""

import gc
import json
import random
import shutil
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Dropout, StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import TrainerCallback

from hnm_datasets import (
    BiEncoderScores,
    BM25Negatives,
    Corpus,
    CrossEncoderScores,
    DenseIndex,
    DenseNegatives,
    FuseNegatives,
    RandomNegatives,
    RelativeMargin,
    TeacherThreshold,
    ToTriplets,
)
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.training.generations import Generation
from hnm_datasets.training.labels import PADDING, unpack
from hnm_datasets.training.live import live_negatives
from hnm_datasets.training.loss import HardNegativesRankingLoss
from hnm_datasets.training.refresh import RefreshNegatives
from hnm_datasets.training.refresh_job import untouched

PASSAGES, QUERIES, K, MARGIN = 90, 25, 12, 0.05

pytestmark = [
    pytest.mark.usefixtures("fast_trainers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


WORDS = [f"w{number}" for number in range(60)]


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(2, 6))) for _ in range(PASSAGES)]
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"id{row}" for row in range(PASSAGES)], "text": texts}))


@pytest.fixture(scope="module")
def queries(corpus):
    """Queries that were not mined, with 40 positives in all."""
    rng, rows = np.random.default_rng(1), []
    for query in range(QUERIES):
        own = rng.permutation(PASSAGES)[: 1 + (query % 5 < 3)]
        words = " ".join(corpus.texts(own).to_pylist()).split()
        rows.append(
            {
                "query_id": f"query{query}",
                "query": " ".join([*rng.permutation(words)[:3], str(rng.choice(WORDS))]),
                "positive_ids": [f"id{row}" for row in own],
            }
        )
    assert sum(len(row["positive_ids"]) for row in rows) == 40
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def mined(corpus, queries):
    return queries.map(RandomNegatives(corpus, k=6), batched=True)


def make_model():
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(["[UNK]", *WORDS])}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    return SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_dim=8), Dropout(0.1)], device="cpu", similarity_fn_name="cosine"
    )


class Save(TrainerCallback):
    """Says at which steps to save."""

    def __init__(self, steps):
        self.steps = set(steps)

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step in self.steps


class Done:
    """A training that is over: the loss of each batch, the weights, and who took part."""

    def __init__(self, trainer, losses, refresh, labels):
        self.trainer, self.losses, self.refresh, self.labels = trainer, losses, refresh, labels
        self.weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        self.log = trainer.state.log_history

    def same_end(self, other, losses):
        assert losses
        assert self.losses == losses
        for name, tensor in self.weights.items():
            assert torch.equal(tensor, other.weights[name])


def train(live, folder, steps=(), every=4, *, save=(), resume=None, callbacks=(), options=None, **arguments):
    """Train 24 steps, 10 batches an epoch."""
    model = arguments.pop("model", None) or make_model()
    loss = arguments.pop("loss", HardNegativesRankingLoss)(model)
    losses, labels = [], []
    loss.register_forward_pre_hook(lambda _, given: labels.append(given[1]))
    loss.register_forward_hook(
        lambda _, given, answer: losses.append(
            float((answer.loss if isinstance(answer, dict) else answer).detach())  #
        )
    )
    refresh = RefreshNegatives(live, list(steps), every, **(options or {})) if steps else None
    args = SentenceTransformerTrainingArguments(
        **{
            "output_dir": str(folder),
            "max_steps": 24,
            "per_device_train_batch_size": 4,
            "learning_rate": 0.05,
            "logging_steps": 1,
            "report_to": [],
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        | arguments
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=args, train_dataset=live, loss=loss,
        callbacks=[*([refresh] if refresh else []), Save(save), *callbacks],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return Done(trainer, losses, refresh, labels)


def chain(corpus, k=K):
    return [partial(DenseNegatives, corpus, k=k), RelativeMargin(MARGIN)]


def generations(folder):
    """All generations on disk, by number."""
    return {int(path.name): path for path in Path(folder).glob("generations/*/" + "[0-9]" * 6)}


def lists_of(path):
    """Positives and negatives of each query in a generation."""
    found = Generation.open(path)
    return [
        [lists.values[a:b].tolist() for a, b in zip(lists.offsets[:-1], lists.offsets[1:], strict=True)]
        for lists in (found.positives, found.negatives)
    ]


def from_scratch(rows, corpus, steps, model):
    """What mining with a model comes to: the rows after each step."""
    rows = rows.select_columns(["query_id", "query", "positive_ids"])
    out = []
    for step in steps:
        rows = rows.map(step if not callable(getattr(step, "func", None)) else step(model), batched=True)
        out.append(rows)
    return out


def rows_of(corpus, rows, column="negative_ids"):
    return [corpus.rows(ids).tolist() if ids else [] for ids in rows[column]]


def owners_of(corpus, rows):
    """Queries by the keys of their positives."""
    owners = {
        frozenset(corpus.text_codes[corpus.rows(row["positive_ids"])].tolist()): query for query, row in enumerate(rows)
    }
    assert len(owners) == len(rows)
    return owners


# ---- what is mined ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "at"), [(5, (5, 10, 15, 20)), (0.6, (6, 12, 18)), (1.0, (10, 20))])
def test_negatives_are_those_of_mining_with_the_model_of_that_step(corpus, mined, tmp_path, every, at):
    live = live_negatives(mined, corpus, n=3)
    done = train(live, tmp_path, chain(corpus), every, save=at, options={"keep": 9})
    assert [one["step"] for one in done.refresh.history] == list(at)
    assert sorted(generations(tmp_path)) == list(range(1, len(at) + 1))
    before = lists_of(live.source.folder_of(0))[1]
    for number, step in enumerate(at, start=1):
        model = SentenceTransformer(str(tmp_path / f"checkpoint-{step}"), device="cpu")
        found, kept = from_scratch(mined, corpus, chain(corpus), model)
        positives, negatives = lists_of(generations(tmp_path)[number])
        assert positives == rows_of(corpus, mined, "positive_ids")
        assert negatives == rows_of(corpus, kept)
        assert negatives != before
        about = done.refresh.history[number - 1]
        assert about["generation"] == number
        assert about["model_step"] == step
        check_numbers(about, found, kept, before, negatives, n=3)
        before = negatives


def check_numbers(about, found, kept, before, now, n):
    reciprocal, answered = [], []
    for row in found:
        ahead = sum(score > max(row["positive_scores"]) for score in row["negative_scores"])
        there = ahead < len(row["negative_scores"])
        reciprocal.append(1 / (1 + ahead) if there else 0)
        answered.append(there)
    assert about["mrr"] == pytest.approx(np.mean(reciprocal))
    assert about["recall"] == pytest.approx(np.mean(answered))
    above = [score > max(row["positive_scores"]) for row in kept for score in row["negative_scores"]]
    if above:
        assert about["above"] == pytest.approx(np.mean(above))
    new = [row not in old for one, old in zip(now, before, strict=True) for row in one]
    assert about["replaced"] == pytest.approx(np.mean(new) if new else 0)
    assert about["short"] == pytest.approx(np.mean([len(one) < n for one in now]))
    assert {"seconds_encode", "seconds_index", "seconds_mine"} <= set(about)


def test_the_trainer_draws_from_the_new_lists_from_the_batch_after_next(corpus, mined, tmp_path):
    live = live_negatives(mined, corpus, n=3)
    done = train(live, tmp_path, chain(corpus), 4, options={"keep": 99})
    assert len(done.labels) == 24
    owners = owners_of(corpus, mined)
    codes = {0: lists_of(live.source.folder_of(0))[1]}
    codes |= {number: lists_of(path)[1] for number, path in generations(tmp_path).items()}
    for place, labels in enumerate(done.labels):
        # Batch 5 (place 4) was ready when step 4 ended, unless an epoch ended there.
        number = place // 4 if place % 4 or place % 10 == 0 else place // 4 - 1
        known = unpack(labels, 4)
        for passages, positives in zip(known.passages.tolist(), known.positives.tolist(), strict=True):
            query = owners[frozenset(positives) - {PADDING}]
            there = [int(corpus.text_codes[row]) for row in codes[max(number, 0)][query]]
            drawn = [key for key in passages[1:] if key != PADDING]
            assert len(drawn) == min(3, len(there)), place
            assert [there.index(key) for key in drawn] == sorted(there.index(key) for key in drawn), place


def test_queries_that_were_not_mined_are_mined_before_the_first_step(corpus, queries, tmp_path):
    live = live_negatives(queries, corpus, n=2)
    model = make_model()
    expected = from_scratch(queries, corpus, chain(corpus), make_model())[-1]
    done = train(live, tmp_path, chain(corpus), 50, model=model)
    assert [one["step"] for one in done.refresh.history] == [0]
    assert lists_of(generations(tmp_path)[1])[1] == rows_of(corpus, expected)
    first = unpack(done.labels[0], 3).passages
    assert (first[:, 1:] != PADDING).float().mean() > 0.4


@pytest.mark.parametrize("fraction", [0.5])
def test_queries_that_were_not_mined_are_all_mined_at_first(corpus, queries, tmp_path, fraction):
    """A share of nothing would leave the other queries with padding alone."""
    live = live_negatives(queries, corpus, n=2)
    expected = from_scratch(queries, corpus, chain(corpus), make_model())[-1]
    train(live, tmp_path, chain(corpus), 50, options={"fraction": fraction})
    assert lists_of(generations(tmp_path)[1])[1] == rows_of(corpus, expected)


def test_queries_that_are_not_mined_keep_their_negatives(corpus, mined, tmp_path):
    asked = []

    def note(table):
        asked.append(set(table["query_id"].to_pylist()))
        return table

    live = live_negatives(mined, corpus, n=3)
    steps = [*chain(corpus), lambda model: note]
    done = train(live, tmp_path, steps, 5, save=(5, 10, 15, 20), options={"keep": 9, "fraction": 0.5})
    before = lists_of(live.source.folder_of(0))[1]
    for number in (1, 2, 3, 4):
        model = SentenceTransformer(str(tmp_path / f"checkpoint-{5 * number}"), device="cpu")
        fresh = rows_of(corpus, from_scratch(mined, corpus, chain(corpus), model)[-1])
        now = lists_of(generations(tmp_path)[number])[1]
        half = [name in asked[number - 1] for name in mined["query_id"]]
        assert now == [one if there else old for one, old, there in zip(fresh, before, half, strict=True)]
        new = [row not in before[query] for query in range(QUERIES) if half[query] for row in now[query]]
        assert done.refresh.history[number - 1]["replaced"] == pytest.approx(np.mean(new))
        before = now


@pytest.mark.parametrize(("fraction", "rounds"), [(0.5, 2), (0.25, 4), (0.75, 2)])
def test_each_time_that_share_is_mined_and_all_queries_in_turn(corpus, mined, tmp_path, fraction, rounds):
    asked = []

    def note(table):
        asked.append(table["query_id"].to_pylist())
        return table

    live = live_negatives(mined, corpus, n=3)
    steps = [partial(DenseNegatives, corpus, k=K), lambda model: note]
    train(live, tmp_path, steps, 4, options={"keep": 99, "fraction": fraction})
    assert len(asked) == 5
    assert [len(one) for one in asked] == pytest.approx([fraction * QUERIES] * 5, abs=1)
    for start in range(5 - rounds):
        assert set().union(*asked[start : start + rounds]) == set(mined["query_id"])


def test_promoted_positives_become_known_and_are_never_negatives(corpus, mined, tmp_path):
    asked = []

    def teacher(pairs):
        asked.extend(pairs)
        return [len(set(query.split()) & set(passage.split())) / 3 for query, passage in pairs]

    scored = mined.map(CrossEncoderScores(corpus, teacher, fingerprint="share-1"), batched=True)
    live = live_negatives(scored, corpus, n=3, teacher="teacher", max_positives=40)
    steps = [
        partial(DenseNegatives, corpus, k=30),
        CrossEncoderScores(corpus, teacher, fingerprint="share-1"),
        TeacherThreshold(0.3, 0.6, promote=True),
    ]
    done = train(live, tmp_path, steps, 4, options={"keep": 99})
    ever = [set(one) for one in rows_of(corpus, mined, "positive_ids")]
    grew = 0
    for number in range(1, 6):
        positives, negatives = lists_of(generations(tmp_path)[number])
        for query in range(QUERIES):
            assert ever[query] <= set(positives[query])
            assert len(positives[query]) == len(set(positives[query]))
            grew += len(positives[query]) > len(ever[query])
            ever[query] = set(positives[query])
            assert not ever[query] & set(negatives[query])
        found = Generation.open(generations(tmp_path)[number])
        assert len(found.positive_scores) == len(found.positives.values)
    assert grew > 5
    owners = [query for query in range(QUERIES) for _ in mined[query]["positive_ids"]]
    for row, owner in zip(live, owners, strict=True):
        labels = unpack(torch.tensor([row["label"]]), 4)
        keys = set(labels.positives[0].tolist()) - {PADDING}
        assert keys == {int(corpus.text_codes[one]) for one in ever[owner]}
        texts = [row["positive"], *(row[f"negative_{place}"] for place in (1, 2, 3))]
        for text, key, score in zip(texts, labels.passages[0], labels.scores[0], strict=True):
            if key != PADDING:
                assert score == np.float32(teacher([(row["anchor"], text)])[0])
    assert done.refresh.history


def test_promoted_positives_need_room(corpus, mined, tmp_path):
    def teacher(pairs):
        return [1.0] * len(pairs)

    live = live_negatives(mined, corpus, n=3)
    steps = [
        *chain(corpus, k=4)[:1],
        CrossEncoderScores(corpus, teacher, fingerprint="one"),
        TeacherThreshold(0.3, 0.6, promote=True),
    ]
    with pytest.raises(ValueError, match="max_positives="):
        train(live, tmp_path, steps, 4)


def test_two_sets_of_the_same_queries_keep_apart(corpus, mined, tmp_path):
    """Of the same rows, with other numbers of negatives and other steps."""
    data = DatasetDict(one=live_negatives(mined, corpus, n=1), two=live_negatives(mined, corpus, n=3))
    model = make_model()
    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4, report_to=[], save_strategy="no",
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    sets = [(data["one"], 2), (data["two"], 7)]
    refreshes = [RefreshNegatives(live, [BM25Negatives(corpus, k=k)], 2) for live, k in sets]
    trainer = SentenceTransformerTrainer(
        model=model, args=args, train_dataset=data, loss=HardNegativesRankingLoss(model), callbacks=refreshes
    )
    try:
        trainer.train()
    except ValueError:
        # To refuse them is as good.
        return
    for live, k in sets:
        expected = rows_of(corpus, mined.remove_columns("negative_ids").map(BM25Negatives(corpus, k=k), batched=True))
        found = live.source.generation().negatives
        assert found.values.tolist() == [row for one in expected for row in one]


# ---- nothing else notices --------------------------------------------------------------------------------------------


def meddle(corpus):
    """A step of no model that leaves the random states and the model's modes in disorder."""

    def make(model):
        random.random()
        np.random.random()  # noqa: NPY002
        torch.rand(7)
        random.seed(4)
        torch.manual_seed(99)
        np.random.seed(5)  # noqa: NPY002
        model.train()
        model[0].eval()
        return BM25Negatives(corpus, k=6)

    return make


@pytest.mark.parametrize(
    ("options", "meddling"),
    [({}, False), ({}, True), ({"gradient_accumulation_steps": 2}, True), ({"dataloader_num_workers": 1}, False)],
)
def test_a_refresh_that_finds_the_same_leaves_every_loss_as_it_was(corpus, queries, tmp_path, options, meddling):
    rows = queries.map(BM25Negatives(corpus, k=6), batched=True)
    plain = train(live_negatives(rows, corpus, n=3), tmp_path / "plain", **options)
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


def test_a_second_training_with_the_same_callback_begins_anew(corpus, queries, tmp_path):
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


# ---- resuming --------------------------------------------------------------------------------------------------------

#: Saved before, at and after switches, and at ends of epochs.
CASES = {
    "plain": ({}, 4, (3, 4, 5, 10, 20)),
    "accumulating": ({"gradient_accumulation_steps": 2, "max_steps": 12}, 2, (3, 4, 5, 6)),
    "uneven": ({"gradient_accumulation_steps": 3, "max_steps": 9}, 2, (2, 3, 4)),
    "no duplicates": ({"batch_sampler": "no_duplicates", "max_steps": 14}, 4, (4, 5, 6)),
    "epochs": ({}, 1.0, (9, 10, 11)),
    "unmined": ({"max_steps": 14}, 5, (2, 5)),
    "share": ({"max_steps": 14}, 4, (4, 6)),
}


LIMITATION = pytest.mark.xfail(
    strict=True,
    reason="batches that are skipped are put together again, by the texts that are drawn now",
)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[LIMITATION] if case == "no duplicates" else []) for case in CASES]
)
def test_a_training_goes_on_from_a_checkpoint_as_if_nothing_had_happened(corpus, queries, mined, tmp_path, case):
    arguments, every, places = CASES[case]
    options = {"fraction": 0.5} if case == "share" else {}
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
        loss.register_forward_hook(lambda _, given, answer: losses.append(float(answer.loss.detach())))
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
    with pytest.raises(ValueError, match="which generation"):
        train(other, tmp_path, chain(corpus), 4, resume=tmp_path / "checkpoint-5")
    (tmp_path / "checkpoint-5" / "live_negatives.json").unlink()
    with pytest.raises(ValueError, match="which generation"):
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


# ---- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 3])
def test_old_generations_are_deleted_unless_a_checkpoint_needs_them(corpus, mined, tmp_path, keep):
    options = {"options": {"keep": keep}}
    train(live_negatives(mined, corpus, n=3), tmp_path / "none", chain(corpus), 3, **options)
    assert sorted(generations(tmp_path / "none")) == list(range(8 - keep, 8))
    train(live_negatives(mined, corpus, n=3), tmp_path / "some", chain(corpus), 3, save=[7, 13], **options)
    needed = {2, 4}
    there = set(generations(tmp_path / "some"))
    assert needed | set(range(8 - keep, 8)) <= there <= needed | {1, 3} | set(range(8 - keep, 8))


def test_a_new_training_in_the_same_folder_begins_anew(corpus, mined, tmp_path):
    first = train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 3)
    again = train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 3)
    again.same_end(first, first.losses)
    assert sorted(generations(tmp_path)) == [6, 7]


def vectors():
    return {
        path for kind in ("embeddings", "vectors", "dense") for path in (cache_root() / kind).glob("*") if path.is_dir()
    }


DISCARDED = {
    "dense": lambda corpus: [partial(DenseNegatives, corpus, k=K)],
    "index": lambda corpus: [
        lambda model: DenseNegatives(corpus, model, k=K, index=DenseIndex(corpus.embed(model, prompt="w1 "), "HNSW8"))
    ],
    "fused": lambda corpus: [
        lambda model: FuseNegatives(
            {"dense": DenseNegatives(corpus, model, k=K), "bm25": BM25Negatives(corpus, k=K)}
        )
    ],
    "scores": lambda corpus: [BM25Negatives(corpus, k=K), partial(BiEncoderScores, corpus)],
    "embeddings": lambda corpus: [
        BM25Negatives(corpus, k=K),
        lambda model: BiEncoderScores(corpus, model, embeddings=corpus.embed(model)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", DISCARDED)
def test_vectors_of_the_models_in_between_are_deleted_and_others_stay(corpus, mined, tmp_path, case):
    fixed = make_model()
    DenseNegatives(corpus, fixed, k=3)(mined[:3])
    before = vectors()
    assert len(before) >= 2
    train(live_negatives(mined, corpus, n=3), tmp_path, DISCARDED[case](corpus), 4)
    assert vectors() == before


def test_a_model_whose_vectors_were_there_keeps_them(corpus, queries, tmp_path):
    model = make_model()
    DenseNegatives(corpus, model, k=3)(queries[:])
    before = vectors()
    train(live_negatives(queries, corpus, n=3), tmp_path, chain(corpus), 4, model=model)
    assert vectors() == before


def test_deleted_vectors_do_not_stay_mapped(corpus, mined, tmp_path):
    train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 4)
    gc.collect()
    maps = Path("/proc/self/maps").read_text().splitlines()
    root = str(cache_root())
    assert [line for line in maps if "(deleted)" in line and root in line and "/embeddings/" in line] == []


def test_a_teachers_scores_are_kept(corpus, mined, tmp_path):
    asked = []

    def teacher(pairs):
        asked.extend(pairs)
        return [len(passage) % 7 / 7 for _, passage in pairs]

    steps = [
        partial(DenseNegatives, corpus, k=K),
        CrossEncoderScores(corpus, teacher, fingerprint="length-kept"),
        TeacherThreshold(0.8),
    ]
    train(live_negatives(mined, corpus, n=3), tmp_path, steps, 4)
    assert len(asked) == len(set(asked)) > 0


# ---- in the background -----------------------------------------------------------------------------------------------


class At(TrainerCallback):
    """Does something at the end of a step."""

    def __init__(self, **deeds):
        self.deeds = {int(step.removeprefix("step_")): deed for step, deed in deeds.items()}

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step in self.deeds:
            self.deeds[state.global_step]()


def running():
    return [thread for thread in threading.enumerate() if thread.name == "RefreshNegatives"]


def test_a_refresh_in_the_background_is_of_the_model_as_it_was(corpus, mined, tmp_path):
    free = threading.Event()
    threads = []

    def wait(model):
        threads.append(threading.current_thread().name)
        assert free.wait(20)
        return DenseNegatives(corpus, model, k=K)

    def finish():
        free.set()
        for thread in running():
            thread.join()

    live = live_negatives(mined, corpus, n=3)
    seen = At(step_7=finish, step_6=lambda: threads.append(live.source.progress.generation))
    done = train(
        live, tmp_path, [wait, RelativeMargin(MARGIN)], 4, save=[4], callbacks=[seen], max_steps=11,
        options={"background": True, "keep": 9},
    )  # fmt: skip
    assert threads[:2] == ["RefreshNegatives", 0]
    first = done.refresh.history[0]
    assert (first["model_step"], first["step"], first["generation"]) == (4, 8, 1)
    model = SentenceTransformer(str(tmp_path / "checkpoint-4"), device="cpu")
    expected = from_scratch(mined, corpus, chain(corpus), model)[-1]
    assert lists_of(generations(tmp_path)[1])[1] == rows_of(corpus, expected)
    assert not running()
    assert any(one.get("refresh_model_step") == 4 for one in done.log)


def test_a_refresh_in_the_background_does_not_disturb_the_training(corpus, queries, tmp_path):
    rows = queries.map(BM25Negatives(corpus, k=6), batched=True)
    plain = train(live_negatives(rows, corpus, n=3), tmp_path / "plain")
    steps = [partial(DenseNegatives, corpus, k=5), BM25Negatives(corpus, k=6)]
    live = live_negatives(rows, corpus, n=3)
    done = train(live, tmp_path / "beside", steps[1:], 3, options={"background": True})
    assert done.refresh.history
    done.same_end(plain, plain.losses)


def test_a_training_goes_on_from_a_checkpoint_of_the_time_of_a_refresh_in_the_background(corpus, mined, tmp_path):
    """What was under way is lost; the next refresh comes at its time."""
    free, waited = threading.Event(), []

    def wait(model):
        waited.append(free.wait(20))
        return DenseNegatives(corpus, model, k=K)

    options = {"background": True, "keep": 9}
    live = live_negatives(mined, corpus, n=3)
    train(live, tmp_path, [wait], 4, save=[6], max_steps=8, callbacks=[At(step_7=free.set)], options=options)
    noted = json.loads((tmp_path / "checkpoint-6" / "live_negatives.json").read_text())[live.source.name]
    assert (noted["generation"], noted["history"]) == (0, [])
    live = live_negatives(mined, corpus, n=3)
    done = train(live, tmp_path, [wait], 4, resume=tmp_path / "checkpoint-6", max_steps=60, options=options)
    assert done.refresh.history[0]["model_step"] == 8
    assert done.refresh.history[0]["generation"] == 1
    assert all(waited)


def test_an_error_in_the_background_is_raised_in_the_training(corpus, mined, tmp_path):
    def fail(model):
        raise ArithmeticError("no such luck")

    for max_steps in (24, 5):
        with pytest.raises(RuntimeError) as caught:
            train(
                live_negatives(mined, corpus, n=3), tmp_path, [fail], 4, max_steps=max_steps,
                options={"background": True},
            )  # fmt: skip
        chained = f"{caught.value} {caught.value.__cause__!r}"
        assert "no such luck" in chained


def test_an_error_in_the_foreground_is_raised_as_it_is(corpus, mined, tmp_path):
    def fail(model):
        raise ArithmeticError("no such luck")

    with pytest.raises(ArithmeticError, match="no such luck"):
        train(live_negatives(mined, corpus, n=3), tmp_path, [fail], 4)
    done = train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 4)
    assert len(done.refresh.history) == 5


# ---- what is logged --------------------------------------------------------------------------------------------------


def test_numbers_reach_the_log_beside_the_loss(corpus, mined, tmp_path):
    done = train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 5)
    history = {one["step"]: one for one in done.refresh.history}
    assert list(history) == [5, 10, 15, 20]
    with_loss = [one for one in done.log if "loss" in one]
    for entry in with_loss:
        last = max((step for step in history if step < entry["step"]), default=None)
        if last is None:
            assert not any(name.startswith("refresh_") for name in entry)
            continue
        for name in ("mrr", "recall", "above", "replaced", "short", "generation", "model_step"):
            assert entry[f"refresh_{name}"] == pytest.approx(history[last][name], abs=1e-4), name
    own = [one for one in done.log if "loss" not in one and "refresh_mrr" in one]
    assert [(one["step"], one["refresh_generation"]) for one in own] == [(5, 1), (10, 2), (15, 3), (20, 4)]
    assert json.loads(json.dumps(done.refresh.history)) == done.refresh.history


def test_the_stock_loss_trains_on_refreshed_rows(corpus, mined, tmp_path):
    done = train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 5, loss=MultipleNegativesRankingLoss)
    assert np.isfinite(done.losses).all()
    assert any("refresh_mrr" in one for one in done.log)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_see_the_switch(corpus, mined, tmp_path, persistent):
    live = live_negatives(mined, corpus, n=3)
    done = train(
        live, tmp_path, chain(corpus), 10, options={"keep": 9}, max_steps=40, dataloader_num_workers=2,
        dataloader_persistent_workers=persistent,
    )  # fmt: skip
    lists = [lists_of(live.source.folder_of(number))[1] for number in range(4)]
    owners = owners_of(corpus, mined)
    for epoch in range(4):
        fits = np.zeros(4)
        for labels in done.labels[10 * epoch : 10 * epoch + 10]:
            known = unpack(labels, 4)
            for passages, positives in zip(known.passages.tolist(), known.positives.tolist(), strict=True):
                query = owners[frozenset(positives) - {PADDING}]
                for number in range(4):
                    there = {int(corpus.text_codes[row]) for row in lists[number][query]}
                    drawn = [key for key in passages[1:] if key != PADDING]
                    fits[number] += set(drawn) <= there and len(drawn) == min(3, len(lists[number][query]))
        assert fits[epoch] == 40, (epoch, fits)
        assert sorted(fits)[-2] < 36


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"every": 0}, ValueError, "every"),
        ({"every": -1}, ValueError, "every"),
        ({"every": 0.0}, ValueError, "every"),
        ({"every": float("nan")}, ValueError, "every"),
        ({"every": True}, (TypeError, ValueError), "every"),
        ({"every": "5"}, (TypeError, ValueError), "every"),
        ({"fraction": 0}, ValueError, "fraction"),
        ({"fraction": 2}, ValueError, "fraction"),
        ({"keep": 0}, ValueError, "keep"),
        ({"background": "yes"}, (TypeError, ValueError), "background"),
        ({"steps": []}, TypeError, "steps"),
        ({"steps": [3]}, TypeError, "steps"),
        ({"steps": RelativeMargin(0.1)}, TypeError, "steps"),
        ({"live": "rows"}, TypeError, "live_negatives"),
        ({"steps": [RelativeMargin(0.1)]}, ValueError, "negative_ids"),
    ],
)
def test_bad_options(corpus, mined, options, error, match):
    given = {"live": live_negatives(mined, corpus), "steps": chain(corpus), "every": 5} | options
    with pytest.raises(error, match=match):
        RefreshNegatives(**given)


def test_a_column_of_a_teacher_that_nobody_writes(corpus, mined):
    scored = mined.map(CrossEncoderScores(corpus, lambda pairs: [0.0] * len(pairs), fingerprint="zero"), batched=True)
    for rows in (mined, scored):
        with pytest.raises(ValueError, match=r"negative_teacher_scores.*CrossEncoderScores"):
            RefreshNegatives(live_negatives(rows, corpus), [*chain(corpus), TeacherThreshold(0.1)], 5)
    named = CrossEncoderScores(corpus, lambda pairs: [0.0] * len(pairs), fingerprint="zero", name="other")
    with pytest.raises(ValueError, match="negative_teacher_scores"):
        RefreshNegatives(live_negatives(mined, corpus), [*chain(corpus), named, TeacherThreshold(0.1)], 5)
    RefreshNegatives(live_negatives(mined, corpus), [*chain(corpus), named, TeacherThreshold(0.1, by="other")], 5)


def test_rows_that_carry_a_teachers_scores_need_them_of_the_steps(corpus, mined):
    """Else the training would stop at its first refresh, an hour later."""
    scored = mined.map(CrossEncoderScores(corpus, lambda pairs: [0.0] * len(pairs), fingerprint="zero"), batched=True)
    live = live_negatives(scored, corpus, teacher="teacher")
    with pytest.raises(ValueError, match=r"teacher_scores"):
        RefreshNegatives(live, chain(corpus), 5)


def test_shapes_are_refused(corpus, mined, tmp_path):
    with pytest.raises(ValueError, match=r"ToTriplets|negative_ids"):
        train(live_negatives(mined, corpus, n=3), tmp_path, [*chain(corpus), ToTriplets(corpus)], 4)


def test_a_step_before_the_miner_that_needs_candidates_is_refused(corpus, mined):
    with pytest.raises((TypeError, ValueError)):
        RefreshNegatives(
            live_negatives(mined, corpus), [CrossEncoderScores(corpus, len, fingerprint="x"), *chain(corpus)], 5
        )
