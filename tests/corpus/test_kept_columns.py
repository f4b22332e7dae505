"""Columns that a corpus keeps beside its texts."""

import pickle

import pytest
from datasets import Dataset, load_dataset

from hnm_datasets import Corpus, save_mined, write_card
from hnm_datasets.corpus.files import open_files

ROWS = {
    "id": ["a", "b", "c", "d", "e"],
    "text": ["Plates move.", "Waves break.", "板块运动", "Heat flows.", "Wings flutter."],
    "language": ["en", None, "zh", "en", ""],
    "year": [2020, 1999, None, 1999, 2020],
    "group": ["g1", None, "g1", "", "g2"],
}
KEPT = ["language", "year"]


def corpus_of(columns=(), **changed):
    return Corpus.from_dataset(Dataset.from_dict(ROWS | changed), columns=columns)


def test_kept_columns_are_there_as_texts():
    corpus = pickle.loads(pickle.dumps(corpus_of(KEPT)))
    assert corpus["a"] == {
        "id": "a", "text": "Plates move.", "title": None, "group": "g1", "language": "en", "year": "2020"
    }  # fmt: skip
    assert [corpus[name]["language"] for name in "abcde"] == ["en", None, "zh", "en", None]
    assert [corpus[name]["year"] for name in "abcde"] == ["2020", "1999", None, "1999", "2020"]
    assert list(corpus.columns) == ["id", "text", "group", "language", "year"]


def test_codes_are_the_first_row_of_a_value_and_no_value_is_one_too():
    corpus = corpus_of(KEPT)
    assert corpus.value_codes("language").tolist() == [0, 1, 2, 0, 1]
    assert corpus.value_codes("year").tolist() == [0, 1, 2, 1, 0]
    assert corpus.value_codes("group").tolist() == corpus.group_codes.tolist() == [0, 1, 0, 3, 4]


def test_only_kept_columns_are_part_of_the_name():
    plain = corpus_of()
    assert corpus_of(language=["xx"] * 5) == plain
    assert "language" not in plain["a"]
    kept = corpus_of(KEPT)
    assert kept == corpus_of(KEPT[::-1]) == corpus_of(KEPT * 2)
    assert len({plain, kept, corpus_of(["year"]), corpus_of(KEPT, language=["en"] * 5)}) == 4
    # The same values under another name are something else.
    assert corpus_of(["year"], year=ROWS["language"]) != corpus_of(["language"])


def test_the_dataset_of_a_corpus_makes_it_again():
    corpus = corpus_of(KEPT)
    back = corpus.to_dataset()
    assert back["language"][:] == ["en", None, "zh", "en", None]
    assert back["year"][:] == ["2020", "1999", None, "1999", "2020"]
    assert Corpus.from_dataset(back, columns=KEPT) == corpus


def test_a_saved_set_and_its_card_keep_them(tmp_path):
    corpus = corpus_of(KEPT)
    rows = Dataset.from_dict({"query": ["q"], "positive_ids": [["a"]], "negative_ids": [["c"]]})
    folder = save_mined(rows, tmp_path / "set", corpus=corpus)
    published = load_dataset(str(folder), "corpus", split="train")
    assert Corpus.from_dataset(published, columns=KEPT) == corpus
    card = (folder / "README.md").read_text()
    write_card(folder)
    assert (folder / "README.md").read_text() == card


def test_a_corpus_without_them_writes_what_it_always_wrote():
    assert open_files(corpus_of().fingerprint).value_codes == {}


@pytest.mark.parametrize(
    ("columns", "error", "match"),
    [
        (["site"], KeyError, "columns contains 'site', but the columns of the dataset are"),
        ("language", TypeError, r"got one name: pass \['language'\]"),
        (["text"], ValueError, "must not contain 'text': pass this column as text_column="),
        (["group"], ValueError, "must not contain 'group': pass this column as group_column="),
        (["price"], ValueError, "the corpus's column 'price' holds the number 0.5 in row 0"),
        (["tags"], TypeError, "the corpus's column 'tags' must hold ids, which are strings or whole numbers"),
    ],
)
def test_wrong_columns_are_refused(columns, error, match):
    rows = Dataset.from_dict(ROWS | {"price": [0.5] * 5, "tags": [["a"]] * 5})
    with pytest.raises(error, match=match):
        Corpus.from_dataset(rows, columns=columns)


def test_a_column_that_is_not_kept_is_named_with_the_way_out():
    with pytest.raises(KeyError, match=r"no column 'site'; its extra columns are \['language'\].*columns=\['site'\]"):
        corpus_of(["language"]).value_codes("site")
