"""A clock adds up the seconds of named blocks, for the code that asked for them alone."""

import threading
from types import SimpleNamespace

import pytest

from hnm_datasets.runtime import timing
from hnm_datasets.runtime.timing import clock, clocked


@pytest.fixture
def watch(monkeypatch):
    """A clock that goes on when it is told to."""
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now.time))
    return now


def test_blocks_add_up_by_name(watch):
    with clock() as spent:
        for seconds in (1, 2):
            with clocked("encode"):
                watch.time += seconds
            watch.time += 10
        with clocked("search"):
            watch.time += 4
    assert spent == {"encode": 3.0, "search": 4.0}


def test_a_block_in_a_block_counts_for_both(watch):
    with clock() as spent, clocked("mine"):
        watch.time += 1
        with clocked("encode"):
            watch.time += 2
    assert spent == {"encode": 2.0, "mine": 3.0}


def test_a_block_that_fails_is_counted(watch):
    def fail():
        with clocked("encode"):
            watch.time += 5
            raise RuntimeError("broken")

    with clock() as spent, pytest.raises(RuntimeError, match="broken"):
        fail()
    assert spent == {"encode": 5.0}


def test_nothing_is_counted_before_and_after_a_clock(watch):
    with clocked("before"):
        watch.time += 1
    with clock() as spent:
        pass
    with clocked("after"):
        watch.time += 1
    assert spent == {}


def test_an_inner_clock_takes_its_blocks_and_the_outer_one_goes_on(watch):
    with clock() as outer:
        with clock() as inner, clocked("encode"):
            watch.time += 1
        with pytest.raises(RuntimeError, match="broken"), clock():
            raise RuntimeError("broken")
        with clocked("search"):
            watch.time += 2
    assert inner == {"encode": 1.0}
    assert outer == {"search": 2.0}


def test_other_threads_are_not_counted(watch):
    def work():
        with clocked("elsewhere"):
            watch.time += 1

    with clock() as spent:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert watch.time == 101
    assert spent == {}
