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


def test_an_interrupt_says_how_many_rows_are_written(tmp_path, monkeypatch):
    write = streaming.pq.write_table

    def interrupt(table, path):
        if "train-00002" in str(path):
            raise KeyboardInterrupt
        write(table, path)

    monkeypatch.setattr(streaming.pq, "write_table", interrupt)
    with pytest.raises(KeyboardInterrupt) as error:
        write_stream(stream(), tmp_path, max_shard_size=5000, batch_size=10)
    written = len(ids_in(tmp_path))
    assert 0 < written < ROWS
    assert f"{written} rows are in {tmp_path}. Repeat the call to resume." in str(error.value)


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

    with pytest.raises(ValueError, match="the types of the columns change"):
        write_stream(IterableDataset.from_generator(rows), tmp_path, max_shard_size=1, batch_size=5)


def test_another_stream_is_refused(tmp_path):
    write_stream(stream(), tmp_path)
    with pytest.raises(ValueError, match=r"another stream.*another folder"):
        write_stream(stream().map(TopNegatives(1), batched=True), tmp_path)
    with pytest.raises(ValueError, match="another stream or split"):
        write_stream(stream(), tmp_path, split="test")


def test_bad_input(tmp_path):
    with pytest.raises(TypeError, match="requires an IterableDataset, got Dataset"):
        write_stream(Dataset.from_dict({"a": [1]}), tmp_path)
    with pytest.raises(ValueError, match="no rows"):
        write_stream(stream(rows=0), tmp_path)
    with pytest.raises(ValueError, match="batch_size"):
        write_stream(stream(), tmp_path, batch_size=0)
    with pytest.raises(ValueError, match="must be a number of bytes or a size such as '100MB', got 'large'"):
        write_stream(stream(), tmp_path, max_shard_size="large")
    with pytest.raises(ValueError, match="max_shard_size must be a whole number of at least 1"):
        write_stream(stream(), tmp_path, max_shard_size=0)


def test_a_complete_folder_is_left_and_it_says_so(tmp_path, caplog):
    rows = write_stream(stream(), tmp_path)
    before = [path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()]
    assert not caplog.records
    assert write_stream(stream(), tmp_path) == rows
    assert [path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()] == before
    assert f"is already complete, with {rows} rows. Nothing was written" in caplog.text


# ---- names ----------------------------------------------------------------------------------------------------------

BAD_SPLITS = ["../../evil", "..", ".", "", "tr ain", "a/b", "a\\b", "a-b", "a.", ".a", "a\n", "a*", "C:x", "all"]
BAD_SPLITS += ["e\u0301", "x" * 200]


@pytest.mark.parametrize("split", BAD_SPLITS)
def test_a_split_name_that_leaves_the_folder_or_cannot_be_loaded_is_refused(tmp_path, split):
    with pytest.raises(ValueError, match=r"write_stream: .*split.*Rename it"):
        write_stream(stream(rows=3), tmp_path / "folder" / "set", split=split)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("split", ["test", "dev", "train_2", "my_test", "a.b", "测试", "CON"])
def test_load_dataset_finds_the_split_by_its_name(tmp_path, split):
    write_stream(stream(), tmp_path, split=split, max_shard_size=20_000, batch_size=50)
    assert list(load_dataset(str(tmp_path))) == [split]
    assert load_dataset(str(tmp_path), split=split)["query_id"][:] == [f"q{row}" for row in range(ROWS)]
    count = len(list((tmp_path / "data").iterdir()))
    assert count > 1
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        f"{split}-{shard:05d}-of-{count:05d}.parquet" for shard in range(count)
    }


# ---- damage ---------------------------------------------------------------------------------------------------------


def interrupted(folder):
    with pytest.raises(RuntimeError, match="stopped"):
        write_stream(stream(stop=300), folder, max_shard_size=5000, batch_size=10)


def damage_deleted(path):
    path.unlink()


def damage_emptied(path):
    path.write_bytes(b"")


def damage_flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_replaced(path):
    path.write_bytes(sorted(path.parent.iterdir())[-1].read_bytes())


@pytest.mark.parametrize("damage", [damage_deleted, damage_emptied, damage_flipped, damage_replaced])
@pytest.mark.parametrize("complete", [False, True])
def test_a_damaged_shard_of_an_earlier_run_is_not_believed(tmp_path, damage, complete):
    if complete:
        write_stream(stream(), tmp_path, max_shard_size=5000, batch_size=10)
    else:
        interrupted(tmp_path)
    victim = sorted((tmp_path / "data").iterdir())[1]
    damage(victim)
    with pytest.raises(ValueError, match=r"train-00001.*(is missing|has changed).*Delete the folder") as caught:
        write_stream(stream(), tmp_path, max_shard_size=5000, batch_size=10)
    assert str(tmp_path) in str(caught.value)


STATES = {
    "empty": lambda state: b"",
    "not JSON": lambda state: b"{",
    "a list": lambda state: b"[1, 2]",
    "null": lambda state: b"null",
    "missing keys": lambda state: b"{}",
    "cut short": lambda state: state[:-20],
    "not UTF-8": lambda state: b"\xff\xfe" + state,
    "deep": lambda state: b"[" * 100_000,
    "another number": lambda state: state.replace(b'"rows": ', b'"rows": 1'),
    "text for a number": lambda state: state.replace(b'"done": false', b'"done": "false"'),
    "no shards": lambda state: state.replace(b'"shards"', b'"shard"'),
    "of an earlier version": lambda state: b'{"kind": {}, "shards": 2, "rows": 20, "state": {}, "done": false}',
}


@pytest.mark.parametrize("change", STATES.values(), ids=STATES)
def test_a_broken_state_is_named_with_the_way_out(tmp_path, change):
    interrupted(tmp_path)
    state = tmp_path / ".stream.json"
    state.write_bytes(change(state.read_bytes()))
    with pytest.raises(ValueError, match=r"write_stream: .*\.stream\.json.*Delete the folder.*another folder"):
        write_stream(stream(), tmp_path, max_shard_size=5000, batch_size=10)


def test_a_huge_state_is_not_read(tmp_path):
    interrupted(tmp_path)
    with (tmp_path / ".stream.json").open("ab") as file:
        file.truncate(10**10)
    with pytest.raises(ValueError, match=r"10,000,000,000 bytes.*Delete the folder"):
        write_stream(stream(), tmp_path)


def test_shards_beyond_the_state_are_removed(tmp_path):
    interrupted(tmp_path)
    shards = sorted((tmp_path / "data").iterdir())
    (tmp_path / "data" / "train-00400.parquet").write_bytes(shards[0].read_bytes())
    assert write_stream(stream(), tmp_path, max_shard_size=5000, batch_size=10) == ROWS
    assert ids_in(tmp_path) == [f"q{row}" for row in range(ROWS)]


def test_killed_while_the_shards_are_renamed(tmp_path):
    write_stream(stream(), tmp_path, max_shard_size=5000, batch_size=10)
    for shard in sorted((tmp_path / "data").iterdir())[3:]:
        shard.rename(shard.with_name(shard.name.split("-of-")[0] + ".parquet"))
    assert write_stream(stream(), tmp_path, max_shard_size=5000, batch_size=10) == ROWS
    assert ids_in(tmp_path) == [f"q{row}" for row in range(ROWS)]


def test_files_of_others_are_neither_counted_nor_overwritten(tmp_path):
    (tmp_path / "data").mkdir()
    other = tmp_path / "data" / "train-00000-of-00001.parquet"
    other.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"files that write_stream did not write.*train-00000-of-00001"):
        write_stream(stream(), tmp_path)
    assert other.read_bytes() == b"mine"
