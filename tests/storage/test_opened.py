"""What is opened is opened once for each name and cache folder."""

import multiprocessing

import pytest

from hnm_datasets.storage.folders import cache_root_at
from hnm_datasets.storage.opened import Opened


class Opener:
    """Opens a new thing each time."""

    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1
        return [self.times]


def test_each_thing_is_opened_once():
    opened, open_ = Opened(), Opener()
    first = opened.get("a", open_)
    assert opened.get("a", open_) is first == [1]
    assert opened.get("b", open_) == [2]
    assert opened.get("a", open_) is first
    assert open_.times == 2


def test_nothing_and_none_are_things_as_well():
    opened = Opened()
    assert opened.get("none", lambda: None) is None
    assert opened.get("none", lambda: 1) is None
    assert opened.get("zero", lambda: 0) == 0
    assert opened.get("zero", lambda: 1) == 0


def test_what_is_forgotten_is_opened_again():
    opened, open_ = Opened(), Opener()
    opened.get("a", open_)
    kept = opened.get("b", open_)
    opened.forget("a")
    opened.forget("was never there")
    assert opened.get("a", open_) == [3]
    assert opened.get("b", open_) is kept


def test_another_cache_folder_has_its_own_things(tmp_path):
    opened, open_ = Opened(), Opener()
    here = opened.get("a", open_)
    with cache_root_at(tmp_path):
        assert opened.get("a", open_) == [2]
        opened.forget("a")
        assert opened.get("a", open_) == [3]
    assert opened.get("a", open_) is here


def test_two_stores_share_nothing():
    assert Opened().get("a", lambda: 1) == 1
    assert Opened().get("a", lambda: 2) == 2


def test_what_cannot_be_opened_is_tried_again():
    opened = Opened()

    def fail():
        raise OSError("no such file")

    for _ in range(2):
        with pytest.raises(OSError, match="no such file"):
            opened.get("a", fail)
    assert opened.get("a", lambda: 1) == 1


def test_a_forked_worker_inherits_what_is_open():
    opened = Opened()
    opened.get("a", lambda: "of the parent")
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=lambda: there.send(opened.get("a", lambda: "of the child")))
    child.start()
    assert here.poll(60)
    assert here.recv() == "of the parent"
    child.join()
