"""Progress bars go with those of `datasets`, and show nothing twice."""

import io
import logging
import re
import threading
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Dataset
from multiprocess.pool import TERMINATE

import hnm_datasets
from hnm_datasets import BM25Index, BM25Negatives, CrossEncoderScores, DenseIndex, DenseNegatives, load_sample
from hnm_datasets.runtime import bars
from hnm_datasets.runtime.bars import ProgressBar, iter_with_bar


@pytest.fixture
def shown():
    """Show bars, each in full."""
    datasets.enable_progress_bars()
    yield
    datasets.disable_progress_bars()


def bar_of(rows=3, **options):
    screen = io.StringIO()
    with ProgressBar(rows, "Weighing passages", "passages", file=screen, mininterval=0, **options) as bar:
        for _ in range(rows):
            bar.update(1)
    return screen.getvalue()


def test_a_bar_says_what_is_done_to_what_and_ends_full(shown):
    assert re.search(r"Weighing passages: 100%\|\S+\| 3/3 \[.* passages/s\]\n$", bar_of())


@pytest.mark.usefixtures("shown")
def test_disabled_bars_are_hidden():
    datasets.disable_progress_bars()
    assert bar_of() == ""


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize("where", ["worker", "Ray's worker", "another rank"])
def test_one_process_shows_a_bar(monkeypatch, where):
    if where == "another rank":
        monkeypatch.setenv("LOCAL_RANK", "1")
    else:
        monkeypatch.setattr(bars, "in_worker" if where == "worker" else "in_ray_worker", lambda: True)
    assert bar_of() == ""


@pytest.mark.usefixtures("shown")
def test_a_bar_within_another_goes_when_it_is_full():
    with ProgressBar(2, "Mining", "rows", file=io.StringIO()) as outer:
        inner = ProgressBar(2, "Embedding", "texts", file=io.StringIO())
        inner.close()
    assert (outer.leave, inner.leave) == (True, False)


@pytest.mark.usefixtures("shown")
def test_a_short_loop_shows_no_bar(capfd, monkeypatch):
    rows = Dataset.from_dict({"x": list(range(5))})
    assert [batch["x"] for batch in iter_with_bar(rows, 2, "Reading rows")] == [[0, 1], [2, 3], [4]]
    assert "Reading rows" not in capfd.readouterr().err
    monkeypatch.setattr(bars, "DELAY", 0)
    list(iter_with_bar(rows, 2, "Reading rows"))
    assert re.search(r"Reading rows: 100%\|.*5/5", capfd.readouterr().err)


def test_a_loop_ends_with_the_pool_that_it_prepares_for():
    """Also where bars are disabled."""
    errors = []

    def loop():
        with pytest.raises(RuntimeError, match=r"terminated before the step was prepared") as error:
            bar_of()
        errors.append(error)

    thread = threading.Thread(target=loop)
    thread._state = TERMINATE
    thread.start()
    thread.join()
    assert len(errors) == 1


def encode(texts):
    return np.array([[len(text) % 7 + 1, len(text) % 5, 1] for text in texts], dtype=np.float32)


def judge(pairs):
    return np.array([len(text) % 7 for _, text in pairs], dtype=np.float32)


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize("enabled", [True, False])
def test_all_long_steps_have_one_bar_or_none(capfd, enabled):
    """In the bar of `map`, whose description is the user's."""
    corpus, queries = load_sample("earthquakes")
    name = f"bars-{enabled}"
    if not enabled:
        datasets.disable_progress_bars()
    capfd.readouterr()
    embeddings = corpus.embed(encode, fingerprint=name)
    index = DenseIndex(embeddings, "HNSW4")
    dense = DenseNegatives(corpus, encode, k=3, fingerprint=name, index=index)
    bm25 = BM25Negatives(corpus, k=3, index=BM25Index(corpus, k1=1.83 + enabled))
    mined = queries.map(dense, batched=True, desc="Mining dense").map(bm25, batched=True, desc="Mining BM25")
    mined.map(CrossEncoderScores(corpus, judge, fingerprint=name), batched=True, desc="Teaching")
    said = capfd.readouterr().err
    begun = re.findall(r"([\w (),]+): +0%\|", said)
    wanted = [
        *("Embedding passages", "Mining dense", "Indexing vectors (HNSW4)"),
        *("Mining BM25", "Indexing passages (BM25)", "Teaching", "Scoring pairs"),
    ]
    assert list(dict.fromkeys(begun)) == (wanted if enabled else [])
    # Nothing is shown again but a bar with another one in it.
    assert begun.count("Embedding passages") == begun.count("Scoring pairs") == enabled
    if not enabled:
        assert said == ""


def test_only_one_module_makes_bars():
    """Another one would not know of workers and interrupts."""
    root = Path(hnm_datasets.__file__).parent
    found = [path.name for path in root.rglob("*.py") if re.search(r"import .*\btqdm\b", path.read_text("utf-8"))]
    assert sorted(found) == ["bars.py", "datasets_internals.py"]


def test_a_message_is_logged_once_also_where_the_root_logs(caplog):
    """The package leaves handlers to the user: with one of its own, whoever sets up logging would read all twice."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "hnm_datasets"]
    assert names
    for name in names:
        logger = logging.getLogger(name)
        assert not logger.handlers, name
        assert logger.propagate, name
