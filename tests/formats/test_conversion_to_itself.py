"""Rows that are in the format already are checked like any others, and triplets with lists are written out."""

import json

import older_versions
import pytest
from datasets import Dataset, load_dataset
from format_examples import example, make_corpus, mined

from hnm_datasets import convert, save_mined
from hnm_datasets.formats.registry import FORMATS

LISTS = {"anchor": ["a?", "b?"], "positive": ["A", "B"], "negative": [["x", "y"], ["z"]]}


def triples(rows):
    return [(row["anchor"], row["positive"], row["negative"]) for row in rows]


# ---- triplets of lists ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (LISTS, [("a?", "A", "x"), ("a?", "A", "y"), ("b?", "B", "z")]),
        (
            {"anchor": ["a?"], "positive": [["A", "AA"]], "negative": [["x", "y"]]},
            [("a?", "A", "x"), ("a?", "A", "y"), ("a?", "AA", "x"), ("a?", "AA", "y")],
        ),
        ({"anchor": ["a?"], "positive": [["A"]], "negative": ["x"]}, [("a?", "A", "x")]),
        ({"question": ["a?"], "answer": ["A"], "negative": [["x"]]}, [("a?", "A", "x")]),
        ({"query": ["a?"], "positive": ["A"], "negatives": [["x", "y"]]}, [("a?", "A", "x"), ("a?", "A", "y")]),
        ({"query": ["a?"], "positives": [["A"]], "negatives": [["x", "y"]]}, [("a?", "A", "x"), ("a?", "A", "y")]),
        # Each once: a repeated negative of a query is one.
        ({"anchor": ["a?"], "positive": ["A"], "negative": [["x", "x"]]}, [("a?", "A", "x")]),
    ],
)
def test_triplets_with_lists_become_triplets(columns, expected):
    made = convert(Dataset.from_dict(columns), "triplets")
    assert triples(made) == expected
    assert triples(convert(made, "triplets")) == expected


@pytest.mark.parametrize("form", [name for name in FORMATS if name not in ("mined", "n-tuples")])
def test_triplets_with_lists_become_any_format(form):
    rows = convert(convert(Dataset.from_dict(LISTS), form), "flagembedding")
    assert [(row["query"], row["pos"], row["neg"]) for row in rows] == [("a?", ["A"], ["x", "y"]), ("b?", ["B"], ["z"])]


def test_ids_and_scores_beside_lists_travel():
    more = {"positive_id": ["1", "2"], "negative_id": [["3", "4"], ["5"]], "anchor_id": ["q1", "q2"], "note": [7, 8]}
    scores = {"positive_score": [0.9, 0.8], "negative_score": [[0.5, None], [0.25]]}
    made = convert(Dataset.from_dict(LISTS | more | scores), "triplets")
    assert made["negative_id"][:] == ["3", "4", "5"]
    assert made["positive_id"][:] == ["1", "1", "2"]
    assert made["anchor_id"][:] == ["q1", "q1", "q2"]
    assert made["negative_score"][:] == [0.5, None, 0.25]
    assert made["note"][:] == [7, 7, 8]
    joint = convert(Dataset.from_dict(LISTS | {"scores": [[0.9, 0.5, 0.25], [0.75, 0.125]]}), "triplets")
    assert joint["positive_score"][:] == pytest.approx([0.9, 0.9, 0.75])
    assert joint["negative_score"][:] == [0.5, 0.25, 0.125]


def test_what_has_no_negative_is_counted(caplog):
    made = convert(Dataset.from_dict(LISTS | {"negative": [[], ["z"]]}), "triplets")
    assert triples(made) == [("b?", "B", "z")]
    assert "1 of 2 queries or rows have no row in 'triplets', because they have no positive" in caplog.text


def test_null_for_a_passage_is_no_triplet(caplog):
    rows = Dataset.from_dict({"anchor": ["a?", "b?"], "positive": ["A", "B"], "negative": [None, "z"]})
    assert triples(convert(rows, "triplets")) == [("b?", "B", "z")]
    assert "1 of 2" in caplog.text


def test_the_card_of_triplets_with_lists_trains_on_triplets(tmp_path):
    card = (save_mined(Dataset.from_dict(LISTS), tmp_path / "set") / "README.md").read_text()
    code = card[card.index("```python") + 9 :]
    code = code[: code.index("```")]
    made = code[code.index("def triplets") : code.index("rows = load_dataset")]
    scope = {}
    exec(made, scope)
    assert scope["triplets"](Dataset.from_dict(LISTS)[:]) == {
        "anchor": ["a?", "a?", "b?"], "positive": ["A", "A", "B"], "negative": ["x", "y", "z"]
    }  # fmt: skip
    assert "rows.map(triplets, batched=True" in code


# ---- rows that match already ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("size", [0, 3])
def test_rows_that_fit_are_returned_as_they_are(form, size):
    rows = convert(mined(), form, make_corpus()).select(range(size)) if form != "mined" else mined().select(range(size))
    assert convert(rows, form) is rows


def test_a_teachers_label_of_triplets_stays():
    rows = Dataset.from_dict({"anchor": ["a?"], "positive": ["A"], "negative": ["x"], "label": [0.5]})
    assert convert(rows, "triplets") is rows


@pytest.mark.parametrize(
    ("form", "columns", "error", "message"),
    [
        ("triplets", LISTS | {"negative": [[{"text": "x"}], []]}, TypeError, r"'negative' must be List\(string\)"),
        ("triplets", LISTS | {"negative": [["x", None], []]}, ValueError, "'negative' holds a null"),
        ("triplets", LISTS | {"negative": [[1], [2]]}, TypeError, r"'negative' must be List\(string\).*int64"),
        ("triplets", LISTS | {"negative": [1, 2]}, TypeError, "'negative' must hold strings, got int64"),
        ("triplets", LISTS | {"negative": [{"text": "x"}, {"text": "y"}]}, TypeError, "'negative' must hold strings"),
        ("triplets", LISTS | {"anchor": [["a?"], ["b?"]]}, TypeError, "'anchor' must hold strings, got list"),
        ("triplets", LISTS | {"anchor": ["a?", None]}, ValueError, "'anchor' is null"),
        ("triplets", LISTS | {"negative_id": [["1"], ["2"]]}, ValueError, "'negative' and 'negative_id' must be align"),
        ("triplets", LISTS | {"scores": [[1.0], [1.0]]}, ValueError, "'scores' must hold 3 scores per row"),
        ("n-tuples", example("n-tuples") | {"negative_2": [["x"], ["y"]]}, TypeError, "'negative_2' must hold str"),
        ("n-tuples", example("n-tuples") | {"negative_1": [1, 2]}, TypeError, "'negative_1' must hold str"),
        ("n-tuples", example("n-tuples") | {"positive_score": ["1", "2"]}, TypeError, "'positive_score' must hold num"),
        ("labeled-pairs", {"anchor": ["a"], "passage": [["A"]], "label": [1]}, TypeError, "'passage' must hold str"),
        ("labeled-pairs", {"anchor": ["a"], "passage": ["A"], "label": ["1"]}, TypeError, "'label' must hold numbers"),
        ("labeled-pairs", {"anchor": ["a"], "passage": ["A"], "label": [None]}, ValueError, "'label' holds nan"),
        ("labeled-pairs", {"anchor": ["a"], "passage": [None], "label": [1]}, ValueError, "'passage' is null"),
        ("labeled-lists", example("labeled-lists") | {"passages": ["A", "B"]}, TypeError, "'passages' must hold lists"),
        ("labeled-lists", example("labeled-lists") | {"labels": [[1], [1]]}, ValueError, "'passages' and 'labels'"),
        ("labeled-lists", example("labeled-lists") | {"labels": [["1"] * 3] * 2}, TypeError, "'labels' must be lists"),
        ("mined", example("mined") | {"negative_ids": [[True], [False]]}, TypeError, r"'negative_ids' must hold id"),
        ("mined", example("mined") | {"negative_ids": ["1", "2"]}, TypeError, "'negative_ids' must hold lists"),
        ("mined", example("mined") | {"negative_scores": [[1.0], []]}, ValueError, "'negative_ids' and 'negative_scor"),
        ("flagembedding", example("flagembedding") | {"neg": ["x", "y"]}, TypeError, "'neg' must hold lists"),
        ("flagembedding", example("flagembedding") | {"pos": [[{"t": "A"}]] * 2}, TypeError, r"'pos' must be Li"),
        ("flagembedding", example("flagembedding") | {"neg_scores": [["a", "b"]] * 2}, TypeError, "'neg_scores' mu"),
        ("tevatron", example("tevatron") | {"negative_passages": [["x"], ["y"]]}, TypeError, "'negative_passages' mu"),
        ("tevatron", example("tevatron") | {"query": [1, 2]}, TypeError, "'query' must hold strings"),
        (
            "tevatron",
            example("tevatron") | {"negative_passages": [[{"docid": "1", "title": "", "text": 5}]] * 2},
            TypeError,
            r"'negative_passages\.text' must hold strings, got int64",
        ),
    ],
)  # fmt: skip
def test_rows_that_match_by_their_columns_alone_are_refused(form, columns, error, message):
    with pytest.raises(error, match=message):
        convert(Dataset.from_dict(columns), form)


def test_mined_rows_are_looked_up_in_the_corpus():
    assert convert(mined(), "mined", make_corpus()).to_list() == mined().to_list()
    with pytest.raises(KeyError, match="'negative_ids' of the row with query_id 'q1' names the passage 'zz'"):
        convert(mined(negative_ids=[["c", "zz"], ["e", "a"], ["b", "a"]]), "mined", make_corpus())


def test_a_bad_row_far_behind_is_found():
    rows = Dataset.from_dict({"anchor": ["a"] * 2500, "passage": ["A"] * 2500, "label": [1] * 2499 + [3]})
    with pytest.raises(ValueError, match="'label' holds 3"):
        convert(rows, "labeled-pairs")


def test_tevatron_with_numbers_for_ids_is_written_with_texts():
    passages = [[{"docid": 1, "title": "", "text": "A"}], [{"docid": 2, "title": None, "text": "B"}]]
    rows = Dataset.from_dict(
        {"query": ["a?", "b?"], "positive_passages": passages, "negative_passages": passages[::-1]}
    )
    made = convert(rows, "tevatron")
    assert made["positive_passages"][1] == [{"docid": "2", "title": "", "text": "B"}]


@older_versions.needs("datasets", "4.8", "its JSON reader fails on values of several types")
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"anchor": "a", "positive": "A", "negative": "x"}, {"negative": ["y"]}, "negative"),
        ({"anchor": "a", "positive": "A", "negative": "x"}, {"anchor": 5}, "anchor"),
        ({"query": "a", "pos": ["A"], "neg": ["x"]}, {"neg": {"bm25": ["x"]}}, "neg"),
    ],
)
def test_a_column_of_several_types_is_named(tmp_path, first, second, message):
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in (first, first | second)))
    rows = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train")
    with pytest.raises(TypeError, match=f"the column '{message}' mixes types"):
        convert(rows, "triplets")
