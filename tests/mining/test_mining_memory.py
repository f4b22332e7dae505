"""Rows remember their mining, whatever is done to them."""

import json
import pickle

import pytest
from datasets import DatasetInfo, concatenate_datasets, load_from_disk
from mining_helpers import make_rows

from hnm_datasets import MiningReport, RandomNegatives, RankWindow, TopNegatives, mine
from hnm_datasets.mining.memory import memories, with_memory
from hnm_datasets.mining.report import reports_of


@pytest.fixture(scope="module")
def mined(corpus):
    return mine(make_rows(), [RandomNegatives(corpus, k=5), RankWindow(2)])


def saved(rows, folder):
    rows.save_to_disk(folder / "rows", num_shards=2)
    return load_from_disk(folder / "rows")


SAME = {
    "pickle": lambda rows, folder: pickle.loads(pickle.dumps(rows)),
    "disk": saved,
    "formatted": lambda rows, folder: rows.with_format("numpy"),
    "formatted and saved": lambda rows, folder: saved(rows.with_format("arrow", columns=["query"]), folder),
    "all rows": lambda rows, folder: rows.select(range(len(rows))),
    "twice backwards": lambda rows, folder: rows.select(range(6, -1, -1)).select(range(6, -1, -1)),
    "flat": lambda rows, folder: rows.flatten_indices(),
}
CHANGED = {
    "select": lambda rows, folder: rows.select([3, 1]),
    "shuffle": lambda rows, folder: rows.shuffle(seed=3),
    "split": lambda rows, folder: rows.train_test_split(test_size=2, seed=0)["test"],
    "split and saved": lambda rows, folder: saved(rows.train_test_split(test_size=2, seed=0)["train"], folder),
    "filter": lambda rows, folder: rows.filter(lambda row: row["positive_ids"]),
    "map": lambda rows, folder: rows.map(TopNegatives(1), batched=True),
    "map in workers": lambda rows, folder: rows.map(TopNegatives(1), batched=True, num_proc=2),
    "shard": lambda rows, folder: rows.shard(2, 0),
    "columns": lambda rows, folder: rows.remove_columns("query_id"),
    "names": lambda rows, folder: rows.rename_column("query", "question"),
    "another column": lambda rows, folder: rows.add_column("topic", ["a"] * len(rows)),
    "joined parts": lambda rows, folder: concatenate_datasets([rows.select([1, 2]), rows.select([5])]),
}


@pytest.mark.parametrize("change", [*SAME, *CHANGED])
def test_rows_remember(mined, tmp_path, change):
    rows = (SAME | CHANGED)[change](mined, tmp_path)
    report = MiningReport.of(rows)
    assert report == MiningReport.of(mined)
    assert [one.name for one in report.steps] == ["RandomNegatives(k=5)", "RankWindow(min=2)"]
    assert report.is_of(rows) == (change in SAME)


def test_a_chain_goes_on(corpus, mined):
    before = MiningReport.of(mined)
    after = MiningReport.of(mine(mined, [TopNegatives(3)]))
    assert after.steps[:2] == before.steps
    assert [one.after_unrecorded for one in after.steps] == [False, False, False]
    changed = MiningReport.of(mine(mined.select([5, 1]), [TopNegatives(3)]))
    assert [one.after_unrecorded for one in changed.steps] == [False, False, True]
    assert "Before TopNegatives(n=3), the rows were mined or changed by operations that are not" in repr(changed)
    mapped = make_rows().map(RandomNegatives(corpus, k=5), batched=True)
    assert [one.after_unrecorded for one in MiningReport.of(mine(mapped, [TopNegatives(3)])).steps] == [True]


def test_rows_of_several_minings_have_no_report_of_their_own(corpus, mined):
    other = mine(make_rows(), [RandomNegatives(corpus, k=4)])
    both = concatenate_datasets([mined, other])
    assert MiningReport.of(both) is None
    assert reports_of(both) == [MiningReport.of(mined), MiningReport.of(other)]
    assert [one.after_unrecorded for one in MiningReport.of(mine(both, [TopNegatives(2)])).steps] == [True]


def test_only_the_last_memory_stays_and_the_description_too(mined):
    rows = mined.select([0])
    rows.info.description = f"Questions on waves.\n\n{rows.info.description}"
    again = with_memory(rows, {"text": "two\nlines"})
    assert memories(again) == [{"text": "two\nlines"}]
    assert again.info.description.startswith("Questions on waves.\n\n")
    assert rows.info.description.count("hnm_datasets.mine") == 1
    assert MiningReport.of(rows) == MiningReport.of(mined), "the rows that were given are as they were"


def test_a_set_of_splits_has_no_report(mined):
    with pytest.raises(TypeError, match="requires a Dataset that mine returned, got DatasetDict"):
        MiningReport.of(mined.train_test_split(test_size=2))


def test_nothing_is_remembered_of_other_rows(mined):
    assert MiningReport.of(make_rows()) is None
    report = MiningReport.of(mined).to_dict()
    for text in (
        "hnm_datasets.mine {}",
        "hnm_datasets.mine {broken}",
        "hnm_datasets.mine " + '{"a":' * 5000 + "1" + "}" * 5000,
        f"hnm_datasets.mine {json.dumps(report | {'steps': []})}",
        f"hnm_datasets.mine {json.dumps(report | {'steps': [report['steps'][0] | {'dropped': 'many'}]})}",
    ):
        rows = make_rows()
        rows._info = DatasetInfo(description=text, features=rows.features)
        assert MiningReport.of(rows) is None
