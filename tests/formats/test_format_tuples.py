"""`triplets` and `n-tuples`: one passage a column, null where there is none."""

import pytest
from datasets import Dataset
from format_examples import QUERIES, example, make_corpus, mined, parts, read, text

from hnm_datasets import convert

# ---- reading -------------------------------------------------------------------------------------------------------


def test_triplets_have_one_passage_a_column():
    _, rows = read({"anchor": QUERIES, "positive": ["A", "B"], "negative": ["x", "y"], "negative_id": ["1", "2"]})
    assert parts(rows, "texts") == {"positives": [["A"], ["B"]], "negatives": [["x"], ["y"]]}
    assert parts(rows, "ids") == {"positives": None, "negatives": [["1"], ["2"]]}


def test_a_null_text_is_no_passage():
    _, rows = read({"anchor": QUERIES, "positive": ["A", None], "negative": [None, "y"], "negative_id": [None, "2"]})
    assert parts(rows, "texts") == {"positives": [["A"], []], "negatives": [[], ["y"]]}
    assert parts(rows, "ids")["negatives"] == [[], ["2"]]
    columns = example("n-tuples") | {"negative_1": [None, "z"], "negative_1_id": [None, "3"]}
    _, rows = read(columns | {"negative_1_score": [None, 0.5]})
    assert parts(rows, "texts")["negatives"] == [["y"], ["z", "x"]]
    assert parts(rows, "ids")["negatives"] == [["2"], ["3", "1"]]
    assert parts(rows, "scores")["negatives"] == {"score": [[1.0], [0.5, 0.25]]}
    _, rows = read({"anchor": QUERIES, "positive": ["A", "B"], "negative": [None, None]})
    assert len(rows.negatives) == 0


# ---- writing -------------------------------------------------------------------------------------------------------


def test_to_triplets_has_every_positive_with_every_negative():
    rows = convert(mined(), "triplets", make_corpus())
    assert rows.column_names == [
        "anchor", "positive", "negative", "anchor_id", "positive_id", "negative_id", "positive_score", "negative_score"
    ]  # fmt: skip
    assert list(zip(rows["anchor_id"], rows["positive_id"], rows["negative_id"], strict=True)) == [
        ("q1", "a", "c"), ("q1", "a", "d"), ("q1", "b", "c"), ("q1", "b", "d"),
        ("q2", "c", "e"), ("q2", "c", "a"), ("q3", "d", "b"), ("q3", "d", "a"),
    ]  # fmt: skip
    assert rows["positive"][:] == [text(name) for name in rows["positive_id"]]
    assert rows["negative"][:] == [text(name) for name in rows["negative_id"]]
    assert rows["positive_score"][:4] == [5.0, 5.0, 4.5, 4.5]
    assert rows["negative_score"][:4] == [3.0, 2.0, 3.0, 2.0]


def test_to_n_tuples_has_one_row_per_positive():
    rows = convert(mined(), "n-tuples", make_corpus())
    assert len(rows) == 4
    assert rows[1] == {
        "anchor": "one?", "positive": text("b"), "negative_1": text("c"), "negative_2": text("d"), "anchor_id": "q1",
        "positive_id": "b", "negative_1_id": "c", "negative_2_id": "d",
        "positive_score": 4.5, "negative_1_score": 3.0, "negative_2_score": 2.0,
    }  # fmt: skip


def test_n_tuples_need_equal_numbers_of_negatives():
    rows = mined(negative_ids=[["c", "d"], ["e"], ["b", "a"]], negative_scores=[[3.0, 2.0], [2.5], [0.5, 0.25]])
    with pytest.raises(ValueError, match=r"'two\?' has 1, and earlier queries have 2.*TopNegatives\(n\).*triplets"):
        convert(rows, "n-tuples", make_corpus())
    with pytest.raises(ValueError, match=r"at least 1, but the query 'one\?' has 0\. "):
        convert(mined(negative_ids=[[], [], []], negative_scores=[[], [], []]), "n-tuples", make_corpus())


def test_labels_of_a_teacher_are_left_out_of_triplets(caplog):
    rows = Dataset.from_dict({"anchor": ["a?"], "positive": ["A"], "negative": ["x"], "label": [[0.5]]})
    assert convert(rows, "flagembedding")[0] == {"query": "a?", "pos": ["A"], "neg": ["x"]}
    assert "['label']" in caplog.text


def test_scores_of_mine_hard_negatives_travel():
    rows = Dataset.from_dict(
        {"question": ["a?"] * 2, "answer": ["A"] * 2, "negative": ["x", "y"], "scores": [[0.9, 0.1], [0.9, 0.2]]}
    )
    made = convert(rows, "flagembedding")
    assert made["neg_scores"][0] == [0.1, 0.2]
    assert made["pos_scores"][0] == [0.9]


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"anchor": [None], "positive": ["A"], "negative": ["x"]}, ValueError, "'anchor' is null"),
        ({"anchor": [1], "positive": ["A"], "negative": ["x"]}, TypeError, "'anchor' must hold strings, got int64"),
        ({"anchor": ["a"], "positive": [1], "negative": ["x"]}, TypeError, "'positive' must hold strings, got int64"),
        (
            {"anchor": ["a"], "positive": ["A"], "negative": ["x"], "negative_id": [None]},
            ValueError,
            "'negative_id' is null in row 0 of the batch, but 'negative' is not. Fill in the id",
        ),
        (
            {"anchor": ["a"], "positive": ["A"], "negative": ["x"], "scores": [[1.0, 2.0, 3.0]]},
            ValueError,
            "'scores' must hold 2 scores per row.*has 3",
        ),
        (
            {"anchor": ["a"], "positive": ["A"], "negative": ["x"], "positive_score": ["high"]},
            TypeError,
            "'positive_score' must hold numbers, got string",
        ),
    ],
)
def test_what_does_not_fit_is_named(columns, error, message):
    with pytest.raises(error, match=message):
        read(columns)
