"""Under Ray Data every transform answers as in `Dataset.map`; a corpus is embedded by workers that may be killed."""

import contextvars
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from exhaustive import usually
from test_contract import NAMES, prepare, sample_rows, search_by_bm25, shared_words

from hnm_datasets import (
    BM25Negatives,
    Corpus,
    CrossEncoderScores,
    DenseNegatives,
    RelativeMargin,
    SearchNegatives,
    TopNegatives,
    ToTriplets,
    embed_with_ray,
)
from hnm_datasets.models.embedding_job import EmbeddingJob
from hnm_datasets.models.encoders import Encoder
from hnm_datasets.runtime.workers import in_ray_worker, threads
from hnm_datasets.scale.ray_embedding import _Worker
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.folders import cache_root, cache_root_at

ray = pytest.importorskip("ray", reason="needs hnm-datasets[ray]")
pytest.importorskip("ray.data", reason="needs hnm-datasets[ray]")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*", "ignore::FutureWarning:ray.*")

#: The default of `map_batches` is numpy; None is what the blocks are, here tables. Sizes that do not divide the blocks.
FORMATS = {"numpy": 7, "pandas": 3, "pyarrow": 1, None: 1000}


@pytest.fixture(scope="module", autouse=True)
def _cluster(start_ray):
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # The workers cannot import the tests.
    modules = [sys.modules[name] for name in (__name__, "test_contract")]
    for module in modules:
        ray.cloudpickle.register_pickle_by_value(module)
    yield
    for module in modules:
        ray.cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture(scope="module")
def model_path(static_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    static_model.save(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def ready(model_path):
    """Every transform with rows that it can work on, and the same rows under Ray."""
    steps = prepare(model_path)
    distinct = {id(rows): rows for _, rows in steps.values()}
    blocks = {name: under_ray(rows) for name, rows in distinct.items()}
    return {name: (transform, rows, blocks[id(rows)]) for name, (transform, rows) in steps.items()}


def under_ray(rows, blocks=2):
    return ray.data.from_huggingface(rows).repartition(blocks).materialize()


def table_of(found):
    """Return the rows and types of what Ray made. (Only pandas and datasets tell long strings from short ones.)"""
    table = pa.concat_tables(ray.get(found.to_arrow_refs()), promote_options="permissive").replace_schema_metadata()
    fields = [field.with_type(pa.string()) if pa.types.is_large_string(field.type) else field for field in table.schema]
    return table.cast(pa.schema(fields))


def check_same(found, expected):
    found, expected = table_of(found), expected.with_format("arrow")[:].replace_schema_metadata()
    types = {field.name: field.type for field in expected.schema}
    types = {name: pa.string() if type_ == pa.large_string() else type_ for name, type_ in types.items()}
    assert {field.name: field.type for field in found.schema} == types
    assert found.select(expected.column_names).to_pylist() == expected.to_pylist()


#: Functions go to pools as arguments of their classes: below.
STEPS = [name for name in NAMES if name not in ("cross-encoder", "search")]


# ---- transforms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form"),
    # In turn: they reach all transforms through the same `Batch`.
    usually(
        [(name, [*FORMATS][number % 4]) for number, name in enumerate(STEPS)],
        every=[(name, form) for name in STEPS for form in FORMATS],
    ),
)
def test_every_transform_answers_as_in_map(ready, name, form):
    transform, rows, blocks = ready[name]
    expected = rows.map(transform, batched=True)
    check_same(blocks.map_batches(transform, batch_format=form, batch_size=FORMATS[form]), expected)


def test_a_search_function_in_an_actor_pool():
    corpus, rows = sample_rows()
    expected = rows.map(SearchNegatives(corpus, search_by_bm25(corpus), k=5, fingerprint="bm25-1"), batched=True)
    found = under_ray(rows).map_batches(
        SearchNegatives,
        fn_constructor_args=(corpus, search_by_bm25(corpus)),
        fn_constructor_kwargs={"k": 5, "fingerprint": "bm25-1"},
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=0.2,
        batch_size=5,
        batch_format="pyarrow",
    )
    check_same(found, expected)


def test_a_chain_of_classes_in_actor_pools(model_path):
    corpus, rows = sample_rows()
    options = {"name": "words", "fingerprint": "shared-words-1"}
    expected = (
        rows.map(DenseNegatives(corpus, model_path, k=12), batched=True)
        .map(CrossEncoderScores(corpus, shared_words, **options), batched=True)
        .map(RelativeMargin(0.05, by="words"), batched=True)
        .map(ToTriplets(corpus, n=2), batched=True)
    )

    # Pools keep their cores to themselves while the job lasts; if they took them all, nothing else would ever run.
    pool = {"compute": ray.data.ActorPoolStrategy(size=1), "num_cpus": 0.2, "batch_size": 3}

    found = (
        under_ray(rows, blocks=4)
        .map_batches(DenseNegatives, fn_constructor_args=(corpus, model_path), fn_constructor_kwargs={"k": 12}, **pool)
        .map_batches(
            CrossEncoderScores, fn_constructor_args=(corpus, shared_words), fn_constructor_kwargs=options, **pool
        )
        .map_batches(RelativeMargin(0.05, by="words"), num_cpus=0.1)
        .map_batches(ToTriplets(corpus, n=2), num_cpus=0.1)
    )
    check_same(found, expected)


def test_messages_of_an_actor_pool_name_the_step():
    # The actor of a pool that failed may live on until it is collected, and would keep a core from the tests after it.
    pool = {"compute": ray.data.ActorPoolStrategy(size=1), "num_cpus": 0}
    rows = ray.data.from_arrow(AWKWARD.select(["query"]))
    with pytest.raises(Exception, match="TopNegatives needs the column 'negative_ids'"):
        rows.map_batches(TopNegatives, fn_constructor_args=(1,), **pool).materialize()


def test_a_function_in_an_instance_does_not_reach_the_workers():
    corpus, rows = sample_rows()
    mined = rows.map(BM25Negatives(corpus, k=2), batched=True)
    step = CrossEncoderScores(corpus, shared_words, fingerprint="never-scored")
    with pytest.raises(Exception, match="passed as an object"):
        under_ray(mined).map_batches(step).materialize()


AWKWARD = pa.table(
    {
        "query_id": pa.array(["q1", None, "q3", "q4"]),
        "query": ["one", "two", "three", "four"],
        "positive_ids": pa.array([["p"], [], None, ["p", "q"]], pa.list_(pa.string())),
        "negative_ids": pa.array([["a", "b"], ["c"], [], ["d", "e"]], pa.list_(pa.string())),
        "negative_scores": pa.array([[2, 1], [3], [], [5, 4]], pa.list_(pa.float32())),
        "negative_ranks": pa.array([[1, 2], [1], [], [1, 3]], pa.list_(pa.int32())),
        "negative_source": pa.array([["s", "t"], ["s"], [], ["t", "t"]], pa.list_(pa.string())),
        "label": pa.array([1, 2, 3, 4], pa.int8()),
        "weights": pa.array([[0.5], None, [], [0.25, 2]], pa.list_(pa.float64())),
        "about": pa.array([{"a": 1}, {"a": 2}, None, {"a": 3}]),
    }
)


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_nulls_and_empty_lists_keep_their_types(form, size):
    found = ray.data.from_arrow(AWKWARD).map_batches(TopNegatives(1), batch_format=form, batch_size=size)
    table = table_of(found)
    for name in ("negative_ids", "negative_scores", "negative_ranks", "negative_source"):
        expected = pa.array([one[:1] for one in AWKWARD[name].to_pylist()], AWKWARD.schema.field(name).type)
        assert table[name].combine_chunks() == expected
    others = [name for name in AWKWARD.column_names if not name.startswith("negative_")]
    assert table.select(others).to_pylist() == AWKWARD.select(others).to_pylist()
    assert table.select(others).schema.types == AWKWARD.select(others).schema.types


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_lists_may_all_be_empty(form):
    nothing = AWKWARD.slice(2, 1)
    found = ray.data.from_arrow(nothing).map_batches(TopNegatives(1), batch_format=form)
    names = [name for name in AWKWARD.column_names if name.startswith("negative_")]
    assert table_of(found).select(names).schema == AWKWARD.select(names).schema


def double(batch):
    return batch | {"label": batch["label"] * 2}


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_lists_that_went_through_a_function_on_arrays_are_lists_again(form):
    """Ray makes tensors and pickled objects of them."""
    rows = AWKWARD.slice(0, 2).drop_columns(["about", "weights"])
    found = ray.data.from_arrow(rows).map_batches(double).map_batches(TopNegatives(1), batch_format=form).take_all()
    assert [list(row["negative_ids"]) for row in found] == [["a"], ["c"]]
    assert [list(row["negative_scores"]) for row in found] == [[2.0], [3.0]]
    assert [row["label"] for row in found] == [2, 4]


def test_images_and_objects_pass_through():
    images = np.arange(16, dtype=np.float32).reshape(4, 2, 2)
    things = np.array([1j, 2j, None, 3j], dtype=object)
    rows = AWKWARD.select(["query", "negative_ids"]).to_pylist()
    found = ray.data.from_items([row | {"place": place} for place, row in enumerate(rows)])
    found = found.map_batches(
        lambda batch: batch | {"image": images[batch["place"]], "thing": things[batch["place"]]}, batch_format="numpy"
    )
    for form in FORMATS:
        answers = found.map_batches(TopNegatives(1), batch_format=form, batch_size=2).take_all()
        for row, image, thing, before in zip(answers, images, things, rows, strict=True):
            np.testing.assert_array_equal(row["image"], image)
            assert row["thing"] == thing
            assert list(row["negative_ids"]) == before["negative_ids"][:1]


# ---- where a process stands ------------------------------------------------------------------------------------------


def test_the_process_that_gives_out_the_work_is_no_worker():
    assert not in_ray_worker()
    assert threads() == len(os.sched_getaffinity(0))
    rows = Dataset(AWKWARD.drop_columns(["about"]))
    mapped = rows.with_format("numpy").map(TopNegatives(1), batched=True).with_format(None)
    assert mapped["negative_ids"][:] == [["a"], ["c"], [], ["d"]]
    assert mapped.column_names == rows.column_names


def test_a_worker_has_as_many_threads_as_cores_and_may_map():
    @ray.remote(num_cpus=2)
    def work():
        rows = Dataset(AWKWARD.drop_columns(["about"]))
        mapped = [rows.with_format(form).map(TopNegatives(1), batched=True) for form in (None, "numpy", "pandas")]
        return in_ray_worker(), threads(), [one.with_format(None)["negative_ids"][:] for one in mapped]

    assert ray.get(work.remote(), timeout=60) == (True, 2, [[["a"], ["c"], [], ["d"]]] * 3)


# ---- embedding -------------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus():
    """Five shards; every fourth passage repeats another, some of them one of another shard."""
    texts = [f"plate {row if row % 4 else row // 2 + 1} moves " + "on " * (row % 7) for row in range(17_000)]
    return Corpus.from_dataset(Dataset.from_dict({"id": [str(row) for row in range(17_000)], "text": texts}))


def texts_of(corpus):
    return corpus.texts(np.arange(len(corpus))).to_pylist()


def answer(texts):
    return np.column_stack([digest_strings(texts) % 997 + 1, [len(text) for text in texts]]) / 997


def die_once(folder):
    """Kill the own process, unless another was killed before."""
    note = Path(folder) / "died"
    if not note.exists():
        note.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)


def logged(folder, dies_at=None, workers=1):
    """Make a function model that notes who encoded what, and takes its process down once, in the middle of a shard.

    It answers when so many workers have begun, however long they take to start.
    """

    def model(texts):
        path = Path(folder) / f"{os.getpid()}.log"
        with path.open("a") as file:
            file.write("".join(f"{text}\n" for text in texts))
        deadline = time.monotonic() + 60
        while len(list(Path(folder).glob("*.log"))) < workers and time.monotonic() < deadline:
            time.sleep(0.05)
        if dies_at in texts:
            die_once(folder)
        return answer(texts)

    return model


def encoded(folder):
    return {int(path.stem): path.read_text().splitlines() for path in Path(folder).glob("*.log")}


def bytes_of(embeddings):
    return (cache_root() / "embeddings" / embeddings.fingerprint / "vectors.npy").read_bytes()


OPTIONS = {"fingerprint": "hashes-1", "similarity": "dot", "batch_size": 64}


@pytest.fixture
def expected(corpus, tmp_path):
    return embedded_here(corpus, tmp_path, answer, **OPTIONS)


def embedded_here(corpus, tmp_path, model, **options):
    """Return the bytes that `Corpus.embed` writes, and leave the cache without them."""
    embeddings = corpus.embed(model, **options)
    found = embeddings.fingerprint, bytes_of(embeddings)
    embeddings.discard()
    return found


@pytest.fixture(autouse=True)
def _own_root(tmp_path, request):
    if "corpus" not in request.fixturenames:
        yield
        return
    with cache_root_at(tmp_path / "cache"):
        yield


def test_a_job_goes_on_with_the_shards_of_another(corpus, expected, tmp_path):
    job = EmbeddingJob(corpus, Encoder(answer, "document", **OPTIONS), "float32")
    job.begin()
    for shard in (0, 3):
        assert job.take(shard)
    embeddings = embed_with_ray(corpus, logged(tmp_path), concurrency=1, **OPTIONS)
    assert (embeddings.fingerprint, bytes_of(embeddings)) == expected
    texts = texts_of(corpus)
    done = {texts[row] for shard in (0, 3) for row in job.rows(shard) if job.first_rows[row] == row}
    assert not done & set(*encoded(tmp_path).values())


def test_models_reach_the_workers(corpus, static_model, tmp_path):
    """As an object; one that comes by its path is opened by the chain of classes above, and by a worker below."""
    few = Corpus.from_dataset(Dataset.from_dict({"id": ["a", "b"], "text": ["a wave", "a plate"]}))
    expected = embedded_here(few, tmp_path, static_model, prompt="read: ", dtype="float16")
    embeddings = embed_with_ray(few, static_model, prompt="read: ", dtype="float16")
    assert (embeddings.fingerprint, bytes_of(embeddings)) == expected
    assert not list(cache_root().glob("model.*")), "what the model was handed over in is gone"


def test_workers_embed_what_one_process_does_and_one_that_is_killed_is_started_again(corpus, expected, tmp_path):
    # The longest texts come first, so this one is in the middle of its shard, in its second call of three.
    distinct = sorted(set(texts_of(corpus)[4096:8192]) - set(texts_of(corpus)[:4096]), key=len)
    dies_at = distinct[len(distinct) // 2]
    embeddings = embed_with_ray(corpus, logged(tmp_path, dies_at, workers=2), concurrency=2, **OPTIONS)
    assert (embeddings.fingerprint, bytes_of(embeddings)) == expected
    found = encoded(tmp_path)
    before = found.pop(int((tmp_path / "died").read_text()))
    assert dies_at in before[-1024:], "it was the last call of the process"
    assert set(before) < set(texts_of(corpus)), "and there was more to do"
    again = set().union(*found.values())
    assert dies_at in again, "another process did it, and got the lock of the one that was killed"
    assert set(before[-2048:]) & again > set(before[-1024:]), "the shard was encoded from its beginning"
    assert len(found) == 2, "both workers did some of it"
    assert os.getpid() not in found
    assert embed_with_ray(corpus, answer, **OPTIONS) == embeddings
    assert corpus.embed(answer, **OPTIONS) == embeddings


def test_a_lock_that_a_killed_process_held_is_free(corpus, expected, tmp_path):
    job = EmbeddingJob(corpus, Encoder(answer, "document", **OPTIONS), "float32")
    job.begin()
    path = job.folder / "shards" / "000001.lock"
    code = (
        "import sys, time; from filelock import FileLock\n"
        f"with FileLock({str(path)!r}):\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        missing_at_the_kill = []

        def kill():
            # However long the worker takes to start: until it has done all the others, and waits.
            deadline = time.monotonic() + 60
            while job.missing() != [1] and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(1.0)
            missing_at_the_kill.extend(job.missing())
            holder.kill()

        # A new thread has another cache folder, unless it is told.
        killer = threading.Thread(target=contextvars.copy_context().run, args=[kill])
        killer.start()
        embeddings = embed_with_ray(corpus, answer, concurrency=1, **OPTIONS)
        killer.join()
    assert holder.returncode == -signal.SIGKILL
    assert missing_at_the_kill == [1]
    assert (embeddings.fingerprint, bytes_of(embeddings)) == expected


def test_errors_of_workers_are_those_of_embed(corpus):
    def zeros(texts):
        return np.zeros((len(texts), 2))

    with pytest.raises(ValueError, match=r"^The model returns a zero, NaN or infinite vector for the passage '\d+'"):
        embed_with_ray(corpus, zeros, fingerprint="zeros", concurrency=1)
    with pytest.raises(ValueError, match=r"num_gpus must be a number of at least 0, got -1"):
        embed_with_ray(corpus, zeros, fingerprint="zeros", num_gpus=-1)
    with pytest.raises(ValueError, match=r"dtype must be one of"):
        embed_with_ray(corpus, zeros, fingerprint="zeros", dtype="float64")


def test_another_model_or_another_disk_on_a_worker_is_an_error(corpus, make_static_model, tmp_path):
    make_static_model(8).save(str(tmp_path / "model"))
    job = EmbeddingJob(corpus, Encoder(str(tmp_path / "model"), "document"), "float32")
    about = {"corpus": corpus, "dtype": "float32", "model": "", "name": job.name, "options": {}}
    about |= {"root": str(cache_root()), "source": str(tmp_path / "model")}
    with pytest.raises(RuntimeError, match=r"is not the same on all nodes\. Set HF_DATASETS_CACHE"):
        _Worker(about).ready()
    job.begin()
    worker = _Worker(about)
    worker.ready()
    assert worker.take(0)
    assert 0 not in job.missing()
    make_static_model(4).save(str(tmp_path / "model"))
    with pytest.raises(RuntimeError, match="on a worker differs from the model"):
        _Worker(about).ready()


def test_without_ray_it_says_what_to_install(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'hnm-datasets\[ray\]'"):
        embed_with_ray(corpus, answer, **OPTIONS)


# ---- a worker that is killed while it mines --------------------------------------------------------------------------


class DiesOnce:
    """Mines, notes for which rows, and takes its process down once, when it has found but not yet answered."""

    def __init__(self, corpus, folder, dies_at):
        self.step, self.folder, self.dies_at = BM25Negatives(corpus, k=5), folder, dies_at

    def __call__(self, batch):
        found = self.step(batch)
        names = batch["query_id"].to_pylist()
        with (Path(self.folder) / f"{os.getpid()}.log").open("a") as file:
            file.write("".join(f"{name}\n" for name in names))
        if self.dies_at in names:
            die_once(self.folder)
        time.sleep(0.02)
        return found


def test_mining_survives_a_worker_that_is_killed(tmp_path):
    corpus, rows = sample_rows()
    rows = datasets.concatenate_datasets([rows] * 9).select(range(100)).remove_columns("query_id")
    rows = rows.add_column("query_id", [f"q{row:03}" for row in range(100)])
    found = under_ray(rows, blocks=10).map_batches(
        DiesOnce,
        fn_constructor_args=(corpus, str(tmp_path), "q043"),
        compute=ray.data.ActorPoolStrategy(size=1),
        batch_format="pyarrow",
        batch_size=5,
    )
    check_same(found, rows.map(BM25Negatives(corpus, k=5), batched=True))
    mined = encoded(tmp_path)
    killed = int((tmp_path / "died").read_text())
    before = mined.pop(killed)
    assert before[-1] == "q044", "it was the last that the process did"
    assert len(before) < 100, "and there was more to do"
    assert "q043" in set().union(*mined.values()), "another process did it again"
    assert not Path(f"/proc/{killed}").exists()
