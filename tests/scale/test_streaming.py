import multiprocessing
import os
import signal

import pytest
from datasets import Dataset, Features, IterableDataset, List, Value, load_dataset

from hnm_datasets import BM25Negatives, TopNegatives, load_sample, write_stream
from hnm_datasets.scale import streaming

ROWS = 500


def numbers(rows=ROWS, stop=None):
    for row in range(rows):
        if row == stop:
            raise RuntimeError("stopped")
        yield {"query_id": f"q{row}", "query": "x" * 100, "negative_ids": [f"p{row}"]}


def stream(**arguments):
    return IterableDataset.from_generator(numbers, gen_kwargs=arguments)


def ids_in(folder):
    return load_dataset(str(folder), split="train")["query_id"][:]


def test_mined_rows_are_those_of_map(tmp_path):
    corpus, queries = load_sample()
    step = BM25Negatives(corpus, k=5)
    mined = queries.to_iterable_dataset().map(step, batched=True, batch_size=64).map(TopNegatives(3), batched=True)
    assert write_stream(mined, tmp_path, max_shard_size=20_000, batch_size=50) == len(queries)
    assert len(list((tmp_path / "data").iterdir())) > 3
    expected = queries.map(step, batched=True).map(TopNegatives(3), batched=True)
    columns = ["query_id", "negative_ids", "negative_ranks", "negative_scores"]
    written = load_dataset(str(tmp_path), split="train")
    assert written.select_columns(columns).to_list() == expected.select_columns(columns).to_list()


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_interrupted_and_resumed_without_a_lost_or_a_repeated_row(tmp_path, batch_size):
    def double(batch):
        return {"twice": [query + query for query in batch["query"]]}

    def mapped(stop):
        return stream(stop=stop).map(double, batched=True, batch_size=32)

    stops = iter([90, 300, 301, None])
    for stop in stops:
        source = mapped(stop)
        if stop is None:
            assert write_stream(source, tmp_path, max_shard_size=5000, batch_size=batch_size) == ROWS
        else:
            with pytest.raises(RuntimeError, match="stopped"):
                write_stream(source, tmp_path, max_shard_size=5000, batch_size=batch_size)
            assert not list(tmp_path.glob("data/train*.tmp"))
    assert ids_in(tmp_path) == [f"q{row}" for row in range(ROWS)]


def test_a_killed_run_goes_on(tmp_path):
    write = streaming.pq.write_table

    def killed(name):
        def write_and_die(table, path):
            write(table, path)
            if name in str(path):
                os.kill(os.getpid(), signal.SIGKILL)

        streaming.pq.write_table = write_and_die
        streaming.write_stream(stream(), tmp_path, max_shard_size=5000, batch_size=10)

    def run(name):
        child = multiprocessing.get_context("fork").Process(target=killed, args=[name])
        child.start()
        child.join()
        return child.exitcode

    assert run("train-00002") == -9
    assert len(ids_in(tmp_path)) < ROWS
    assert run("train-00004") == -9
    assert run("no shard") == 0
    assert ids_in(tmp_path) == [f"q{row}" for row in range(ROWS)]
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"data"}


def test_a_finished_folder_is_not_written_again(tmp_path):
    assert write_stream(stream(), tmp_path) == ROWS
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("data/*")}
    assert write_stream(stream(), tmp_path) == ROWS
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("data/*")} == times


def test_types_are_those_of_the_first_shard_that_knows_them(tmp_path):
    def rows():
        for row in range(30):
            yield {
                "query_id": str(row),
                "negative_ids": [] if row < 10 else ["p"],
                "negative_scores": [] if row < 10 else [0.5],
            }

    features = Features(
        {"query_id": Value("string"), "negative_ids": List(Value("string")), "negative_scores": List(Value("float32"))}
    )
    write_stream(IterableDataset.from_generator(rows, features=features), tmp_path, max_shard_size=1, batch_size=5)
    assert load_dataset(str(tmp_path), split="train").features == features


def test_columns_that_change_their_type_are_refused(tmp_path):
    def rows():
        for row in range(20):
            yield {"value": row if row < 10 else "text"}

    with pytest.raises(ValueError, match="change their types"):
        write_stream(IterableDataset.from_generator(rows), tmp_path, max_shard_size=1, batch_size=5)


def test_another_stream_is_refused(tmp_path):
    write_stream(stream(), tmp_path)
    with pytest.raises(ValueError, match=r"another stream.*another folder"):
        write_stream(stream().map(TopNegatives(1), batched=True), tmp_path)
    with pytest.raises(ValueError, match="another split"):
        write_stream(stream(), tmp_path, split="test")


def test_bad_input(tmp_path):
    with pytest.raises(TypeError, match="takes an IterableDataset, got Dataset"):
        write_stream(Dataset.from_dict({"a": [1]}), tmp_path)
    with pytest.raises(ValueError, match="no rows"):
        write_stream(stream(rows=0), tmp_path)
    with pytest.raises(ValueError, match="batch_size"):
        write_stream(stream(), tmp_path, batch_size=0)
    with pytest.raises(ValueError, match="max_shard_size must be bytes, or a size such as '100MB', got 'large'"):
        write_stream(stream(), tmp_path, max_shard_size="large")
    with pytest.raises(ValueError, match="max_shard_size must be a whole number of at least 1"):
        write_stream(stream(), tmp_path, max_shard_size=0)


def test_a_complete_folder_is_left_and_it_says_so(tmp_path, caplog):
    rows = write_stream(stream(), tmp_path)
    before = [path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()]
    assert not caplog.records
    assert write_stream(stream(), tmp_path) == rows
    assert [path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()] == before
    assert f"is complete, with {rows} rows; nothing was written" in caplog.text
