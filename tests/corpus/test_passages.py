"""The corpus: what it holds, what it is named by, what it refuses, and how it survives damage."""

import os
import pickle
import subprocess
import sys
import unicodedata

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import Corpus
from hnm_datasets.corpus import files as corpus_files
from hnm_datasets.corpus.source import Source
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.storage.manifest import DamagedFolderError, is_complete
from hnm_datasets.storage.opened import Opened

ROWS = {
    "id": ["a", "b", "c", "d"],
    "text": ["Plates move.", "Waves break.", "", "Ünïcode 漢字 🌊"],
    "title": ["Earth", "", "Title alone", None],
    "group": ["g1", None, "g1", ""],
}


def small(**columns):
    return Dataset.from_dict(ROWS | columns)


def folder_of(corpus):
    return cache_root() / "corpora" / corpus.fingerprint


def test_rows_ids_texts_and_passages_round_trip():
    corpus = Corpus.from_dataset(small())
    assert len(corpus) == 4
    rows = corpus.rows(["d", "a", "c", "a"])
    assert rows.tolist() == [3, 0, 2, 0]
    assert corpus.ids(rows).to_pylist() == ["d", "a", "c", "a"]
    texts = ["Earth Plates move.", "Waves break.", "Title alone", "Ünïcode 漢字 🌊"]
    assert corpus.texts(np.arange(4)).to_pylist() == texts
    assert [text for chunk in corpus.iter_texts(3) for text in chunk.to_pylist()] == texts
    assert corpus["a"] == {"id": "a", "text": "Plates move.", "title": "Earth", "group": "g1"}
    assert corpus["b"] == {"id": "b", "text": "Waves break.", "title": "", "group": None}
    assert corpus.find(pa.array(["zz", "b"])).tolist() == [-1, 1]
    assert corpus.find([]).tolist() == []


def test_column_names_can_be_chosen_and_switched_off():
    renamed = small().rename_columns({"id": "docno", "text": "body", "title": "head", "group": "doc"})
    corpus = Corpus.from_dataset(
        renamed, id_column="docno", text_column="body", title_column="head", group_column="doc"
    )
    assert corpus == Corpus.from_dataset(small())
    plain = Corpus.from_dataset(small().select([0, 1]), title_column=None, group_column=None)
    assert plain.texts(np.arange(2)).to_pylist() == ["Plates move.", "Waves break."]
    assert not plain.has_groups
    assert plain["a"]["title"] is None


def test_fingerprint_ignores_chunks_column_order_and_other_columns():
    whole = small(id=["a", "b", "c", "d"])
    reference = Corpus.from_dataset(whole).fingerprint
    assert len(reference) == 32
    pieces = concatenate_datasets([whole.select([0]), whole.select([1, 2]), whole.select([3])])
    shuffled_columns = Dataset.from_dict({name: ROWS[name] for name in ("group", "title", "text", "id")})
    taken = whole.select([3, 2, 1, 0]).select([3, 2, 1, 0])
    more = whole.add_column("extra", [1, 2, 3, 4])
    for same in (pieces, shuffled_columns, taken, more, whole.with_format("numpy")):
        assert Corpus.from_dataset(same).fingerprint == reference


@pytest.mark.parametrize(
    "change",
    [
        {"id": ["a", "b", "c", "e"]},
        {"text": ["Plates move", "Waves break.", "", "Ünïcode 漢字 🌊"]},
        {"text": ["Plates move.W", "aves break.", "", "Ünïcode 漢字 🌊"]},
        {"title": ["Earth", "", "Title  alone", None]},
        {"group": ["g1", None, "g2", ""]},
    ],
    ids=["id", "text", "letter moved to the row before", "title", "group"],
)
def test_fingerprint_changes_with_content(change):
    assert Corpus.from_dataset(small(**change)) != Corpus.from_dataset(small())


def test_row_order_is_content():
    assert Corpus.from_dataset(small().select([3, 2, 1, 0])) != Corpus.from_dataset(small())


def test_pickles_small_and_reopens_in_another_process():
    corpus = Corpus.from_dataset(small(text=["long " * 10_000, "b", "c", "d"]))
    corpus.rows(["a"])  # opened: what is open must not be pickled
    data = pickle.dumps(corpus)
    assert len(data) < 1000
    script = (
        "import pickle, sys; c = pickle.loads(bytes.fromhex(sys.argv[1])); "
        "print(c.fingerprint, len(c), c['b']['text'], c.rows(['d', 'a']).tolist())"
    )
    env = os.environ | {"HF_DATASETS_CACHE": str(datasets.config.HF_DATASETS_CACHE)}
    done = subprocess.run(
        [sys.executable, "-c", script, data.hex()], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[0] == f"{corpus.fingerprint} 4 b [3, 0]"


def test_text_codes_join_exact_duplicates():
    texts = [
        "Tectonic plates",
        "other",
        "tectonic\t\n PLATES ",
        "Ｔｅｃｔｏｎｉｃ plates",
        "straße",
        "STRASSE",
        "plates tectonic",
    ]
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": list("abcdefg"), "text": texts}))
    assert corpus.text_codes.tolist() == [0, 1, 0, 0, 4, 4, 6]
    assert corpus.find_texts([" OTHER", "plates", "Strasse"]).tolist() == [1, -1, 4]


def test_text_codes_are_of_title_and_text_together():
    rows = {"id": ["a", "b", "c"], "title": ["One", "", "Two"], "text": ["two", "one TWO", "two"]}
    assert Corpus.from_dataset(Dataset.from_dict(rows)).text_codes.tolist() == [0, 0, 2]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.sampled_from("aAbß ﬁ\u00a0é\u0301e"), min_size=1, max_size=5), min_size=1, max_size=20))
def test_text_codes_agree_with_plain_python(texts):
    texts = [text if text.strip() else "x" for text in texts]
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": [str(i) for i in range(len(texts))], "text": texts}))
    same = [" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts]
    assert corpus.text_codes.tolist() == [same.index(text) for text in same]


def test_columns_of_nothing_but_null_are_no_titles_and_no_groups():
    rows = {"id": ["a", "b"], "text": ["x", "y"], "title": [None, None], "group": [None, None]}
    corpus = Corpus.from_dataset(Dataset.from_dict(rows))
    assert corpus.texts(np.arange(2)).to_pylist() == ["x", "y"]
    assert corpus.group_codes.tolist() == [0, 1]


def test_groups():
    corpus = Corpus.from_dataset(small())
    assert corpus.has_groups
    assert corpus.group_codes.tolist() == [0, 1, 0, 3]
    without = Corpus.from_dataset(small().remove_columns("group"))
    assert not without.has_groups
    with pytest.raises(ValueError, match=r"no groups.*group_column"):
        _ = without.group_codes


@pytest.mark.parametrize(
    ("rows", "error", "match"),
    [
        ({"id": ["a", "b"], "text": ["x", None]}, ValueError, r"'text' is null in the passage 'b'.*dataset\.filter"),
        ({"id": ["a", None], "text": ["x", "y"]}, ValueError, r"'id' is null in row 1"),
        ({"id": ["a", "b"], "text": ["x", " \t"]}, ValueError, r"'text' is empty in the passage 'b'.*dataset\.filter"),
        ({"id": ["a", ""], "text": ["x", "y"]}, ValueError, r"'id' is empty in row 1"),
        ({"id": ["a"], "text": [""], "title": [None]}, ValueError, r"'text' is empty in the passage 'a'"),
        ({"id": ["a", "b", "a"], "text": ["x", "y", "z"]}, ValueError, r"id 'a' more than once.*rows 0 and 2"),
        ({"id": [], "text": []}, ValueError, "empty.*at least one passage"),
        ({"_id": ["a"], "text": ["x"]}, KeyError, r"no column 'id'.*'_id'.*id_column="),
        ({"id": ["a"], "body": ["x"]}, KeyError, r"no column 'text'.*'body'.*text_column="),
        ({"id": [True], "text": ["x"]}, TypeError, r"'id' must hold ids, which are strings or whole numbers, got bool"),
        ({"id": ["a"], "text": [3]}, TypeError, r"'text' must hold strings, got int64.*cast_column"),
        ({"id": ["a"], "text": [["x"]]}, TypeError, r"'text' must hold strings, got list"),
        ({"id": ["a"], "text": ["x"], "title": [3]}, TypeError, r"'title' must hold strings, got int64"),
    ],
)
def test_bad_passages_are_refused(rows, error, match):
    with pytest.raises(error, match=match):
        Corpus.from_dataset(Dataset.from_dict(rows))


@pytest.mark.parametrize("option", ["title_column", "group_column"])
def test_a_named_column_must_exist(option):
    with pytest.raises(KeyError, match=rf"no column 'nope'.*{option}="):
        Corpus.from_dataset(Dataset.from_dict({"id": ["a"], "text": ["x"]}), **{option: "nope"})


def test_unknown_ids():
    corpus = Corpus.from_dataset(small())
    with pytest.raises(KeyError, match="The id 'zz' is not among the 4 passages"):
        corpus.rows(["a", "zz"])
    with pytest.raises(KeyError, match="The id 'zz' is not among"):
        corpus["zz"]


@pytest.mark.parametrize("name", ["texts.bytes", "ids.offsets", "text_codes.npy", "manifest.json"])
def test_a_truncated_file_is_noticed_and_rebuilt(tmp_path, monkeypatch, name):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(corpus_files, "_OPENED", Opened())
    corpus = Corpus.from_dataset(small())
    folder = folder_of(corpus)
    assert is_complete(folder)
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_complete(folder)
    with pytest.raises(DamagedFolderError, match=rf"{corpus.fingerprint}: .*{name}.*HF_DATASETS_CACHE"):
        len(Corpus(corpus.fingerprint))
    again = Corpus.from_dataset(small())
    assert again == corpus
    assert is_complete(folder)
    assert again["b"]["text"] == "Waves break."


def test_a_corpus_is_built_once(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    Corpus.from_dataset(small())

    def fail(*_):
        raise AssertionError("built again")

    monkeypatch.setattr(Source, "save", fail)
    Corpus.from_dataset(small())


def test_a_build_that_raises_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(ValueError, match="more than once"):
        Corpus.from_dataset(Dataset.from_dict({"id": ["a", "a"], "text": ["x", "y"]}))
    assert [path for path in (cache_root() / "corpora").iterdir() if path.is_dir()] == []
