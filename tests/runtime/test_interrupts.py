"""Ctrl-C says in one line what was kept and how to resume, and still ends the program."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from multiprocess.pool import TERMINATE

from hnm_datasets import BM25Index, BM25Negatives, TopNegatives, load_sample
from hnm_datasets.runtime.interrupts import check_wanted, interruptible, interruptible_batch
from hnm_datasets.storage.folders import build_once

SCRIPT = """
import sys, time
from pathlib import Path
import datasets, numpy as np
from hnm_datasets import DenseNegatives, load_sample

way, folder = sys.argv[1:]
datasets.config.HF_DATASETS_CACHE = Path(folder)
datasets.disable_progress_bars()

def encode(texts):
    print("encoding", flush=True)
    # Passages come 16 at a time, so that all would take two minutes; queries come a hundred at a time.
    time.sleep(60 if len(texts) == 100 else 1 if way != "workers" else 0)
    return np.ones((len(texts), 4))

corpus, queries = load_sample()
step = DenseNegatives(corpus, encode, k=5, fingerprint="slow", batch_size=1)
if way == "workers":
    step.prepare()
    print("prepared", flush=True)
queries.map(step, batched=True, batch_size=100, num_proc=None if way == "alone" else 2)
"""


def interrupted(way, folder):
    """Interrupt a program, and return how long it went on, its exit code and what it said."""
    command = [sys.executable, "-c", SCRIPT, way, str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, start_new_session=True) as process:
        try:
            awaited = ["prepared\n", "encoding\n"] if way == "workers" else ["encoding\n"]
            for line in process.stdout:
                if line == awaited[0]:
                    del awaited[0]
                if not awaited:
                    break
            os.killpg(process.pid, signal.SIGINT)
            start = time.monotonic()
            _, said = process.communicate(timeout=40)
            return SimpleNamespace(seconds=time.monotonic() - start, code=process.returncode, said=said)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_a_script_ends_as_an_interrupted_one_with_one_line(tmp_path):
    found = interrupted("alone", tmp_path)
    assert found.code == -signal.SIGINT
    (line,) = found.said.split("\n")[1:-1]
    assert re.fullmatch(r"KeyboardInterrupt: .* 0 of 2,108 passages are stored .* Repeat the call to resume\.", line)


#: A pool of `multiprocess` waits forever, once in some tries, for the lock of a worker that the signal has ended.
may_wait_forever = pytest.mark.skipif(not os.environ.get("HNM_EXHAUSTIVE"), reason="a pool may never end")


@may_wait_forever
def test_a_preparation_before_the_workers_ends_at_once(tmp_path):
    """It would go on for minutes, and what reads its output would give up."""
    found = interrupted("preparing", tmp_path)
    assert found.code != 0
    assert found.seconds < 35


@may_wait_forever
def test_one_worker_says_what_is_kept(tmp_path):
    said = interrupted("workers", tmp_path).said
    assert said.count("DenseNegatives was interrupted. Finished indexes") == 1
    assert "ForkPoolWorker" not in said


def test_the_innermost_block_has_its_say():
    with (
        pytest.raises(KeyboardInterrupt, match=r"^inner$"),
        interruptible(lambda: "outer"),
        interruptible(lambda: "inner"),
    ):
        raise KeyboardInterrupt
    with (
        pytest.raises(KeyboardInterrupt, match=r"^outer$"),
        interruptible(lambda: "outer", replace=True),
        interruptible(lambda: "inner"),
    ):
        raise KeyboardInterrupt


def test_other_errors_pass():
    with (
        pytest.raises(ValueError, match=r"^own$"),
        interruptible(lambda: "never"),
        interruptible_batch(lambda: "never"),
    ):
        raise ValueError("own")


def test_the_hook_shows_one_line_and_leaves_other_errors_to_the_one_before(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: shown.append(error))
    caught = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt) as error, interruptible(lambda: "Two of three are kept."):
            raise KeyboardInterrupt
        caught.append(error.value)
        sys.excepthook(KeyboardInterrupt, error.value, error.tb)
    assert capsys.readouterr().err == "\nKeyboardInterrupt: Two of three are kept.\n" * 2
    assert shown == []
    for other in (KeyboardInterrupt("own"), ValueError("own")):
        sys.excepthook(type(other), other, None)
        assert shown.pop() == (type(other), other, None)
    assert type(caught[0]) is KeyboardInterrupt


def test_a_notebook_shows_one_line(monkeypatch, capsys, tmp_path):
    interactive = pytest.importorskip("IPython.core.interactiveshell")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    shell = interactive.InteractiveShell(colors="nocolor")
    shell.user_ns["interruptible"] = interruptible
    cell = "def run():\n  with interruptible(lambda: 'Two of three are kept.'):\n    raise KeyboardInterrupt\nrun()"
    assert isinstance(shell.run_cell(cell).error_in_exec, KeyboardInterrupt)
    assert capsys.readouterr().out.strip() == "KeyboardInterrupt: Two of three are kept."


def test_a_batch_names_the_step(monkeypatch):
    monkeypatch.setattr(TopNegatives, "_apply", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt, match=r"TopNegatives was interrupted\..*Repeat the call to resume"):
        TopNegatives(1)({"negative_ids": [["a"]]})


def test_a_folder_that_was_being_built_is_removed(tmp_path):
    def build(folder):
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"one was incomplete and is removed\. Repeat the call\."):
        build_once(tmp_path, "one", build)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_preparation_ends_with_the_pool_that_it_is_for():
    corpus, _ = load_sample("earthquakes")
    step = BM25Negatives(corpus, index=BM25Index(corpus, k1=1.77), k=2)
    errors = []

    def prepare():
        try:
            step.prepare()
        except RuntimeError as error:
            errors.append(str(error))

    for state in (TERMINATE, "RUN"):
        thread = threading.Thread(target=prepare)
        thread._state = state
        thread.start()
        thread.join()
    assert errors == ["The workers were terminated before the step was prepared."]
    check_wanted()


def _end_as_a_worker():
    with interruptible_batch(lambda: "said once"):
        raise KeyboardInterrupt


def test_a_worker_ends_without_a_traceback(capfd):
    process = multiprocessing.get_context("fork").Process(target=_end_as_a_worker)
    process.start()
    process.join()
    assert process.exitcode == 130
    assert "Traceback" not in capfd.readouterr().err
