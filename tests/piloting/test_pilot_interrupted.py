"""A pilot that Ctrl-C interrupts ends, and keeps the time that it took."""

import time

import numpy as np
import pytest
from datasets import Dataset
from multiprocess import TimeoutError as WorkersTimeoutError

from hnm_datasets import DenseNegatives
from hnm_datasets.piloting.measured import mine_quietly, mine_sample

PAUSE = 0.2


def make_model(interrupted):
    """A model that takes some time for passages, and is interrupted then, or else at a query."""

    def encode(texts):
        of_queries = texts[0].startswith("what")
        if not of_queries:
            time.sleep(PAUSE)
        if interrupted and of_queries == (interrupted[0] == "queries"):
            interrupted.pop()
            raise KeyboardInterrupt
        return np.array([[len(text), len(set(text)), 1] for text in texts], dtype=np.float32)

    return encode


@pytest.mark.parametrize("at", ["passages", "queries"])
def test_the_time_before_an_interrupt_counts(tiny, at):
    corpus, rows = tiny
    step = DenseNegatives(corpus, make_model([at]), k=4, fingerprint=f"interrupted at {at}")
    with pytest.raises(KeyboardInterrupt):
        mine_sample(rows, [step], None)
    mined, spent = mine_sample(rows, [step], None)
    ((seconds, _),) = spent.made.values()
    # Interrupted while it encodes the passages, it encodes them twice.
    assert seconds > PAUSE * (2 if at == "passages" else 1)
    assert len(mined) == len(rows)
    assert mine_sample(rows, [step], None)[1] == spent


def test_interrupted_workers_are_no_failed_strategy(tiny, monkeypatch):
    def interrupted(*_, **__):
        try:
            raise KeyboardInterrupt
        finally:
            raise WorkersTimeoutError

    monkeypatch.setattr(Dataset, "map", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mine_quietly(tiny[1], [dict], 2)
