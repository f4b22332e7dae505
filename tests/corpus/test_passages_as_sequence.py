"""A corpus is asked as one expects of a collection: `in`, `[]`, iteration, and all passages as a dataset."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from hnm_datasets import Corpus
from hnm_datasets.corpus import source

COLUMNS = {
    "id": ["a", "b", "7"],
    "title": ["One", "", None],
    "text": ["Plates move.", "Waves roll.", "Brücken tragen."],
    "group": ["d", None, "d"],
}
PASSAGES = [
    {"id": "a", "text": "Plates move.", "title": "One", "group": "d"},
    {"id": "b", "text": "Waves roll.", "title": "", "group": None},
    {"id": "7", "text": "Brücken tragen.", "title": "", "group": "d"},
]


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_dataset(Dataset.from_dict(COLUMNS))


def test_one_passage_by_row_and_by_id(corpus):
    for row, passage in enumerate(PASSAGES):
        for which in (row, row - len(PASSAGES), np.int64(row), passage["id"]):
            assert corpus[which] == passage
    plain = Corpus.from_dataset({"id": ["a"], "text": ["Plates move."]})
    assert plain[0] == {"id": "a", "text": "Plates move.", "title": None, "group": None}


@pytest.mark.parametrize("row", [3, -4, 10**30])
def test_a_row_that_is_not_there(row, corpus):
    with pytest.raises(IndexError, match=f"Row {row} is out of range for this corpus of 3 passages"):
        corpus[row]


def test_an_id_that_is_not_there(corpus):
    for unknown in ("c", "0", ""):
        with pytest.raises(KeyError, match=f"The id '{unknown}' is not among"):
            corpus[unknown]


@pytest.mark.parametrize("which", [slice(2), [0, 1], ["a"], True, 1.0, None])
def test_several_or_nothing_is_refused_with_the_way_out(which, corpus):
    with pytest.raises(TypeError, match=r"to_dataset\(\)\[...\]"):
        corpus[which]


def test_one_id_is_no_list(corpus):
    for one in ("a", 7):
        with pytest.raises(TypeError, match=rf"a list of ids, got a single id: pass \[{one!r}\]"):
            corpus.rows(one)


def test_membership_is_that_of_ids(corpus):
    assert "a" in corpus
    assert "c" not in corpus
    assert "" not in corpus
    # The id, not the row.
    assert 7 in corpus
    assert np.int64(0) not in corpus
    for other in (None, True, PASSAGES[0], 1.5):
        with pytest.raises(TypeError, match="a string or a whole number, got"):
            assert other in corpus


def test_iteration_gives_every_passage(corpus, monkeypatch):
    assert list(corpus) == PASSAGES
    monkeypatch.setattr(source, "_CHUNK", 2)
    assert list(corpus) == PASSAGES
    assert [passage["id"] for passage in reversed(corpus)] == ["7", "b", "a"]


def test_the_dataset_is_what_the_corpus_was_made_of(corpus):
    dataset = corpus.to_dataset()
    assert list(dataset) == [{name: passage[name] for name in ("id", "text", "title", "group")} for passage in PASSAGES]
    assert Corpus.from_dataset(dataset) == corpus
    assert corpus.to_dataset()._fingerprint == dataset._fingerprint
    plain = Corpus.from_dataset({"id": ["a"], "text": ["Plates move."]})
    assert plain.to_dataset()[:] == {"id": ["a"], "text": ["Plates move."]}


def test_the_dataset_copies_no_text():
    columns = {"id": [str(row) for row in range(1000)], "text": ["plate " * 100] * 1000, "group": ["", "d"] * 500}
    corpus = Corpus.from_dataset(columns)
    list(corpus.columns)
    before = pa.total_allocated_bytes()
    dataset = corpus.to_dataset()
    assert pa.total_allocated_bytes() - before < 20_000
    assert dataset[:2]["group"] == [None, "d"]
