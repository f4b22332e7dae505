"""Steps and indexes are descriptions: making, showing, hashing and pickling them builds nothing; `prepare` does."""

import copy
import dataclasses
import functools
import itertools
import json
import os
import pickle
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Dataset, load_from_disk
from datasets.fingerprint import Hasher
from exhaustive import usually

from hnm_datasets import (
    BM25Index,
    BM25Negatives,
    Corpus,
    DenseIndex,
    DenseNegatives,
    DropNearDuplicates,
    FuseNegatives,
    ShardedIndex,
)
from hnm_datasets.indexes.bm25_building import CountedTokens
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.folders import cache_root

SIZE = 40
#: What indexes, embeddings and shingles are kept in.
BUILT = ("bm25", "bm25-counts", "bm25-statistics", "dense", "embeddings", "shingles", "vectors")


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def corpus():
    ids, texts = [f"p{i}" for i in range(SIZE)], [f"passage {i} of plate {i % 7}" for i in range(SIZE)]
    return Corpus.from_dataset(Dataset.from_dict({"id": ids, "text": texts}))


@pytest.fixture
def rows(tmp_path):
    """Rows on disk, so that what is mapped from them is cached."""
    queries = {"query": [f"question {i} of plate {i % 7}" for i in range(12)], "positive_ids": [["p1"]] * 12}
    Dataset.from_dict(queries).save_to_disk(tmp_path / "rows")
    return load_from_disk(tmp_path / "rows")


class Noted:
    """A function model that notes in a file which process encoded what."""

    def __init__(self, folder):
        self.path = Path(folder) / "encoded.jsonl"

    def __call__(self, texts):
        with self.path.open("a") as file:
            file.write(json.dumps([os.getpid(), texts]) + "\n")
        return digest_strings(texts).astype(np.float64) / 2**64 + 0.1

    @property
    def calls(self):
        """Return who encoded what, in order."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []


@pytest.fixture
def model(tmp_path):
    return Noted(tmp_path)


def dense(corpus, model, **options):
    return DenseNegatives(corpus, model, **{"k": 5, "fingerprint": "noted-1"} | options)


def fused(corpus, model, **options):
    return FuseNegatives({"bm25": BM25Negatives(corpus, k=5), "dense": dense(corpus, model)}, **{"k": 5} | options)


def bm25(corpus, model, **options):
    return BM25Negatives(corpus, **{"k": 5} | options)


def bm25_in_shards(corpus, model, **options):
    shards = [BM25Index(corpus, shard=(i, 3)) for i in range(3)]
    return BM25Negatives(corpus, index=ShardedIndex(shards, memory="1MB", workers=2), **{"k": 5} | options)


MINERS = [bm25, bm25_in_shards, dense, fused]


def built():
    return {name for name in BUILT if (cache_root() / name).exists()}


def handle(thing):
    """Do everything with a step or index that needs no answer of it."""
    again = pickle.loads(pickle.dumps(thing))
    assert again == copy.deepcopy(thing) == thing
    assert repr(again) == repr(thing)
    assert Hasher.hash(again) == Hasher.hash(thing)
    assert hash(again) == hash(thing)
    return Hasher.hash(thing)


# ---- making --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MINERS)
def test_a_miner_is_made_shown_hashed_and_pickled_without_building(corpus, rows, model, make):
    step = make(corpus, model)
    before = handle(step)
    handle(dataclasses.replace(step, k=3))
    assert Hasher.hash(make(corpus, model)) == before
    assert built() == set()
    assert model.calls == []
    # What it means does not depend on whether it was built.
    answer = step(rows[:])
    assert built() >= ({"bm25"} if make in (bm25, bm25_in_shards) else {"embeddings"})
    assert handle(step) == handle(make(corpus, model)) == before
    assert make(corpus, model)(rows[:]) == answer


def test_other_things_are_made_without_building(corpus, model):
    shards = [BM25Index(corpus, shard=(i, 3), k1=0.9) for i in range(3)]
    things = [
        BM25Index(corpus),
        *shards,
        ShardedIndex(shards),
        ShardedIndex(shards, "1GB", 2),
        DropNearDuplicates(corpus),
    ]
    for thing in things:
        handle(thing)
    assert len({thing.fingerprint for thing in things[:5]}) == 5
    assert [len(index.rows) for index in shards] == [13, 13, 14]
    assert built() == set()


def test_an_approximate_index_is_made_without_building(corpus, model):
    embeddings = corpus.embed(model, fingerprint="noted-1")
    index = DenseIndex(embeddings, "IVF4,Flat", nprobe=2)
    shards = ShardedIndex([DenseIndex(embeddings, "HNSW8", shard=(i, 2)) for i in range(2)], memory="1GB")
    handle(index)
    handle(shards)
    handle(dense(corpus, model, index=index))
    handle(dense(corpus, model, index=shards))
    assert built() == {"embeddings"}
    index.prepare()
    assert len([path for path in (cache_root() / "dense").iterdir() if path.is_dir()]) == 1
    shards.prepare()
    assert len([path for path in (cache_root() / "dense").iterdir() if path.is_dir()]) == 3


@pytest.mark.parametrize("make", MINERS)
def test_prepare_builds_once(corpus, rows, model, make, monkeypatch):
    step = make(corpus, model)
    step.prepare()
    folders = built() - {"vectors"}
    passages = [text for _, texts in model.calls for text in texts]
    if make in (dense, fused):
        assert sorted(passages) == sorted(corpus.texts(np.arange(SIZE)).to_pylist())
    else:
        assert passages == []
    for owner, name in ((BM25Index, "_build"), (CountedTokens, "count")):
        monkeypatch.setattr(owner, name, lambda *_: pytest.fail("built again"))
    again = make(corpus, model)
    again.prepare()
    again(rows[:])
    assert not set(passages) & {text for _, texts in model.calls[len(passages) > 0 :] for text in texts}
    assert built() - {"vectors"} == folders


# ---- what is cached ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "num_proc"),
    usually([*((make, None) for make in MINERS), (fused, 2)], every=list(itertools.product(MINERS, [None, 2]))),
)
def test_what_map_has_cached_is_read_without_building(corpus, rows, model, make, num_proc):
    mined = rows.map(make(corpus, model), batched=True, num_proc=num_proc)
    expected = mined.to_dict()
    # As if the cache of embeddings had been emptied to save space.
    for name in BUILT:
        shutil.rmtree(cache_root() / name, ignore_errors=True)
    model.path.unlink(missing_ok=True)
    step = make(corpus, model)
    again = rows.map(step, batched=True, num_proc=num_proc)
    assert again.cache_files == mined.cache_files
    assert again.to_dict() == expected
    assert model.calls == []
    assert built() == set()


def test_an_answer_that_is_not_cached_embeds_again(corpus, rows, model):
    step = dense(corpus, model)
    rows.map(step, batched=True)
    passages = model.calls[0]
    step.index.embeddings.discard()
    model.path.unlink()
    rows.map(dense(corpus, model, k=6), batched=True)
    assert model.calls == [passages], "the vectors of the queries are still there"


# ---- worker processes ----------------------------------------------------------------------------------------------


@pytest.fixture
def builds(tmp_path, monkeypatch):
    """Note which process builds an index."""
    path, build = tmp_path / "built.txt", BM25Index._build

    def noted(index, folder):
        with path.open("a") as file:
            file.write(f"{os.getpid()}\n")
        build(index, folder)

    monkeypatch.setattr(BM25Index, "_build", noted)
    return lambda: [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def itself(step):
    return step


WRAPS = [itself, functools.partial]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("make", "wrap"),
    usually(
        [*((make, itself) for make in MINERS), (fused, functools.partial)], every=list(itertools.product(MINERS, WRAPS))
    ),
)
def test_map_prepares_once_before_its_workers_work(corpus, rows, model, make, wrap, builds):
    step = make(corpus, model)
    mined = rows.map(wrap(step), batched=True, batch_size=2, num_proc=2)
    # Each index once, and the passages once, here; only then the queries, in the workers.
    here = os.getpid()
    assert builds() == [here] * {bm25: 1, bm25_in_shards: 3, dense: 0, fused: 1}[make]
    if make in (dense, fused):
        (process, passages), *others = model.calls
        assert process == here
        assert sorted(passages) == sorted(corpus.texts(np.arange(SIZE)).to_pylist())
        assert here not in {process for process, _ in others}
        assert sorted(text for _, texts in others for text in texts) == sorted(rows["query"])
    assert mined.to_dict() == rows.map(step, batched=True, load_from_cache_file=False).to_dict()
    assert len(builds()) == {bm25: 1, bm25_in_shards: 3, dense: 0, fused: 1}[make]


@pytest.mark.timeout(120)
def test_errors_of_preparing_for_workers_reach_the_caller(corpus, rows):
    def zeros(texts):
        return np.zeros((len(texts), 2))

    step = DenseNegatives(corpus, zeros, fingerprint="zeros-1")
    with pytest.raises(ValueError, match="zero, NaN or infinite vector for the passage"):
        rows.map(step, batched=True, num_proc=2)
