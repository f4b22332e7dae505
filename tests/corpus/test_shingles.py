"""Shingles: what two nearly equal passages share."""

import unicodedata
from itertools import combinations

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import Corpus
from hnm_datasets.corpus import shingles as shingles_module
from hnm_datasets.corpus.shingles import open_shingles, shingles_of
from hnm_datasets.storage.opened import Opened


def plain(text):
    words = unicodedata.normalize("NFKC", text).casefold().split()
    words += [""] * (3 - len(words))
    return {tuple(words[start : start + 3]) for start in range(len(words) - 2)}


def sets_of(found):
    return [set(found.values[begin:end].tolist()) for begin, end in zip(found.offsets, found.offsets[1:], strict=False)]


def check_against_plain(texts):
    found, expected = shingles_of(pa.array(texts, pa.string())), [plain(text) for text in texts]
    assert found.lengths.tolist() == [len(one) for one in expected]
    sets = sets_of(found)
    for (one, other), (left, right) in zip(combinations(sets, 2), combinations(expected, 2), strict=True):
        assert (len(one & other), len(one | other)) == (len(left & right), len(left | right))


words = st.text(st.sampled_from("aAbß ﬁf\u00a0 i"), max_size=12)


@settings(max_examples=150)
@given(st.lists(words, max_size=8))
def test_shingles_agree_with_plain_python(texts):
    check_against_plain(texts)


@settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from(["plate", "wave", "the", "Wave"]), max_size=15).map(" ".join), max_size=8))
def test_shingles_of_repeated_words_agree_with_plain_python(texts):
    check_against_plain(texts)


def test_shingles_are_sorted_and_distinct():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["a", "b", "c", "d"], size=rng.integers(0, 40))) for _ in range(50)]
    found = shingles_of(pa.array(texts))
    assert found.values.dtype == np.uint32
    for begin, end in zip(found.offsets, found.offsets[1:], strict=False):
        assert (np.diff(found.values[begin:end].astype(np.int64)) > 0).all()


def test_a_text_of_fewer_than_three_words_has_one_shingle():
    found = shingles_of(pa.array(["", " \t", "one", "ONE ", "one two", "two one", "one two three"]))
    assert found.lengths.tolist() == [1] * 7
    assert found.values[0] == found.values[1]
    assert found.values[2] == found.values[3]
    assert len(set(found.values.tolist())) == 5


def test_no_texts():
    found = shingles_of(pa.array([], pa.string()))
    assert found.offsets.tolist() == [0]
    assert len(found.values) == 0


def test_shingles_do_not_reach_into_the_next_text():
    apart = shingles_of(pa.array(["a b c", "d e f"]))
    assert apart.lengths.tolist() == [1, 1]
    assert apart.values.tolist() == [*shingles_of(pa.array(["a b c"])).values, *shingles_of(pa.array(["d e f"])).values]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(shingles_module, "_OPENED", Opened())
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(["plate", "wave", "rock", "sea"], size=rng.integers(1, 9))) for _ in range(47)]
    rows = {"id": [str(row) for row in range(47)], "text": texts, "title": ["Earth moves", ""] * 23 + [""]}
    return Corpus.from_dataset(Dataset.from_dict(rows))


def test_a_corpus_of_several_chunks_is_shingled_as_a_whole(corpus, monkeypatch):
    in_chunks = corpus.iter_texts
    monkeypatch.setattr(Corpus, "iter_texts", lambda self: in_chunks(10))
    kept = open_shingles(corpus)
    expected = shingles_of(corpus.texts(np.arange(47)))
    assert kept.offsets[:48].tolist() == expected.offsets.tolist()
    assert kept.values[: kept.offsets[47]].tolist() == expected.values.tolist()
    # Then those of the texts that have a title, without it.
    titled = np.array(corpus.columns["title"].to_pylist()) != ""
    bodies = shingles_of(corpus.columns["text"].filter(pa.array(titled)))
    assert np.diff(kept.offsets[47:])[titled].tolist() == bodies.lengths.tolist()
    assert not np.diff(kept.offsets[47:])[~titled].any()
    assert kept.values[kept.offsets[47] :].tolist() == bodies.values.tolist()


def test_a_corpus_without_titles_has_no_second_shingles(corpus):
    untitled = Corpus.from_dataset(Dataset.from_dict({"id": ["a", "b"], "text": ["one two three", "four"]}))
    assert len(open_shingles(untitled).offsets) == 3


def test_a_corpus_is_shingled_once(corpus, monkeypatch):
    first = open_shingles(corpus).values.tolist()
    monkeypatch.setattr(shingles_module, "_OPENED", Opened())
    monkeypatch.setattr(shingles_module, "shingles_of", lambda texts: pytest.fail("shingled again"))
    assert open_shingles(corpus).values.tolist() == first
