"""What is saved comes back as it was, and nothing of others is destroyed."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Split, Value, load_dataset
from huggingface_hub import metadata_load

from hnm_datasets import BM25Negatives, Corpus, RankWindow, TopNegatives, ToTriplets, load_sample, mine
from hnm_datasets.hub import shards
from hnm_datasets.hub.saving import save_mined, write_card
from hnm_datasets.storage.folders import cache_root, cache_root_at


@pytest.fixture
def triplets():
    texts = [f"passage {number}" for number in range(12)]
    return Dataset.from_dict(
        {"anchor": [f"query {text}" for text in texts], "positive": texts, "negative": texts[::-1]}
    )


@pytest.fixture
def mined():
    corpus, queries = load_sample("earthquakes")
    return corpus, queries.map(BM25Negatives(corpus, k=4), batched=True)


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def card_of(folder):
    return (folder / "README.md").read_text()


def test_features_and_splits_come_back(tmp_path):
    features = Features(
        {
            "anchor": Value("string"),
            "passage": Value("string"),
            "label": ClassLabel(names=["negative", "positive"]),
            "weight": Value("float32"),
        }
    )
    rows = Dataset.from_dict(
        {"anchor": ["a", "a"], "passage": ["b", "c"], "label": [1, 0], "weight": [0.5, 1]}, features=features
    )
    folder = save_mined(DatasetDict(train=rows, test=rows.select([1])), tmp_path / "set")
    back = load_dataset(str(folder))
    assert list(back) == ["train", "test"]
    assert back["train"].features == rows.features
    assert back["train"].to_list() == rows.to_list()
    assert back["test"].to_list() == rows.select([1]).to_list()
    assert back["test"].features == rows.features


def test_mined_rows_come_back_with_their_corpus(tmp_path, mined):
    corpus, rows = mined
    folder = save_mined(rows, tmp_path / "set", corpus=corpus, steps=[BM25Negatives(corpus, k=4)])
    back = load_dataset(str(folder), split="train")
    assert back.features == rows.features
    assert back.to_list() == rows.to_list()
    again = Corpus.from_dataset(load_dataset(str(folder), "corpus", split="train"))
    assert again.fingerprint == corpus.fingerprint
    record = json.loads((folder / "mining.json").read_text())
    assert record["steps"] == [repr(BM25Negatives(corpus, k=4))]
    assert record["corpus"]["fingerprint"] == corpus.fingerprint


@pytest.mark.parametrize("columns", [["title"], ["group"], ["title", "group"], []])
def test_the_corpus_keeps_its_titles_and_groups(tmp_path, columns):
    passages = Dataset.from_dict(
        {"id": ["a", "b", "c"], "text": ["A", "", "C"], "title": ["x", "y", None], "group": ["1", None, "1"]}
    )
    if "title" not in columns:
        passages = passages.select([0, 2])
    corpus = Corpus.from_dataset(passages.select_columns(["id", "text", *columns]))
    rows = Dataset.from_dict({"query": ["q"], "positive_ids": [["a"]], "negative_ids": [["c"]]})
    back = load_dataset(str(save_mined(rows, tmp_path / "set", corpus=corpus)), "corpus", split="train")
    assert back.column_names == ["id", "text", *columns]
    assert Corpus.from_dataset(back).fingerprint == corpus.fingerprint


def test_large_sets_are_cut_into_shards(tmp_path, monkeypatch, mined):
    corpus, rows = mined
    monkeypatch.setattr(shards, "_SHARD", 700)
    monkeypatch.setattr(shards, "_CHUNK", 200)
    rows = Dataset.from_list(rows.to_list() * 20, features=rows.features)
    folder = save_mined(rows, tmp_path / "set", corpus=corpus)
    for name, expected in (("data", rows), ("corpus", None)):
        paths = sorted((folder / name).iterdir())
        assert len(paths) > 2
        assert [path.name for path in paths] == [
            f"train-{shard:05d}-of-{len(paths):05d}.parquet" for shard in range(len(paths))
        ]
        assert sum(pq.read_metadata(path).num_rows for path in paths) == (len(corpus) if expected is None else 20)
    assert load_dataset(str(folder), split="train").to_list() == rows.to_list()
    published = load_dataset(str(folder), "corpus", split="train")
    assert Corpus.from_dataset(published).fingerprint == corpus.fingerprint


def test_a_corpus_is_written_only_beside_ids_and_when_wanted(tmp_path, mined):
    corpus, rows = mined
    shaped = rows.map(ToTriplets(corpus), batched=True, remove_columns=rows.column_names)
    for name, saved in (
        ("texts", save_mined(shaped, tmp_path / "texts", corpus=corpus)),
        ("ids", save_mined(rows, tmp_path / "ids", corpus=corpus, include_corpus=False)),
    ):
        assert sorted(path.name for path in saved.iterdir()) == ["README.md", "data", "mining.json"], name
        assert corpus.fingerprint in (saved / "README.md").read_text()


def test_a_selection_and_a_format_do_not_matter(tmp_path, triplets):
    chosen = triplets.select([3, 1]).with_format("numpy")
    back = load_dataset(str(save_mined(chosen, tmp_path / "set")), split="train")
    assert back["positive"][:] == ["passage 3", "passage 1"]


def test_an_earlier_folder_is_replaced(tmp_path, monkeypatch, triplets):
    monkeypatch.setattr(shards, "_SHARD", 200)
    folder = save_mined(triplets, tmp_path / "set")
    assert len(list((folder / "data").iterdir())) > 1
    monkeypatch.setattr(shards, "_SHARD", 1_000_000)
    save_mined(triplets.select([0]), folder)
    assert [path.name for path in (folder / "data").iterdir()] == ["train-00000-of-00001.parquet"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_replacement_is_logged_and_a_change_is_a_warning(tmp_path, caplog, triplets):
    caplog.set_level(logging.INFO, logger="hnm_datasets")
    folder = save_mined(triplets, tmp_path / "set")
    assert not caplog.records
    other = triplets.rename_column("negative", "negative_1")
    for rows, level, text in (
        (triplets, "INFO", "(12 rows, now 12)"),
        (triplets.select([0]), "WARNING", "(12 rows, now 1)"),
        (other, "WARNING", "(1 row, now 12; columns added negative_1 and removed negative)"),
    ):
        save_mined(rows, folder)
        assert (caplog.records[-1].levelname, caplog.messages[-1]) == (level, f"save_mined: replaced {folder} {text}.")


def test_ids_without_their_passages_are_a_warning_unless_that_is_said(tmp_path, caplog, mined, triplets):
    corpus, rows = mined
    save_mined(rows, tmp_path / "said", include_corpus=False)
    save_mined(rows, tmp_path / "with", corpus=corpus)
    save_mined(triplets, tmp_path / "texts")
    assert not caplog.messages
    save_mined(DatasetDict(train=rows, test=rows), tmp_path / "without")
    (message,) = caplog.messages
    assert "the folder contains no passages. Pass corpus= to include them" in message


def test_rows_without_any_negative_are_refused_and_the_step_is_named(tmp_path, mined):
    corpus, rows = mined
    emptied = mine(rows.remove_columns("negative_ids"), [BM25Negatives(corpus, k=4), RankWindow(9), TopNegatives(2)])
    with pytest.raises(ValueError, match=r"save_mined: no row has a neg.*RankWindow\(min=9\) dropped all 4 candidates"):
        save_mined(emptied, tmp_path / "set", corpus=corpus)
    empty = rows.map(RankWindow(9), batched=True)
    for data in (
        DatasetDict(train=empty, test=empty),
        {"query": ["q"], "pos": [["a"]], "neg": [[]]},
        {"anchor": ["q"], "passage": ["a"], "label": [1]},
    ):
        with pytest.raises(ValueError, match=r"no row has a negative.*after each step"):
            save_mined(data, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    save_mined(DatasetDict(train=empty, test=rows), tmp_path / "some", corpus=corpus)


def test_an_empty_folder_is_used(tmp_path, triplets):
    (tmp_path / "set").mkdir()
    assert (save_mined(triplets, tmp_path / "set") / "README.md").exists()


@pytest.mark.parametrize("name", ["notes.txt", "mining.json", "README.md"])
def test_a_folder_of_something_else_is_refused(tmp_path, triplets, name):
    (tmp_path / name).write_text('{"made_by": "someone"}')
    with pytest.raises(FileExistsError, match=rf"did not write \({name}\)\. Choose another folder"):
        save_mined(triplets, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_was_put_into_an_own_folder_is_not_destroyed(tmp_path, triplets):
    folder = save_mined(triplets, tmp_path / "set")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        save_mined(triplets, folder)
    (folder / "notes.txt").unlink()
    card = folder / "README.md"
    card.write_text(card.read_text().replace("## Caveats", "## Known faults"))
    with pytest.raises(FileExistsError, match=r"edited since\. Move it away or delete it"):
        save_mined(triplets, folder)
    assert "## Known faults" in card.read_text()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, triplets):
    (tmp_path / "set").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        save_mined(triplets, tmp_path / "set")


def test_a_failure_leaves_the_earlier_folder(tmp_path, monkeypatch, triplets):
    folder = save_mined(triplets, tmp_path / "set")
    before = files_of(folder)

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("hnm_datasets.hub.saving.write_rows", fail)
    with pytest.raises(OSError, match="disk full"):
        save_mined(triplets.select([0]), folder)
    with pytest.raises(OSError, match="disk full"):
        save_mined(triplets.select([0]), tmp_path / "other")
    assert files_of(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_killed_run_leaves_no_half_of_a_folder(tmp_path):
    code = f"""
import os
from datasets import Dataset
from hnm_datasets.hub import saving
saving.dataset_card = lambda *arguments: os.kill(os.getpid(), 9)
rows = Dataset.from_dict({{"anchor": ["a"], "positive": ["b"], "negative": ["c"]}})
saving.save_mined(rows, {str(tmp_path / "set")!r})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert not (tmp_path / "set").exists()
    save_mined(Dataset.from_dict({"anchor": ["a"], "positive": ["b"], "negative": ["c"]}), tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_interrupted_run_says_that_nothing_has_changed(tmp_path, monkeypatch, triplets):
    folder = save_mined(triplets, tmp_path / "set")
    before = files_of(folder)
    with monkeypatch.context() as patch:
        patch.setattr("hnm_datasets.hub.saving.write_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt, match=r"save_mined was interrupted\. .*set is as it was before"):
            save_mined(triplets.select([0]), folder)
    assert files_of(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    # Nothing is locked.
    save_mined(triplets.select([0]), folder)


def test_a_run_killed_between_the_renames_loses_nothing(tmp_path, monkeypatch, triplets):
    folder = save_mined(triplets, tmp_path / "set")
    before = files_of(folder)
    folder.rename(tmp_path / ".set.hnm_datasets.old")
    monkeypatch.setattr("hnm_datasets.hub.saving.dataset_card", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_mined(triplets.select([0]), folder)
    assert files_of(folder) == before


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        ({"anchor": [], "positive": [], "negative": []}, {}, ValueError, "split 'train' has no rows"),
        ({"anchor": ["a"], "positive": ["b"]}, {}, KeyError, "no format of mined data"),
        ({"query": ["a"], "negative_ids": [["b"]]}, {}, KeyError, "positive_ids"),
        ("mined", {}, TypeError, "dataset must be a Dataset, .*got str"),
        ({"anchor": ["a"], "positive": ["b"], "negative": ["c"]}, {"steps": "BM25"}, TypeError, "steps must be a list"),
        ({"anchor": ["a"], "positive": ["b"], "negative": ["c"]}, {"license": 1}, TypeError, "license must be a str"),
        ({"anchor": ["a"], "positive": ["b"], "negative": ["c"]}, {"language": [1]}, TypeError, "language must be"),
        ({"anchor": ["a"], "positive": ["b"], "negative": ["c"]}, {"corpus": 1}, TypeError, "corpus must be a Corpus"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path, rows, options, error, message):
    dataset = Dataset.from_dict(rows) if isinstance(rows, dict) else rows
    with pytest.raises(error, match=message):
        save_mined(dataset, tmp_path / "set", **options)
    assert list(tmp_path.iterdir()) == []


def test_splits_that_differ_are_refused(tmp_path, triplets):
    with pytest.raises(ValueError, match="'train' and 'test' have different columns"):
        save_mined(DatasetDict(train=triplets, test=triplets.rename_column("anchor", "query")), tmp_path / "set")
    with pytest.raises(ValueError, match="no split"):
        save_mined(DatasetDict(), tmp_path / "set")


def test_an_id_that_is_not_in_the_corpus_is_refused(tmp_path, mined):
    corpus, rows = mined
    rows = Dataset.from_list([rows[0] | {"query_id": "odd", "negative_ids": ["volcanoes", "nowhere", "tsunamis", "x"]}])
    with pytest.raises(KeyError, match=r"'negative_ids' of the row with query_id 'odd' names the passage 'nowhere'"):
        save_mined(rows, tmp_path / "set", corpus=corpus)
    assert list(tmp_path.iterdir()) == []


# ---- written again -----------------------------------------------------------------------------------------------


def test_a_card_is_made_again_from_the_folder_alone(tmp_path, mined):
    corpus, rows = mined
    steps = [BM25Negatives(corpus, k=4)]
    folder = save_mined(rows, tmp_path / "set", corpus=corpus, steps=steps, license="mit", language="en")
    before = card_of(folder)
    (folder / "README.md").unlink()
    assert write_card(folder) == folder / "README.md"
    assert card_of(folder) == before
    write_card(folder, license="cc-by-4.0", name="Other", language=["en", "de"], source="me/source")
    write_card(folder)
    card = card_of(folder)
    assert "\n# Other\n" in card
    assert "cc-by-4.0" in card
    assert metadata_load(folder / "README.md")["language"] == ["en", "de"]
    assert "[me/source]" in card
    assert load_dataset(str(folder), split="train").to_list() == rows.to_list()


def test_a_card_for_a_folder_of_others(tmp_path):
    rows = Dataset.from_dict({"query": ["q"] * 4, "pos": [["a"]] * 4, "neg": [["b", "c"]] * 4})
    rows.to_parquet(tmp_path / "mine.parquet")
    write_card(tmp_path, license="mit")
    write_card(tmp_path, license="cc0-1.0", name="Mine")
    assert "FlagEmbedding" in card_of(tmp_path)
    assert "The steps were not recorded." in card_of(tmp_path)
    assert metadata_load(tmp_path / "README.md")["license"] == "cc0-1.0"
    assert load_dataset(str(tmp_path), split="train").to_list() == rows.to_list()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "mine.parquet"]


def test_a_card_that_was_not_written_here_is_kept(tmp_path):
    Dataset.from_dict({"query": ["q"], "pos": [["a"]], "neg": [["b"]]}).to_parquet(tmp_path / "mine.parquet")
    (tmp_path / "README.md").write_bytes(b"# \xff mine")
    with pytest.raises(FileExistsError, match=r"hnm_datasets did not write it, or it was edited since\. Move it away"):
        write_card(tmp_path)
    (tmp_path / "README.md").unlink()
    write_card(tmp_path)
    text = card_of(tmp_path).replace("## Use", "## How to use")
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(FileExistsError, match="edited since"):
        write_card(tmp_path)
    assert card_of(tmp_path) == text


def test_no_folder_no_form(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_card(tmp_path / "nowhere")
    Dataset.from_dict({"a": ["q"]}).to_parquet(tmp_path / "mine.parquet")
    with pytest.raises(KeyError, match="no format of mined data"):
        write_card(tmp_path)


# ---- names of splits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "split",
    [
        "../../evil", "..", ".", "", "tr ain", "a/b", "a\\b", "a-b", "a.", ".a", "a..b", "a\n", "a*", "a[b", "C:x",
        "all", "e\u0301", "\u202etrain", "\ud800", "train\x00", "x" * 200, "测" * 60,
    ],
)  # fmt: skip
def test_a_split_name_that_leaves_the_folder_or_cannot_be_loaded_is_refused(tmp_path, triplets, split):
    with pytest.raises(ValueError, match=r"save_mined: .*split.*Rename it"):
        save_mined(DatasetDict({"train": triplets, split: triplets}), tmp_path / "folder" / "set")
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("split", ["Train", "dev", "train_2", "a.b", "é", "测试", "CON", "1", "x" * 120, Split.TEST])
def test_split_names_that_load_dataset_reads_come_back(tmp_path, triplets, split):
    back = load_dataset(str(save_mined(DatasetDict({split: triplets}), tmp_path / "set")), split=split)
    assert back.to_list() == triplets.to_list()
    assert write_card(tmp_path / "set").exists()


@pytest.mark.parametrize("names", [("train", "Train"), ("Straße", "STRASSE"), ("ﬁx", "fix")])
def test_splits_whose_files_are_one_where_case_does_not_count_are_refused(tmp_path, triplets, names):
    with pytest.raises(ValueError, match="would have the same file names"):
        save_mined(DatasetDict(dict.fromkeys(names, triplets)), tmp_path / "set")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("split", [None, 3, ("train",)])
def test_a_split_name_must_be_a_text(tmp_path, triplets, split):
    with pytest.raises(TypeError, match="the name of a split must be a text"):
        save_mined(DatasetDict({split: triplets}), tmp_path / "set")


# ---- where it can be written ----------------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_made_is_not_needed(tmp_path, triplets):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "parent" / "set"
    with cache_root_at(tmp_path / "file" / "cache"):
        save_mined(triplets, folder)
        save_mined(triplets.select([0]), folder)
    assert load_dataset(str(folder), split="train").num_rows == 1
    assert {path.name for path in folder.parent.iterdir()} <= {"set", ".set.hnm_datasets.lock"}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_read_only_cache_is_not_needed(tmp_path, mined, monkeypatch, number):
    corpus, rows = mined
    cache = tmp_path / "cache"
    shutil.copytree(cache_root() / "corpora" / corpus.fingerprint, cache / "corpora" / corpus.fingerprint)
    opened = os.open

    def refusing(path, flags, *arguments, **options):
        if str(path).startswith(str(cache)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(number, os.strerror(number), path)
        return opened(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refusing)
    with cache_root_at(cache):
        save_mined(rows, tmp_path / "set", corpus=corpus)
    assert (tmp_path / "set" / "README.md").exists()


@pytest.mark.parametrize("name", ["a b", "a[1]*", "测试", "it's", "-x", "a\nb"])
def test_folders_of_any_name(tmp_path, triplets, name):
    folder = save_mined(triplets, tmp_path / name, name="A set")
    assert pq.read_table(next((folder / "data").iterdir())).num_rows == len(triplets)
    card = (folder / "README.md").read_text()
    assert write_card(folder).read_text() == card
