"""What bypasses the transform of live rows: texts, or an error that names the way out, and never a number."""

import copy
import pickle
import random

import numpy as np
import older_versions
import pytest
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets, interleave_datasets
from live_helpers import make_model, make_rows, trainer_of, whole
from torch.utils.data import ConcatDataset, DataLoader

from hnm_datasets import (
    FollowEpochs,
    HardNegativesRankingLoss,
    audit_negatives,
    compare_negatives,
    convert,
    live_negatives,
    rows_of_epoch,
    save_mined,
)
from hnm_datasets.training.live_rows import LiveNegatives

pytestmark = pytest.mark.usefixtures("fast_trainers")

COLUMNS = ["anchor", "positive", "negative_1", "negative_2"]


@pytest.fixture
def live(corpus, rows):
    return live_negatives(rows, corpus, n=2)


@pytest.fixture
def other(corpus):
    return live_negatives(make_rows(queries=18, seed=5), corpus, n=2, seed=4)


REFUSED = {
    "with_format(None)": lambda live: live.with_format(None),
    "with_format(numpy)": lambda live: live.with_format("numpy"),
    "with_format(pandas)": lambda live: live.with_format("pandas"),
    "with_format(arrow)": lambda live: live.with_format("arrow"),
    "with_format(torch)": lambda live: live.with_format("torch"),
    "set_format": lambda live: live.set_format("numpy"),
    "set_format of columns": lambda live: live.set_format("torch", columns=["anchor"]),
    "reset_format": lambda live: live.reset_format(),
    "formatted_as": lambda live: live.formatted_as("numpy").__enter__(),
    "with_transform": lambda live: live.with_transform(lambda batch: batch),
    "set_transform": lambda live: live.set_transform(lambda batch: batch),
    "to_pandas": lambda live: live.to_pandas(),
    "to_list": lambda live: live.to_list(),
    "to_dict": lambda live: live.to_dict(),
    "to_csv": lambda live: live.to_csv("never.csv"),
    "to_json": lambda live: live.to_json("never.json"),
    "to_parquet": lambda live: live.to_parquet("never.parquet"),
    "to_polars": lambda live: live.to_polars(),
    "to_sql": lambda live: live.to_sql("never", "sqlite:///:memory:"),
    "to_iterable_dataset": lambda live: live.to_iterable_dataset(),
    "save_to_disk": lambda live: live.save_to_disk("never"),
    "push_to_hub": lambda live: live.push_to_hub("me/never"),
    "select_columns": lambda live: live.select_columns(["anchor", "positive"]),
    "remove_columns": lambda live: live.remove_columns("negative_2"),
    "rename_column": lambda live: live.rename_column("anchor", "query"),
    "rename_columns": lambda live: live.rename_columns({"anchor": "query"}),
    "add_column": lambda live: live.add_column("score", [0.0] * len(live)),
    "cast_column": lambda live: live.cast_column("anchor", None),
    "sort": lambda live: live.sort("anchor"),
    "unique": lambda live: live.unique("anchor"),
    "flatten_indices": lambda live: live.shuffle(seed=0).flatten_indices(),
    "a split's format": lambda live: DatasetDict({"train": live}).with_format("numpy"),
    "the splits on disk": lambda live: DatasetDict({"train": live}).save_to_disk("never"),
    "an audit": lambda live: audit_negatives(live, live.source.corpus),
    "a comparison": lambda live: compare_negatives(live, live, live.source.corpus),
    "a conversion": lambda live: convert(live, "tevatron", live.source.corpus),
    "a saved set": lambda live: save_mined(live, "never"),
    "batches as rows": lambda live: live.batch(2),
    "the table": lambda live: live.data.to_pandas(),
    "the table's values": lambda live: live.data.to_pydict(),
    "a column of the table": lambda live: live.data.column("anchor").to_pylist(),
    "a dataset of the table": lambda live: Dataset(live.data)[0],
}  # fmt: skip


#: Only newer versions of datasets read the rows for this.
BATCHES = pytest.param("batches as rows", marks=older_versions.needs("datasets", "5.0", "batch reads the table"))


@pytest.mark.parametrize("way", [BATCHES if way == "batches as rows" else way for way in REFUSED])
def test_what_needs_texts_in_the_table_names_the_way_out(live, way, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = whole(live)
    with pytest.raises(TypeError, match="rows_of_epoch"):
        REFUSED[way](live)
    assert whole(live) == before


def halves(live, axis):
    renamed = rows_of_epoch(live).rename_columns({name: f"other_{name}" for name in [*COLUMNS, "label"]})
    return concatenate_datasets([live, renamed], axis=axis)


JOINED = {
    "one after the other": lambda live, other: concatenate_datasets([live, other]),
    "shuffled": lambda live, other: concatenate_datasets([live.shuffle(seed=1), other.select([4, 2])]),
    "interleaved": lambda live, other: interleave_datasets([live, other]),
    "by chance": lambda live, other: interleave_datasets([live, other], probabilities=[0.5, 0.5], seed=0),
    "side by side": lambda live, other: halves(live, 1),
}

READ = {
    "row": lambda data: data[0],
    "batch": lambda data: data[:2],
    "column": lambda data: data["anchor"][0],
    "column's values": lambda data: data["positive"][:],
    "iteration": lambda data: next(iter(data)),
    "batches": lambda data: next(data.iter(2)),
    "numpy": lambda data: data.with_format("numpy")[0],
    "torch": lambda data: data.with_format("torch")[:2],
    "pandas": lambda data: data.with_format("pandas")[:2],
    "to_pandas": lambda data: data.to_pandas(),
    "to_list": lambda data: data.to_list(),
    "to_dict": lambda data: data.to_dict(),
    "map": lambda data: data.map(lambda row: {"length": len(row["anchor"])}),
    "filter": lambda data: data.filter(lambda row: len(row["anchor"]) > 1),
    "a stream": lambda data: next(iter(data.to_iterable_dataset())),
    "a transform": lambda data: data.with_transform(lambda batch: batch)[0],
    "a dataloader": lambda data: next(iter(DataLoader(data, batch_size=2))),
    "a copy": lambda data: pickle.loads(pickle.dumps(data))[0],
    "some columns": lambda data: data.select_columns(["anchor", "positive"])[0],
}


@pytest.mark.parametrize("way", JOINED)
def test_joined_sets_name_the_way_out_however_they_are_read(live, other, way):
    joined = JOINED[way](live, other)
    for read in READ.values():
        with pytest.raises(TypeError, match="rows_of_epoch"):
            read(joined)


def test_a_file_of_joined_sets_has_no_texts(live, other, tmp_path):
    joined = concatenate_datasets([live, other])
    joined.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(TypeError, match="rows_of_epoch"):
        Dataset.load_from_disk(str(tmp_path / "saved"))[0]
    joined.to_parquet(str(tmp_path / "rows.parquet"))
    with pytest.raises(TypeError, match="rows_of_epoch"):
        Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))[0]
    with pytest.raises(TypeError, match="rows_of_epoch"):
        joined.to_csv(str(tmp_path / "rows.csv"))


def test_joined_sets_are_not_trained_on(live, other, tmp_path):
    model, _ = make_model()
    joined = concatenate_datasets([live, other])
    with pytest.raises(TypeError, match=r"rows_of_epoch.*as a dict"):
        trainer_of(model, joined, HardNegativesRankingLoss(model), tmp_path)


def test_live_rows_do_not_join_plain_ones(live):
    plain = rows_of_epoch(live)
    with pytest.raises((TypeError, ValueError), match=r"rows_of_epoch|can't be aligned"):
        concatenate_datasets([live, plain])[0]


def test_parts_of_one_set_join_with_their_texts(live):
    expected = whole(live)
    joined = concatenate_datasets([live.select(range(3)), live.select([7, 5])])
    assert [joined[row] for row in range(5)] == [*expected[:3], expected[7], expected[5]]
    twice = live.repeat(2)
    assert [twice[row] for row in (0, len(live))] == [expected[0], expected[0]]


def test_what_selects_rows_keeps_their_texts(live):
    expected = {str(row) for row in whole(live)}
    split = live.train_test_split(test_size=0.25, seed=0)
    parts = [*split.values(), live.shuffle(seed=3), live.take(4), live.skip(4), live.shard(3, 1), live.select([2, 0])]
    parts += [pickle.loads(pickle.dumps(live)), copy.deepcopy(live), copy.copy(live)]
    for part in parts:
        assert isinstance(part, LiveNegatives)
        assert part.column_names == COLUMNS
        assert {str(row) for row in whole(part)} <= expected
    live.set_epoch(1)
    for part in parts[:-4]:
        assert [row["negative_1"] for row in whole(part)] != []
        assert not {str(row) for row in whole(part)} <= expected
    assert ConcatDataset([live, split["test"]])[len(live)] == split["test"][0]


def test_filter_sees_texts_and_answers_with_live_rows(live):
    live.set_epoch(2)
    expected = whole(live)
    wanted = [row for row in expected if row["anchor"].endswith("1")]
    kept = live.filter(lambda row: row["anchor"].endswith("1"))
    assert isinstance(kept, LiveNegatives)
    assert whole(kept) == wanted
    assert wanted
    order = list(range(len(live)))
    random.Random(0).shuffle(order)
    mixed = live.select(order).filter(
        lambda texts: [text.endswith("1") for text in texts], input_columns="anchor", batched=True
    )
    assert whole(mixed) == [expected[row] for row in order if expected[row]["anchor"].endswith("1")]
    kept.set_epoch(0)
    assert whole(kept) != wanted
    assert len(live.filter(lambda row: False)) == 0


def test_map_sees_texts_and_answers_with_plain_rows(live):
    live.set_epoch(1)
    expected = whole(live)
    mapped = live.map(lambda row: {"length": len(row["negative_2"])})
    assert type(mapped) is Dataset
    assert mapped.column_names == [*COLUMNS, "label", "length"]
    assert mapped.to_list() == [row | {"length": len(row["negative_2"])} for row in expected]
    only = live.map(lambda row: {"both": row["anchor"] + row["positive"]}, remove_columns=[*COLUMNS, "label"])
    assert only["both"][:] == [row["anchor"] + row["positive"] for row in expected]


@pytest.mark.parametrize("epoch", [0, 3])
def test_rows_of_an_epoch_are_those_that_training_sees(corpus, rows, live, epoch):
    live.set_epoch(5)
    plain = rows_of_epoch(live, epoch)
    assert type(plain) is Dataset
    assert live.source.progress.epoch == 5
    live.set_epoch(epoch)
    assert plain.to_list() == whole(live) == rows_of_epoch(live).to_list()
    assert plain.column_names == list(live[0])
    assert plain.with_format("torch")[:2]["label"].tolist() == live[:2]["label"]
    assert plain.to_pandas()["positive"].tolist() == [row["positive"] for row in whole(live)]
    picked = live.select([5, 3, 3])
    assert rows_of_epoch(picked, epoch).to_list() == whole(picked)
    none = rows_of_epoch(live.select([]), epoch)
    assert (len(none), none.column_names) == (0, list(live[0]))
    assert none.features == plain.features
    scored = live_negatives(rows, corpus, n=2, teacher="teacher")
    assert rows_of_epoch(scored, epoch).to_list() == [live_row(scored, epoch, row) for row in range(len(scored))]


def live_row(live, epoch, row):
    live.set_epoch(epoch)
    return live[row]


def test_rows_of_an_epoch_train_as_live_rows_do(corpus, rows, tmp_path):
    losses = []
    for plain in (False, True):
        live = live_negatives(rows, corpus, n=2)
        model, _ = make_model()
        loss = HardNegativesRankingLoss(model)
        seen = []
        loss.register_forward_hook(lambda _, given, answer, seen=seen: seen.append(answer.item()))
        data = rows_of_epoch(live, 0) if plain else live
        trainer_of(model, data, loss, tmp_path, num_train_epochs=1).train()
        losses.append(seen)
    assert losses[0] == losses[1]
    assert len(losses[0]) > 3


def test_rows_of_an_epoch_of_many_rows(corpus):
    rows = make_rows(queries=1201, positives=(1,))
    live = live_negatives(rows, corpus, n=1)
    plain = rows_of_epoch(live, 2)
    live.set_epoch(2)
    for row in (0, 999, 1000, 1200):
        assert plain[row] == live[row]


def test_what_is_no_live_set_or_no_epoch(live):
    with pytest.raises(TypeError, match="rows_of_epoch needs rows from live_negatives"):
        rows_of_epoch(rows_of_epoch(live))
    with pytest.raises(ValueError, match="epoch"):
        rows_of_epoch(live, -1)
    with pytest.raises(TypeError, match="epoch"):
        rows_of_epoch(live, 0.5)


def test_the_trainer_wraps_the_transform_of_several_sets(live, other, tmp_path):
    model, _ = make_model()
    losses = {name: HardNegativesRankingLoss(model) for name in ("one", "other")}
    data = DatasetDict({"one": live, "other": other})
    # A trainer that is made twice wraps it twice.
    for _ in range(2):
        trainer = trainer_of(model, data, losses, tmp_path, FollowEpochs(live, other), num_train_epochs=2)
        trainer.train()
    assert np.isfinite([entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]).all()
    assert live[0]["dataset_name"] == "one"
    assert rows_of_epoch(live).column_names == [*COLUMNS, "label"]
    assert live.filter(lambda row: row["anchor"] == "q0")[0]["anchor"] == "q0"


def test_printed_rows_show_the_columns_of_a_row(live):
    shown = f"features: {list(live[0])}"
    for part in (live, live.shuffle(seed=0).select(range(2)), DatasetDict({"train": live})):
        assert shown in repr(part)
        assert "query_row" not in repr(part)
    assert f"num_rows: {len(live)}" in str(live)
    for column in live[0]:
        live.set_epoch(2)
        values = [row[column] for row in whole(live)]
        assert live[column][:] == values
        assert live.select([4, 1])[column][:] == [values[4], values[1]]


def test_columns_are_named_as_the_texts(live):
    assert live.column_names == COLUMNS
    assert all(name in repr(live) for name in COLUMNS)
    loaded = next(iter(DataLoader(live, batch_size=3, collate_fn=list)))
    assert [list(row) for row in loaded] == [[*COLUMNS, "label"]] * 3
    assert isinstance(torch.tensor(loaded[0]["label"]), torch.Tensor)
