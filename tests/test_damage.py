"""Damaged files of the cache give the right answer or an error that names the folder; `damage.py` tries many more."""

import sys

import datasets
import pytest

from hnm_datasets.models import shard_job
from hnm_datasets.storage import manifest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


@pytest.fixture
def trials(tmp_path, monkeypatch):
    # Not for all tests: it imports what starts threads.
    from damage import Trials

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(shard_job, "SHARD", 32)
    return lambda *kinds: Trials(tmp_path, list(kinds))


def test_some_damages(trials):
    from damage import EQUAL, NAMED, table

    kinds = ("corpus, titled", "bm25", "embeddings", "query vectors", "faiss, HNSW", "sparse", "a stream, interrupted")
    found = list(trials(*kinds).many(14, seed=1))
    assert {trial.outcome for trial in found} == {EQUAL, NAMED}, table(found)


def test_damage_would_be_noticed(trials, monkeypatch):
    from damage import CRASH, OTHER, WRONG

    made = trials("corpus, plain")
    monkeypatch.setattr(manifest, "fault", lambda *_, **__: None)
    found = {trial.outcome for trial in made.many(8, seed=1)}
    assert found & {WRONG, OTHER, CRASH}
