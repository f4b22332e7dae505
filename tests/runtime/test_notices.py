"""What a batch says is told once for a call of `map`, in this process and in workers."""

import logging
import os

import pytest
from datasets import Dataset

from hnm_datasets.runtime.notices import one_call, tell_of_batch, tell_once

logger = logging.getLogger("notices")


def _say(batch, kinds=("short",)):
    for kind in kinds:
        tell_once(logger, kind, "%s, first %d", kind, batch["x"][0])
    return {"y": batch["x"]}


def _say_to_file(batch, path):
    handler = logging.FileHandler(path)
    logger.addHandler(handler)
    try:
        return _say(batch)
    finally:
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def rows(tmp_path):
    Dataset.from_dict({"x": range(40)}).save_to_disk(tmp_path / "rows")
    return Dataset.load_from_disk(tmp_path / "rows")


def test_the_first_of_many_batches_tells(rows, caplog):
    rows.map(_say, batched=True, batch_size=10)
    assert caplog.messages == ["short, first 0"]


def test_kinds_are_told_apart(rows, caplog):
    rows.map(_say, batched=True, batch_size=10, fn_kwargs={"kinds": ("short", "empty")})
    assert caplog.messages == ["short, first 0", "empty, first 0"]


def test_another_call_tells_again(rows, caplog):
    for _ in range(2):
        rows.map(_say, batched=True, batch_size=10, load_from_cache_file=False)
    assert caplog.messages == ["short, first 0"] * 2


def test_a_stream_tells_once_in_each_reading(rows, caplog):
    stream = rows.to_iterable_dataset().map(_say, batched=True, batch_size=10)
    for _ in range(2):
        list(stream)
    assert caplog.messages == ["short, first 0"] * 2


def test_outside_of_map_each_call_tells(caplog):
    for first in (1, 2):
        _say({"x": [first]})
    assert caplog.messages == ["short, first 1", "short, first 2"]


def test_a_block_tells_once(caplog):
    for _ in range(2):
        with one_call():
            for first in (1, 2):
                _say({"x": [first]})
    assert caplog.messages == ["short, first 1"] * 2


def test_what_the_caller_tells_is_not_logged(caplog):
    with one_call("short"):
        _say({"x": [1]}, kinds=("short", "long"))
    assert caplog.messages == ["long, first 1"]


@pytest.mark.parametrize("num_proc", [1, 3])
def test_workers_tell_once_for_all_of_them(rows, tmp_path, num_proc):
    path = tmp_path / "log"
    for times in (1, 2):
        rows.map(
            _say_to_file,
            batched=True,
            batch_size=5,
            num_proc=num_proc,
            fn_kwargs={"path": path},
            load_from_cache_file=False,
        )
        assert len(path.read_text().splitlines()) == times


def test_without_a_folder_of_its_own_each_worker_tells(rows, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"hnm_datasets-{os.getuid()}").write_text("not a folder")
    path = tmp_path / "log"
    rows.map(_say_to_file, batched=True, batch_size=5, num_proc=2, fn_kwargs={"path": path})
    assert len(path.read_text().splitlines()) == 2


def test_a_block_within_another_is_part_of_it(caplog):
    with one_call():
        for _ in range(2):
            with one_call("known"):
                tell_once(logger, "known", "told in another way")
                tell_once(logger, "short", "a row is short")
        tell_once(logger, "short", "a row is short")
    assert caplog.messages == ["a row is short"]
    tell_once(logger, "short", "a row is short")
    assert len(caplog.messages) == 2


def _say_of_batch(batch):
    tell_of_batch(logger, "short", "%d of 100%% are short.", len(batch["x"]))
    return {"y": batch["x"]}


def test_in_map_a_batch_says_that_others_are_not_reported(rows, caplog):
    others = " More batches may be affected, but only the first is reported; mine(rows, steps) counts all rows."
    rows.map(_say_of_batch, batched=True, batch_size=10)
    assert caplog.messages == ["10 of 100% are short." + others]
    caplog.clear()
    with one_call():
        _say_of_batch({"x": [1]})
        _say_of_batch({"x": [1]})
    _say_of_batch({"x": [1, 2]})
    assert caplog.messages == ["1 of 100% are short.", "2 of 100% are short."]
