"""Refreshes that are killed, and those that several processes share."""

import contextvars
import json
import os
import re
import signal
import socket
import time
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Dropout, StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

from hnm_datasets import Corpus, DenseNegatives
from hnm_datasets.storage.folders import cache_root, cache_root_at
from hnm_datasets.training import refresh_job as job
from hnm_datasets.training.generations import Generation
from hnm_datasets.training.live import live_negatives
from hnm_datasets.training.loss import HardNegativesRankingLoss
from hnm_datasets.training.refresh import RefreshNegatives

WORDS = [f"w{number}" for number in range(60)]


pytestmark = pytest.mark.usefixtures("fast_trainers")


def make_corpus():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(2, 6))) for _ in range(90)]
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"id{row}" for row in range(90)], "text": texts}))


def make_rows():
    rng = np.random.default_rng(1)
    return Dataset.from_list(
        [
            {
                "query": " ".join(rng.choice(WORDS, size=3)),
                "positive_ids": [f"id{row}" for row in rng.permutation(90)[:2]],
            }
            for _ in range(20)
        ]
    )


def make_model():
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(["[UNK]", *WORDS])}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    return SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_dim=8), Dropout(0.1)], device="cpu", similarity_fn_name="cosine"
    )


# ---- killed ----------------------------------------------------------------------------------------------------------


def slowly(marker, model):
    """A step that takes its time, and leaves a mark, while the generation is being written."""

    def step(table):
        marker.touch()
        time.sleep(0.04)
        return table

    return step


def last_checkpoint(folder):
    """The last that was written whole."""
    found = {
        int(path.parent.name.split("-")[1]): path.parent for path in folder.glob("checkpoint-*/live_negatives.json")
    }
    return found[max(found)] if found else None


def train(folder, notes, slow=True):
    """Go on from the last checkpoint, and note the loss of each step."""
    corpus, model = make_corpus(), make_model()
    live = live_negatives(make_rows(), corpus, n=3)
    loss, resume = HardNegativesRankingLoss(model), last_checkpoint(folder)
    steps = [partial(DenseNegatives, corpus, k=8), *([partial(slowly, folder / "writing")] if slow else [])]
    start = int(resume.name.split("-")[1]) if resume else 0
    count = iter(range(start + 1, 99))

    def note(_, given, answer):
        with notes.open("a") as file:
            file.write(json.dumps([next(count), float(answer.detach())]) + "\n")

    loss.register_forward_hook(note)
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder), max_steps=24, per_device_train_batch_size=4, learning_rate=0.05, report_to=[],
        save_strategy="steps", save_steps=2, disable_tqdm=True, use_cpu=True, logging_strategy="no",
    )  # fmt: skip
    refresh = RefreshNegatives(live, steps, 4, keep=9)
    trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=live, loss=loss, callbacks=[refresh])
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    torch.save(model.state_dict(), folder / "weights.pt")
    (folder / "history.json").write_text(json.dumps(refresh.history))


def quietly(*arguments):
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    train(*arguments)


def lists_of(folder):
    out = {}
    for path in sorted(folder.glob("generations/*/" + "[0-9]" * 6)):
        found = Generation.open(path)
        out[int(path.name)] = [
            part.tolist()
            for lists in (found.positives, found.negatives)
            for part in (np.asarray(lists.offsets), np.asarray(lists.values))
        ]
    return out


def timeless(folder):
    history = json.loads((folder / "history.json").read_text())
    return [{name: value for name, value in one.items() if "seconds" not in name} for one in history]


def leftovers():
    return [path for kind in ("embeddings", "vectors") for path in (cache_root() / kind).glob("*") if path.is_dir()]


def lines_in(path):
    return path.read_text().count("\n") if path.exists() else 0


def wait_for_the_moment_to_kill(child, kills, folder, notes, rng):
    """Half the kills come while a generation is written, the others after some steps of the training."""
    (folder / "writing").unlink(missing_ok=True)
    enough = lines_in(notes) + rng.integers(2, 5)
    child.start()
    while child.is_alive() and not ((folder / "writing").exists() if kills % 2 == 0 else lines_in(notes) >= enough):
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.1))


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A training that came to its end at once, and one that was killed many times."""
    root = tmp_path_factory.mktemp("killed")
    patch = pytest.MonkeyPatch()
    # Some tables in each generation, and time between them.
    patch.setattr(job, "_BATCH", 4)
    with cache_root_at(root / "cache"):
        train(root / "plain", root / "plain.jsonl", False)
        rng, folder, notes, kills, while_writing = (
            np.random.default_rng(0),
            root / "killed",
            root / "killed.jsonl",
            0,
            0,
        )
        folder.mkdir()
        while True:
            child = get_context("fork").Process(target=quietly, args=(folder, notes))
            if kills < 7:
                wait_for_the_moment_to_kill(child, kills, folder, notes, rng)
            else:
                child.start()
                child.join()
            if not child.is_alive():
                assert child.exitcode == 0
                break
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            kills += 1
            while_writing += bool(list(folder.glob("generations/*/*.tmp")))
        yield root, folder, notes, kills, while_writing, leftovers()
    patch.undo()


def test_a_killed_training_goes_on_with_the_same_losses(killed):
    root, folder, notes, kills, while_writing, _ = killed
    expected = dict(json.loads(line) for line in (root / "plain.jsonl").read_text().splitlines())
    assert sorted(expected) == list(range(1, 25))
    weights = torch.load(root / "plain" / "weights.pt")
    assert kills >= 3
    assert while_writing > 0
    seen = [json.loads(line) for line in re.findall(r"^\[.*\]$", notes.read_text(), re.MULTILINE)]
    assert {step for step, _ in seen} == set(expected)
    assert [one for one in seen if one[1] != expected[one[0]]] == []
    for name, tensor in torch.load(folder / "weights.pt").items():
        assert torch.equal(tensor, weights[name])
    assert lists_of(folder) == lists_of(root / "plain")
    assert timeless(folder) == timeless(root / "plain")


def test_a_killed_training_leaves_no_half_generation(killed):
    assert not list(killed[1].glob("generations/*/*.tmp"))


def test_the_vectors_of_a_killed_refresh_are_deleted_by_the_one_that_goes_on(killed):
    assert killed[-1] == []


# ---- several processes -----------------------------------------------------------------------------------------------

SCRIPT = """
import hashlib, json, os, time
from functools import partial
from pathlib import Path
import torch
from test_refresh_processes import make_corpus, make_model, make_rows
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments
from transformers import TrainerCallback
from hnm_datasets import BM25Negatives, DenseNegatives
from hnm_datasets import FollowEpochs, HardNegativesRankingLoss, RefreshNegatives, live_negatives
from hnm_datasets.models import shard_job
from hnm_datasets.models.encoders import Encoder
from hnm_datasets.storage.folders import cache_root

shard_job.SHARD = 16
rank, root = int(os.environ["RANK"]), Path(os.environ["ROOT"])
encoded, parts = [], Encoder._parts

def counted(self, loaded, texts, *arguments, **options):
    encoded.extend(texts)
    return parts(self, loaded, texts, *arguments, **options)

Encoder._parts = counted


class Watch(TrainerCallback):
    def __init__(self, live):
        self.live, self.seen = live, []

    def on_step_end(self, args, state, control, **kwargs):
        progress = self.live.source.progress
        self.seen.append([state.global_step, progress.generation, progress.epoch])


class Late(TrainerCallback):
    def __init__(self, when):
        self.when = when

    def on_step_end(self, args, state, control, **kwargs):
        if (state.global_step, rank) in self.when:
            time.sleep(0.4)


def slowly(model):
    def step(table):
        time.sleep(0.1)
        return table
    return step


def run(name, refreshed, mined=False, follow=False, **options):
    corpus, model = make_corpus(), make_model()
    rows = make_rows()
    if mined:
        rows = rows.map(BM25Negatives(corpus, k=6), batched=True)
    live = live_negatives(rows, corpus, n=3)
    steps = [partial(DenseNegatives, corpus, k=8), slowly]
    refresh = RefreshNegatives(live, steps, 4, **options)
    watch = Watch(live)
    args = SentenceTransformerTrainingArguments(
        output_dir=str(root / name), max_steps=13, per_device_train_batch_size=4, learning_rate=0.05, report_to=[],
        save_strategy="steps", save_steps=6, disable_tqdm=True, use_cpu=True, ddp_backend="gloo",
        logging_strategy="no",
    )
    # In the background a refresh takes its time, which the first rank gives it.
    late = {"front": {(4, 0), (8, 1)}, "back": {(5, 0), (6, 0), (7, 0)}}
    callbacks = [Late(late.get(name, ()))]
    callbacks += [refresh] if refreshed else []
    callbacks += [FollowEpochs(live)] if follow else []
    trainer = SentenceTransformerTrainer(
        model=model, args=args, train_dataset=live, loss=HardNegativesRankingLoss(model), callbacks=[*callbacks, watch]
    )
    assert args.world_size == 2
    encoded.clear()
    trainer.train()
    torch.distributed.barrier()
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if "(deleted)" in line]
    out = {
        "seen": watch.seen,
        "history": refresh.history,
        "probes": refresh.probes,
        "encoded": list(encoded),
        "weights": hashlib.sha256(model[0].embedding.weight.detach().numpy().tobytes()).hexdigest(),
        "generations": sorted(int(path.name) for path in (root / name).glob("generations/*/" + "[0-9]" * 6)),
        "left": [str(p) for kind in ("embeddings", "vectors") for p in (cache_root() / kind).glob("*") if p.is_dir()],
        # A fork inherits what other tests have mapped, which is not in this cache.
        "mapped": [line for line in maps if str(cache_root() / "embeddings") in line],
    }
    (root / f"{name}-{rank}.json").write_text(json.dumps(out))
    torch.distributed.barrier()


run("front", True, keep=9)
run("back", True, mined=True, keep=9, background=True)
run("follow", False, mined=True, follow=True)
run("gated", True, mined=True, keep=9, start=2, start_mrr=0.01, stale=1.0, probe=10, memory=0.4, corpus_every=2)
print("finished")
"""


def be_rank(root, env):
    """Be one of the processes that a launcher starts."""
    os.environ.update(env)
    warnings.resetwarnings()
    AcceleratorState._reset_state(reset_partial_state=True)
    datasets.config.HF_DATASETS_CACHE = Path(env["HF_DATASETS_CACHE"])
    with (root / f"log-{env['RANK']}").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            # What other tests set in this context is not for the ranks.
            contextvars.Context().run(exec, SCRIPT, {"__name__": "script"})
        except BaseException:
            traceback.print_exc(file=log)
            raise


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two ranks saw."""
    root = tmp_path_factory.mktemp("ranks")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    env = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
        "HF_DATASETS_CACHE": str(root / "cache"), "ROOT": str(root),
        "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    # Forks, because a new process takes seconds to import what it needs.
    workers = [
        get_context("fork").Process(target=be_rank, args=(root, env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}))
        for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join(timeout=100)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    for rank, worker in enumerate(workers):
        assert worker.exitcode == 0, (root / f"log-{rank}").read_text()[-3000:]
    return {
        name: [json.loads((root / f"{name}-{rank}.json").read_text()) for rank in range(2)]
        for name in ("front", "back", "follow", "gated")
    }


def test_all_ranks_switch_at_the_same_step_to_one_generation(ranks):
    first, second = ranks["front"]
    assert first["seen"] == second["seen"]
    assert [generation for _, generation, _ in first["seen"]] == [1] * 3 + [2] * 4 + [3] * 4 + [4] * 2
    assert first["generations"] == [1, 2, 3, 4]
    assert [one["step"] for one in first["history"]] == [0, 4, 8, 12]
    assert first["history"] == second["history"]
    assert first["weights"] == second["weights"]


def test_ranks_share_the_encoding(ranks):
    first, second = ranks["front"]
    corpus, rows = make_corpus(), make_rows()
    once = [*corpus.texts(np.arange(len(corpus))).to_pylist(), *rows["query"]]
    both = first["encoded"] + second["encoded"]
    assert len(both) == 4 * len(set(once))
    assert set(both) == set(once)
    assert first["encoded"]
    assert second["encoded"]


def test_ranks_leave_no_vectors(ranks):
    """Whichever rank is the first to come to a refresh."""
    assert ranks["front"][0]["left"] == []


def test_no_rank_keeps_deleted_vectors_mapped(ranks):
    """Else their bytes stay on the disk until the training ends."""
    assert [len(one["mapped"]) for one in ranks["front"]] == [0, 0]


def test_ranks_switch_together_in_the_background(ranks):
    first, second = ranks["back"]
    assert first["seen"] == second["seen"]
    assert first["weights"] == second["weights"]
    assert first["history"] == second["history"]
    assert first["seen"][-1][1] >= 1
    assert all(one["model_step"] < one["step"] for one in first["history"])


def test_ranks_look_and_refresh_together(ranks):
    first, second = ranks["gated"]
    assert first["probes"]
    assert first["probes"] == second["probes"]
    assert first["history"]
    assert first["history"] == second["history"]
    assert first["weights"] == second["weights"]
    assert first["seen"] == second["seen"]


@pytest.mark.parametrize("name", ["front", "back", "follow", "gated"])
def test_each_epoch_has_its_own_draw_in_all_ranks(ranks, name):
    for one in ranks[name]:
        # 40 rows: 5 batches of 4 in each rank.
        assert [epoch for _, _, epoch in one["seen"]] == [0] * 5 + [1] * 5 + [2] * 3
