"""Ctrl-C says in one line what was kept and how to resume, and still ends the program."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from multiprocess import TimeoutError as WorkersTimeoutError
from multiprocess.pool import TERMINATE

from hnm_datasets import BM25Index, BM25Negatives, TopNegatives, load_sample
from hnm_datasets.runtime.interrupts import check_wanted, explain_workers, interruptible
from hnm_datasets.storage.folders import build_once

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import datasets, multiprocess, numpy as np
from hnm_datasets import DenseNegatives, load_sample, mine

datasets.config.HF_DATASETS_CACHE = Path(sys.argv[1])
datasets.disable_progress_bars()
# Shells start what runs in the background with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
corpus, queries = load_sample()
queries = queries.select(range(100))

def made(way):
    def encode(texts):
        # Passages come 16 at a time, so that all would take two minutes; the queries of a worker come 50 at a time.
        passages = len(texts) in (16, 2108 % 16)
        if passages != (way in ("workers", "mined")):
            os.write(1, b"encoding\\n")
            time.sleep(1 if passages else 60)
        return np.ones((len(texts), 4))
    return DenseNegatives(corpus, encode, k=5, fingerprint=way, batch_size=1)

for way in ("preparing", "workers", "mined"):
    step = made(way)
    try:
        if way != "preparing":
            step.prepare()
        if way == "mined":
            mine(queries, [step], num_proc=2)
        else:
            queries.map(step, batched=True, num_proc=2)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os.write(1, f"ended, {len(multiprocess.active_children())} left\\n".encode())
queries.map(made("alone"), batched=True)
"""


def test_a_script_and_its_workers_end_with_one_line_each(tmp_path):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SCRIPT, tmp_path], **pipes, start_new_session=True) as process:
        try:
            for way in ("preparing", "workers", "mined", "alone"):
                # Both workers have begun: one that is still starting would show a traceback of its own.
                for _ in range(2 if way in ("workers", "mined") else 1):
                    assert process.stdout.readline() == "encoding\n"
                # As a terminal does.
                os.killpg(process.pid, signal.SIGINT)
                start = time.monotonic()
                if way != "alone":
                    assert next(line for line in process.stdout if line != "encoding\n") == "ended, 0 left\n"
                    assert time.monotonic() - start < 100
            _, said = process.communicate(timeout=100)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    # As an interrupted program.
    assert process.returncode == -signal.SIGINT
    of_step = r"KeyboardInterrupt: DenseNegatives was interrupted\. .* Repeat the call to resume\."
    of_mine = r"KeyboardInterrupt: mine was interrupted at step 1 of 1, DenseNegatives\. .* Repeat the call to resume\."
    of_embedding = r"KeyboardInterrupt: .* 0 of 2,108 passages are stored .* Repeat the call to resume\."
    lines = [line for line in said.split("\n") if line]
    assert len(lines) == 4, said
    for line, expected in zip(lines, (of_step, of_step, of_mine, of_embedding), strict=True):
        assert re.fullmatch(expected, line), line


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
    for own in (ValueError("own"), WorkersTimeoutError("own")):
        with pytest.raises(type(own), match=r"^own$"), interruptible(lambda: "never"):
            raise own


def test_what_map_makes_of_an_interrupt_is_one_again(monkeypatch, capsys):
    """It asks its workers for their results, which takes too long."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def interrupt_map():
        try:
            raise KeyboardInterrupt
        finally:
            raise WorkersTimeoutError

    with pytest.raises(KeyboardInterrupt, match=r"^kept$"), interruptible(lambda: "kept"):
        interrupt_map()
    explain_workers("Three of four are kept.")
    with pytest.raises(WorkersTimeoutError) as error:
        interrupt_map()
    sys.excepthook(WorkersTimeoutError, error.value, error.tb)
    assert capsys.readouterr().err == "\nKeyboardInterrupt: Three of four are kept.\n"


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
