"""`labeled-pairs` and `labeled-lists`: a label of 1 or 0 beside each passage."""

import pytest
from datasets import Dataset
from format_examples import QUERIES, make_corpus, mined, parts, read, text

from hnm_datasets import convert

# ---- reading -------------------------------------------------------------------------------------------------------


def test_labeled_pairs_have_one_passage_a_row():
    _, rows = read(
        {
            "anchor": QUERIES, "passage": ["A", "x"], "label": [True, False], "anchor_id": ["q1", "q2"],
            "passage_id": ["a", "1"], "passage_score": [4, 2],
        }
    )  # fmt: skip
    assert parts(rows, "texts") == {"positives": [["A"], []], "negatives": [[], ["x"]]}
    assert parts(rows, "ids") == {"positives": [["a"], []], "negatives": [[], ["1"]]}
    assert parts(rows, "scores")["negatives"] == {"score": [[], [2.0]]}


def test_lists_may_be_empty():
    _, rows = read({"anchor": QUERIES, "passages": [[], []], "labels": [[], []]})
    assert parts(rows, "texts") == {"positives": [[], []], "negatives": [[], []]}


# ---- writing -------------------------------------------------------------------------------------------------------


def test_to_labeled_pairs():
    rows = convert(mined(), "labeled-pairs", make_corpus())
    assert rows["passage_id"][:] == list("abcd" + "cea" + "dba")
    assert rows["label"][:] == [1, 1, 0, 0, 1, 0, 0, 1, 0, 0]
    assert rows[1] == {
        "anchor": "one?", "passage": text("b"), "label": 1.0, "anchor_id": "q1", "passage_id": "b", "passage_score": 4.5
    }  # fmt: skip


def test_to_labeled_lists():
    rows = convert(mined(), "labeled-lists", make_corpus())
    assert rows[0] == {
        "anchor": "one?", "passages": [text(name) for name in "abcd"], "labels": [1, 1, 0, 0], "anchor_id": "q1",
        "passage_ids": list("abcd"), "passage_scores": [5.0, 4.5, 3.0, 2.0],
    }  # fmt: skip


def test_ids_of_one_side_alone_have_no_place_beside_labels(caplog):
    rows = Dataset.from_dict({"query": ["a?"], "pos": [["A"]], "neg": [["x"]], "pos_id": [["1"]]})
    assert convert(rows, "triplets")[0] == {"anchor": "a?", "positive": "A", "negative": "x", "positive_id": "1"}
    assert not caplog.records
    assert convert(rows, "labeled-lists")[0] == {"anchor": "a?", "passages": ["A", "x"], "labels": [1.0, 0.0]}
    assert "['pos_id']" in caplog.text


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"anchor": ["a"], "passage": ["A"], "label": [None]}, ValueError, "'label' holds nan"),
        ({"anchor": ["a"], "passage": ["A"], "label": [2]}, ValueError, "'label' holds 2"),
        ({"anchor": ["a"], "passages": [["A"]], "labels": [[1, 0]]}, ValueError, "'passages' and 'labels' must be al"),
        (
            {"anchor": ["a"], "passages": [["A"]], "labels": [[1]], "passage_ids": [["a", "b"]]},
            ValueError,
            "'passages' and 'passage_ids' must be aligned",
        ),
        (
            {"anchor": ["a"], "passages": [["A"]], "labels": [[1]], "passage_scores": [[]]},
            ValueError,
            "'passages' and 'passage_scores' must be aligned",
        ),
    ],
)
def test_what_does_not_fit_is_named(columns, error, message):
    with pytest.raises(error, match=message):
        read(columns)
