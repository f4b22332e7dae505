"""Two devices, each with half the batch, learn what one with all of it does."""

import dataclasses
import functools
import multiprocessing
import pickle
import warnings
from datetime import timedelta

import numpy as np
import pytest
import torch
from torch import nn

from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.training.labels import PADDING, pack
from hnm_datasets.training.loss import CachedHardNegativesRankingLoss, HardNegativesRankingLoss
from hnm_datasets.training.metrics import take

ALL_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
ROWS, COLUMNS, DIMENSION = 6, 3, 4


@dataclasses.dataclass
class Case:
    options: dict
    labeled: bool = True
    mini_batch_size: int | None = None
    guided: bool = False


CASES = {
    "plain": Case({}, labeled=False),
    "masked": Case({}),
    "own-negatives": Case({"in_batch": False}),
    "margin": Case({"margin": -0.1, "likely_weight": 0.3}),
    "directions": Case({"directions": ALL_DIRECTIONS}),
    "per-direction": Case({"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}),
    "hardness": Case({"hardness_mode": "in_batch_negatives", "hardness_strength": 3.0, "margin": 0.1}),
    "guided": Case({"margin": 0.0, "likely_weight": 0.2}, guided=True),
    "cached-guided": Case({"margin": 0.0, "likely_weight": 0.2}, guided=True, mini_batch_size=2),
    "distill": Case({"distill_weight": 0.5, "teacher_temperature": 2.0, "directions": ALL_DIRECTIONS}),
    "cached": Case({"directions": ALL_DIRECTIONS}, mini_batch_size=2),
    "cached-distill": Case({"distill_weight": 0.5, "margin": -0.1, "likely_weight": 0.3}, mini_batch_size=1),
}


class Student(nn.Sequential):
    """As much of a model as the losses need."""

    def __init__(self):
        super().__init__(nn.Linear(DIMENSION, DIMENSION))
        torch.manual_seed(1)
        self.double()
        for weights in self.parameters():
            nn.init.normal_(weights)

    def forward(self, features):
        return {"sentence_embedding": self[0](features["input_ids"])}


def a_batch():
    """A batch full of collisions: its keys, known positives, scores and features."""
    random = np.random.default_rng(5)
    keys = random.integers(0, 12, (ROWS, COLUMNS))
    keys[:, 1:][random.random((ROWS, COLUMNS - 1)) < 0.2] = PADDING
    known = [sorted({int(keys[row, 0]), *random.integers(0, 12, row).tolist()}) for row in range(ROWS)]
    scores = random.normal(size=keys.shape).astype(np.float32)
    features = [torch.from_numpy(random.normal(size=(ROWS, DIMENSION))) for _ in range(1 + COLUMNS)]
    return keys, known, scores, features


def labels_of(keys, known, scores, rows):
    lists = [known[row] for row in rows]
    ragged = Ragged(offsets_of(np.array([*map(len, lists)])), np.array([key for one in lists for key in one]))
    # As wide as these rows need, so that the two devices' labels differ in width.
    return torch.from_numpy(pack(keys[rows], ragged, max(map(len, lists)), scores[rows]))


def results(rows, gather):
    """Each case's loss of some rows, with the gradients of the inputs and of the parameters, and what is logged."""
    keys, known, scores, features = a_batch()
    answers = {}
    for name, case in CASES.items():
        model = Student()
        kind = HardNegativesRankingLoss
        if case.mini_batch_size is not None:
            kind = functools.partial(CachedHardNegativesRankingLoss, mini_batch_size=case.mini_batch_size)
        loss = kind(model, gather_across_devices=gather, **case.options)
        if case.guided:
            # What a guide would say of the texts.
            loss._guided = lambda given: [torch.sin(3 * column["input_ids"].detach()) for column in given]
        columns = [column[rows].clone().requires_grad_() for column in features]
        labels = labels_of(keys, known, scores, rows) if case.labeled else None
        answer = loss([{"input_ids": column} for column in columns], labels)
        logged = take(model, training=True)
        answer.backward()
        gradients = torch.cat([weights.grad.flatten() for weights in model.parameters()])
        inputs = None if case.mini_batch_size else torch.stack([column.grad for column in columns])
        answers[name] = (
            answer.item(),
            gradients.numpy(),
            None if inputs is None else inputs.numpy(),
            logged,
            None if labels is None else labels.shape[1],
        )
    return answers


def device(rank, folder):
    """Be one of the devices: leave its results in the folder."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        with warnings.catch_warnings():
            # The stock gathering calls what torch has a new name for.
            warnings.simplefilter("ignore", FutureWarning)
            half = ROWS // 2
            answers = results(list(range(rank * half, (rank + 1) * half)), gather=True)
        (folder / str(rank)).write_bytes(pickle.dumps(answers))
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gather")
    threads = torch.get_num_threads()
    # A fork, because a spawned process takes seconds to import what it needs.
    other = multiprocessing.get_context("fork").Process(target=device, args=(1, folder))
    other.start()
    try:
        device(0, folder)
    finally:
        torch.set_num_threads(threads)
        other.join()
    assert other.exitcode == 0
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(2)]


@pytest.fixture(scope="module")
def whole():
    return results(list(range(ROWS)), gather=False)


def test_the_devices_have_labels_of_different_widths(halves):
    assert halves[0]["masked"][4] != halves[1]["masked"][4]


@pytest.mark.parametrize("name", CASES)
def test_two_devices_learn_what_one_does(halves, whole, name):
    value, gradients, inputs, _, _ = whole[name]
    (value_0, gradients_0, inputs_0, *_), (value_1, gradients_1, inputs_1, *_) = (half[name] for half in halves)
    assert abs(value_0 - value_1) > 1e-3
    assert np.abs(gradients).max() > 1e-3
    assert (value_0 + value_1) / 2 == pytest.approx(value, abs=1e-9)
    np.testing.assert_allclose((gradients_0 + gradients_1) / 2, gradients, atol=1e-9)
    if inputs is not None:
        np.testing.assert_allclose(np.concatenate([inputs_0, inputs_1], axis=1) / 2, inputs, atol=1e-9)


def test_the_cases_differ(whole):
    values = {name: value for name, (value, *_) in whole.items()}
    for name, cached in (("directions", "cached"), ("guided", "cached-guided")):
        assert values.pop(cached) == pytest.approx(values[name], abs=1e-9)
    assert len({round(value, 6) for value in values.values()}) == len(values)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.labeled])
def test_each_device_logs_its_own_rows(halves, whole, name):
    # The halves have passages of others in different numbers, so their shares average with weights.
    parts = [half[name][3] for half in halves]
    assert parts[0].keys() == parts[1].keys() == whole[name][3].keys()
    for kind in whole[name][3]:
        low, high = sorted(part[kind] for part in parts)
        assert low - 1e-9 <= whole[name][3][kind] <= high + 1e-9
    for kind in {"ranking", "distillation"} & parts[0].keys():
        assert (parts[0][kind] + parts[1][kind]) / 2 == pytest.approx(whole[name][3][kind], abs=1e-9)
