"""One seed gives one answer: in another process and cache, with workers, in any order, and after Ctrl-C."""

import json

import new_processes
import numpy as np
import pytest
import torch
from pilot_helpers import QUICK, answer, make_strategies

from hnm_datasets import BM25Negatives, load_sample, pilot
from hnm_datasets.models.fingerprint import model_fingerprint
from hnm_datasets.piloting import measured
from hnm_datasets.piloting.trainings import Course
from hnm_datasets.storage.folders import cache_root_at

SCRIPT = """
import json
import sys

sys.path.insert(0, sys.argv[1])
from pilot_helpers import QUICK, answer, make_strategies

from hnm_datasets import BM25Negatives, load_sample, pilot

corpus, queries = load_sample()
found = pilot(queries.select(range(len(queries) - 1, -1, -1)), corpus, make_strategies(corpus), **QUICK)
print("\\n" + json.dumps(answer(found)))
"""


@pytest.fixture
def trainings(monkeypatch):
    """Count the trainings that run, and interrupt one: `trainings["stop"]` is its number."""
    count, run = {"made": 0, "stop": None}, Course._run

    def counted(self, *arguments):
        if count["made"] == count["stop"]:
            raise KeyboardInterrupt
        found = run(self, *arguments)
        count["made"] += 1
        return found

    monkeypatch.setattr(Course, "_run", counted)
    return count


def test_a_new_process_with_an_empty_cache_and_other_order_finds_the_same(found, tmp_path, request):
    (tmp_path / "script.py").write_text(SCRIPT)
    log = tmp_path / "log"
    printed = new_processes.run(
        tmp_path / "script.py", request.path.parent, log=log, HF_DATASETS_CACHE=str(tmp_path / "cache")
    )
    assert json.loads(printed.splitlines()[-1]) == json.loads(json.dumps(answer(found)))


def test_workers_find_the_same_and_nothing_is_trained_again(found, sample, trainings):
    corpus, queries = sample
    again = pilot(queries, corpus, make_strategies(corpus), num_proc=2, **QUICK)
    assert answer(again) == answer(found)
    assert trainings["made"] == 0
    # What was measured the first time is kept, so that a cached answer does not look cheap.
    assert [trial.cost.mining for trial in again.trials if trial.name == "BM25"] == [
        trial.cost.mining for trial in found.trials if trial.name == "BM25"
    ]


def test_an_interrupted_training_goes_on_with_the_next(found, trainings, tmp_path):
    trainings["stop"] = 5
    with cache_root_at(tmp_path):
        corpus, queries = load_sample()
        with pytest.raises(KeyboardInterrupt, match=r"while training 2 of 2: random\. .*is kept; repeat the call"):
            pilot(queries, corpus, make_strategies(corpus), **QUICK)
        assert trainings["made"] == 5
        trainings["stop"] = None
        again = pilot(queries, corpus, make_strategies(corpus), **QUICK)
    # Four strategies and two seeds.
    assert trainings["made"] == 8
    assert answer(again) == answer(found)


def test_an_interrupt_while_mining_is_passed_on(sample, trainings, monkeypatch):
    corpus, queries = sample

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(measured, "audit_negatives", stop)
    with pytest.raises(KeyboardInterrupt, match=r"while mining: random\. .*is kept"):
        pilot(queries, corpus, make_strategies(corpus), **QUICK)
    assert trainings["made"] == 0


def test_models_and_random_states_stay_as_they_were(tiny, static_model, trainings):
    corpus, rows = tiny
    before = model_fingerprint(static_model)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    wanted = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    strategies = make_strategies(corpus)
    found = pilot(rows, corpus, {"dynamic": strategies["dynamic"]}, model=static_model, **QUICK)
    assert trainings["made"] == 2
    assert found.student == "the model itself (static embeddings)"
    assert found.scored_by == "the model"
    assert torch.equal(torch.rand(3), wanted[0])
    assert np.array_equal(np.random.rand(3), wanted[1])  # noqa: NPY002
    assert model_fingerprint(static_model) == before


def test_another_seed_or_option_is_another_training(tiny, trainings):
    corpus, rows = tiny
    only = {"in-batch": []}
    pilot(rows, corpus, only, **QUICK)
    assert trainings["made"] == 2
    pilot(rows, corpus, only, **QUICK | {"seed": 1})
    assert trainings["made"] == 4
    pilot(rows, corpus, only, **QUICK | {"steps": 6})
    assert trainings["made"] == 6
    # One more seed is one more training.
    pilot(rows, corpus, only, **QUICK | {"seeds": 3})
    assert trainings["made"] == 7


def test_rows_to_train_on_are_mined_once_for_all_seeds(tiny):
    corpus, rows = tiny
    calls = []

    def step(batch):
        # It changes with each call, so `map` never finds what it made.
        calls.append(len(calls))
        return batch

    for seeds in (1, 3):
        pilot(rows, corpus, {"counted": [BM25Negatives(corpus, k=4), step]}, **QUICK | {"seeds": seeds})
        calls.append("|")
    first, second = calls.index("|"), calls[calls.index("|") + 1 :].index("|")
    assert first == second
