"""`flagembedding`: lists of texts, from which a student may learn a teacher's scores."""

import pytest
from datasets import Dataset, Features, List, Value
from format_examples import QUERIES, make_corpus, mined, parts, read, text

from hnm_datasets import convert

# ---- reading -------------------------------------------------------------------------------------------------------


def test_null_and_empty_lists_have_no_passage():
    _, rows = read({"query": QUERIES, "pos": [["A"], None], "neg": [[], []], "neg_scores": [[], []]})
    assert parts(rows, "texts") == {"positives": [["A"], []], "negatives": [[], []]}


@pytest.mark.parametrize(
    "scores", [{"pos_scores": [None, None], "neg_scores": [None, None]}, {"neg_scores": [None] * 2}]
)
def test_null_scores_are_none(scores):
    rows = Dataset.from_dict({"query": QUERIES, "pos": [["A"], ["B"]], "neg": [["x", "y"], ["z"]]} | scores)
    assert convert(rows, "flagembedding") is rows
    assert convert(rows, "triplets").column_names == ["anchor", "positive", "negative"]
    assert convert(rows, "labeled-lists").column_names == ["anchor", "passages", "labels"]


@pytest.mark.parametrize("scores", [[None, [0.5]], [[None, None], [0.5]], [None, None], [[None, None], [None]]])
def test_rows_with_null_scores_among_others(scores):
    columns = {"query": QUERIES, "pos": [["A"], ["B"]], "neg": [["x", "y"], ["z"]], "neg_scores": scores}
    types = Features({"query": Value("string"), "pos": List(Value("string")), "neg": List(Value("string"))})
    rows = Dataset.from_dict(columns, features=Features(types | {"neg_scores": List(Value("float64"))}))
    _, found = read(rows)
    flat = [None] * 2 + [scores[1] and scores[1][0]]
    assert [None if value != value else value for value in found.negatives.scores["teacher"].tolist()] == flat
    assert convert(rows, "triplets")["negative_score"][:] == flat


# ---- writing -------------------------------------------------------------------------------------------------------


def test_to_flagembedding():
    rows = convert(mined(), "flagembedding", make_corpus())
    assert rows[0] == {
        "query_id": "q1", "query": "one?", "pos": [text("a"), text("b")], "neg": [text("c"), text("d")],
        "pos_id": ["a", "b"], "neg_id": ["c", "d"], "pos_scores": [5.0, 4.5], "neg_scores": [3.0, 2.0],
    }  # fmt: skip


def test_a_teachers_scores_go_into_flagembeddings_format_before_the_retrievers(caplog):
    scores = {"positive_teacher_scores": [[0.9, 0.8], [0.7], [0.6]], "negative_teacher_scores": [[0.1, 0.2]] * 3}
    rows = convert(mined(**scores), "flagembedding", make_corpus())
    assert rows["pos_scores"][0] == pytest.approx([0.9, 0.8])
    assert "['positive_scores', 'negative_scores']" in caplog.text
    assert convert(mined(**scores), "triplets", make_corpus())["positive_score"][0] == 5.0
    back = convert(rows, "mined", make_corpus())
    assert back["positive_teacher_scores"][0] == pytest.approx([0.9, 0.8])
    assert back.features["negative_teacher_scores"] == List(Value("float32"))


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"query": ["a"], "pos": [["A"]], "neg": ["x"]}, TypeError, "'neg' must hold lists"),
        (
            {"query": ["a"], "pos": [["A"]], "neg": [["x", None]]},
            ValueError,
            "'neg' holds a null in the row with query",
        ),
        ({"query": ["a"], "pos": [["A"]], "neg": [["x"]], "neg_id": [[]]}, ValueError, "'neg' and 'neg_id' must be al"),
        ({"query": ["a"], "pos": [["A"]], "neg": [["x"]], "neg_scores": [[]]}, ValueError, "'neg' and 'neg_scores'"),
    ],
)
def test_what_does_not_fit_is_named(columns, error, message):
    with pytest.raises(error, match=message):
        read(columns)
