"""A process knows whether it is a worker, and a step prepares when it is sent to one, not when it is hashed."""

import multiprocessing
import os
import pickle
import sys
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace
from typing import ClassVar

import multiprocess
import pytest
import torch
from datasets import Dataset, load_from_disk
from datasets.fingerprint import Hasher
from multiprocess.reduction import ForkingPickler as DillForkingPickler

from hnm_datasets.runtime.workers import (
    imported_ray,
    in_ray_worker,
    in_worker,
    prepare_before_workers,
    single_threaded_torch,
    threads,
)

MODULES = [multiprocessing, multiprocess]


class Step:
    """Notes the processes in which it was prepared."""

    prepared_in: ClassVar[list[int]] = []

    def __init__(self, number):
        self.number = number

    def prepare_for_workers(self):
        self.prepared_in.append(os.getpid())

    def __call__(self, rows):
        return {"process": [os.getpid()] * len(rows["x"]), "y": [x + self.number for x in rows["x"]]}


class Unregistered(Step):
    """A class for which nobody asked."""


prepare_before_workers(Step)


@pytest.fixture(autouse=True)
def _not_yet_prepared():
    Step.prepared_in.clear()


def tell(connection):
    connection.send((in_worker(), threads(), in_ray_worker()))


@pytest.mark.parametrize("module", MODULES)
def test_a_child_process_is_a_worker_with_one_thread(module):
    context = module.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=tell, args=(there,))
    child.start()
    assert here.poll(60)
    assert here.recv() == (True, 1, False)
    child.join()


def test_the_main_process_is_no_worker_and_has_all_cores(monkeypatch):
    assert not in_worker()
    assert not in_ray_worker()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 4}, raising=False)
    assert threads() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert threads() == 6


@pytest.mark.parametrize("pickler", [ForkingPickler, DillForkingPickler], ids=["multiprocessing", "multiprocess"])
def test_a_step_is_prepared_when_it_is_sent_to_a_worker(pickler):
    sent = pickle.loads(bytes(pickler.dumps(Step(3))))
    assert Step.prepared_in == [os.getpid()]
    assert type(sent) is Step
    assert sent.number == 3
    # And within what else is sent.
    pickler.dumps({"steps": (Step(1), Step(2))})
    assert len(Step.prepared_in) == 3


def test_a_step_is_not_prepared_when_it_is_pickled_or_hashed():
    assert pickle.loads(pickle.dumps(Step(3))).number == 3
    assert Hasher.hash(Step(3)) == Hasher.hash(Step(3)) != Hasher.hash(Step(4))
    assert Step.prepared_in == []


@pytest.mark.parametrize("pickler", [ForkingPickler, DillForkingPickler], ids=["multiprocessing", "multiprocess"])
def test_a_class_that_is_not_registered_is_not_prepared(pickler):
    assert pickle.loads(bytes(pickler.dumps(Unregistered(3)))).number == 3
    assert Step.prepared_in == []


def test_map_prepares_before_its_workers_begin_and_not_for_a_cached_answer(tmp_path):
    Dataset.from_dict({"x": [1, 2, 3, 4]}).save_to_disk(tmp_path / "rows")
    rows = load_from_disk(tmp_path / "rows")
    mapped = rows.map(Step(10), batched=True, num_proc=2)
    assert mapped["y"][:] == [11, 12, 13, 14]
    assert os.getpid() not in mapped["process"][:]
    assert set(Step.prepared_in) == {os.getpid()}
    Step.prepared_in.clear()
    assert rows.map(Step(10), batched=True, num_proc=2)["process"][:] == mapped["process"][:]
    assert Step.prepared_in == []


# ---- Ray -------------------------------------------------------------------------------------------------------------


def fake_ray(mode, resources, initialized=True):
    context = SimpleNamespace(worker=SimpleNamespace(mode=mode), get_assigned_resources=lambda: resources)
    return SimpleNamespace(WORKER_MODE=1, is_initialized=lambda: initialized, get_runtime_context=lambda: context)


@pytest.mark.parametrize(("resources", "wanted"), [({"CPU": 3.0}, 3), ({"CPU": 0.5}, 1), ({}, 1)])
def test_a_worker_of_ray_has_the_cores_that_it_is_given(monkeypatch, resources, wanted):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)), raising=False)
    monkeypatch.setitem(sys.modules, "ray", fake_ray(1, resources))
    assert in_ray_worker()
    assert threads() == wanted


@pytest.mark.parametrize("ray", [fake_ray(0, {"CPU": 3}), fake_ray(1, {"CPU": 3}, False), SimpleNamespace()])
def test_who_gives_rays_tasks_out_is_no_worker(monkeypatch, ray):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)), raising=False)
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert not in_ray_worker()
    assert threads() == 7


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"embed_with_ray needs Ray.*pip install 'hnm-datasets\[ray\]'"):
        imported_ray("embed_with_ray")
    ray = fake_ray(0, {})
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert imported_ray("embed_with_ray") is ray


# ---- torch -----------------------------------------------------------------------------------------------------------


def test_torch_has_one_thread_in_the_block_alone():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with single_threaded_torch():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        with pytest.raises(RuntimeError, match="broken"), single_threaded_torch():
            raise RuntimeError("broken")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
