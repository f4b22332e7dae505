"""`tevatron`: titles are kept apart, and passages without an id are named by their texts."""

import pytest
from datasets import Dataset, List, Value
from format_examples import QUERIES, make_corpus, mined, parts, passage, read, text

from hnm_datasets import convert

# ---- reading -------------------------------------------------------------------------------------------------------


def test_null_and_empty_lists_have_no_passage():
    _, rows = read({"query": QUERIES, "positive_passages": [[], []], "negative_passages": [None, []]})
    assert parts(rows, "texts") == {"positives": [[], []], "negatives": [[], []]}


def test_tevatron_titles_are_read_and_joined():
    passages = [[{"docid": "1", "title": "Plates", "text": "They move."}, {"docid": "2", "title": None, "text": "x"}]]
    _, rows = read({"query": ["a?"], "positive_passages": passages, "negative_passages": [[]]})
    assert rows.positives.titles.to_pylist() == ["Plates", ""]
    assert rows.positives.full_texts.to_pylist() == ["Plates They move.", "x"]


def test_tevatron_passages_without_an_id_are_told_apart_by_their_texts():
    ids_and_texts = [(None, "x"), (None, "y"), (None, "x"), ("", "y")]
    passages = [[{"docid": docid, "title": "", "text": text} for docid, text in ids_and_texts]]
    _, rows = read({"query": ["a?"], "positive_passages": passages, "negative_passages": passages})
    first, second, third, fourth = rows.positives.ids.to_pylist()
    assert first == third
    assert second == fourth
    assert first != second
    _, rows = read({"query": ["a?"], "positive_passages": [[{"text": "x"}]], "negative_passages": [[{"text": "y"}]]})
    assert rows.positives.ids is None
    assert rows.positives.titles is None


# ---- writing -------------------------------------------------------------------------------------------------------


def test_to_tevatron():
    rows = convert(mined(), "tevatron", make_corpus())
    assert rows[1] == {
        "query_id": "q2", "query": "two?",
        "positive_passages": [passage("c")], "negative_passages": [passage("e"), passage("a")],
    }  # fmt: skip
    passages = List({"docid": Value("string"), "title": Value("string"), "text": Value("string")})
    assert rows.features["negative_passages"] == passages


def test_titles_come_apart_again_with_the_corpus_and_ids():
    whole = convert(mined(), "tevatron", make_corpus())
    flag = convert(whole, "flagembedding")
    assert flag["pos"][0] == [text("a"), text("b")]
    assert convert(flag, "tevatron", make_corpus()).to_list() == whole.to_list()
    assert convert(flag, "tevatron")["positive_passages"][0][0] == {"docid": "a", "title": "", "text": text("a")}
    # The corpus has another text under this id.
    changed = flag.map(lambda row: {"pos": ["another"] * len(row["pos"])})
    assert convert(changed, "tevatron", make_corpus())["positive_passages"][0][0]["text"] == "another"


def test_types_hold_when_the_first_lists_are_empty():
    rows = Dataset.from_dict({"query": ["a?", "b?"], "pos": [[], ["B."]], "neg": [[], ["x"]]})
    made = convert(rows, "tevatron")
    assert (
        made.features["negative_passages"] == convert(mined(), "tevatron", make_corpus()).features["negative_passages"]
    )
    assert made["negative_passages"][1][0]["text"] == "x"
    assert convert(made, "flagembedding").select_columns(["query", "pos", "neg"]).to_list() == rows.to_list()
    assert convert(rows, "labeled-lists")["labels"][:] == [[], [1, 0]]


def test_fields_of_passages_that_are_left_out_are_named(caplog):
    passages = [[{"docid": "1", "title": "", "text": "A", "url": "?"}]]
    rows = Dataset.from_dict({"query": ["a?"], "positive_passages": passages, "negative_passages": passages})
    assert convert(rows, "tevatron") is rows
    convert(rows, "triplets")
    assert "'positive_passages.url', 'negative_passages.url'" in caplog.text


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        (
            {"query": ["a"], "positive_passages": [["A"]], "negative_passages": [[]]},
            TypeError,
            "'docid', 'title' and 'te",
        ),
        (
            {"query": ["a"], "positive_passages": [[{"text": "A"}, None]], "negative_passages": [[]]},
            ValueError,
            "'positive_passages' holds a null in the row with query 'a'",
        ),
    ],
)
def test_what_does_not_fit_is_named(columns, error, message):
    with pytest.raises(error, match=message):
        read(columns)
