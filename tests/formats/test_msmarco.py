"""Rows of `msmarco-hard-negatives`: ids alone, the negatives by system."""

import json

import pytest
from datasets import Dataset, load_dataset

from hnm_datasets import Corpus, ToTriplets, convert


def from_lines(tmp_path, *rows):
    (tmp_path / "hard.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return load_dataset("json", data_files=str(tmp_path / "hard.jsonl"), split="train")


ROWS = (
    {"qid": 867436, "pos": [5238393], "neg": {"bm25": [3, 4, 5], "msmarco-distilbert-base-tas-b": [4, 6]}},
    {"qid": 5, "pos": [7, 8], "neg": {"bm25": [], "msmarco-distilbert-base-tas-b": [9]}},
)


def test_the_ids_of_all_systems_take_turns(tmp_path):
    rows = convert(from_lines(tmp_path, *ROWS), "mined")
    assert rows.to_list() == [
        {
            "query_id": "867436",
            "positive_ids": ["5238393"],
            "negative_ids": ["3", "4", "6", "5"],
            "negative_ranks": [1, 1, 2, 3],
            "negative_source": ["bm25", "msmarco-distilbert-base-tas-b", "msmarco-distilbert-base-tas-b", "bm25"],
        },
        {
            "query_id": "5",
            "positive_ids": ["7", "8"],
            "negative_ids": ["9"],
            "negative_ranks": [1],
            "negative_source": ["msmarco-distilbert-base-tas-b"],
        },
    ]


def test_a_system_may_be_missing_in_a_row(tmp_path):
    rows = convert(
        from_lines(
            tmp_path,
            {"qid": "a", "pos": ["x"], "neg": {"bm25": ["y"]}},
            {"qid": "b", "pos": ["x"], "neg": {"dense": ["z", "z"]}},
            {"qid": "c", "pos": None, "neg": None},
        ),
        "mined",
    )
    assert rows["negative_ids"][:] == [["y"], ["z"], []]
    assert rows["negative_source"][:] == [["bm25"], ["dense"], []]
    assert rows["positive_ids"][:] == [["x"], ["x"], []]


def test_the_scores_of_a_cross_encoder_are_a_teachers(tmp_path):
    row = {
        "qid": 1,
        "pos": [{"pid": 2, "ce-score": 9.5}],
        "neg": {"bm25": [{"pid": 3, "ce-score": -4.0}, {"pid": 4, "ce-score": None}]},
    }
    (made,) = convert(from_lines(tmp_path, row), "mined").to_list()
    assert made["positive_teacher_scores"] == [9.5]
    assert made["negative_teacher_scores"] == [-4.0, None]
    assert made["negative_ids"] == ["3", "4"]


def test_scores_that_begin_late_in_rows_that_differ(tmp_path):
    lines = [{"qid": row, "pos": [], "neg": None} for row in range(1200)]
    lines += [{"qid": -1, "pos": [{"pid": 2, "ce-score": 9.5}], "neg": {"dense": [{"pid": 3, "ce-score": 1}]}}]
    lines += [{"qid": -2, "pos": [], "neg": {"bm25": [{"pid": 4}]}}]
    made = convert(from_lines(tmp_path, *lines), "mined")[-2:]
    assert made["negative_ids"] == [["3"], ["4"]]
    assert made["negative_teacher_scores"] == [[1.0], [None]]
    assert made["positive_teacher_scores"] == [[9.5], []]


def test_with_texts_added_they_are_trained_on(tmp_path):
    corpus = Corpus.from_dataset(
        Dataset.from_dict({"id": [str(n) for n in (*range(10), 5238393)], "text": [f"text {n}" for n in range(11)]})
    )
    rows = convert(from_lines(tmp_path, *ROWS), "mined", corpus)
    texts = {"867436": "first?", "5": "second?"}
    rows = rows.map(lambda row: {"query": texts[row["query_id"]]})
    triplets = rows.map(ToTriplets(corpus), batched=True, remove_columns=rows.column_names)
    assert triplets[0] == {"anchor": "first?", "positive": "text 10", "negative": "text 3"}
    assert convert(rows, "flagembedding", corpus)["neg"][1] == ["text 9"]


def test_other_columns_stay_and_batches_do_not_show():
    count = 2500
    rows = Dataset.from_dict(
        {
            "qid": list(range(count)),
            "note": [f"n{row}" for row in range(count)],
            "pos": [[row] for row in range(count)],
            "neg": [{"a": [row + 1, row + 2], "b": [row + 2] * (row % 2)} for row in range(count)],
        }
    )
    made = convert(rows, "mined")
    assert made["note"][:] == rows["note"][:]
    assert made["negative_ids"][:] == [[str(row + 1), str(row + 2)] for row in range(count)]
    assert made[1]["negative_source"] == ["a", "b"]
    assert convert(rows.select([]), "mined").column_names == made.column_names


def test_with_texts_of_queries_any_format_is_made(tmp_path):
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": ["2", "3", "4"], "text": ["two", "three", "four"]}))
    row = {"qid": 1, "query": "first?", "pos": [2], "neg": {"bm25": [3], "dense": [4, 3]}}
    other = row | {"qid": 2, "neg": {"bm25": [4]}}
    for lines in ([row], [row, other]):
        rows = from_lines(tmp_path, *lines)
        assert convert(rows, "mined", corpus)["query"][:] == ["first?"] * len(lines)
        made = convert(rows, "triplets", corpus)
        assert (made[0]["anchor"], made[0]["positive"], made["negative"][:2]) == ("first?", "two", ["three", "four"])


@pytest.mark.parametrize(
    ("row", "to", "error", "message"),
    [
        (ROWS[0], "triplets", ValueError, r"have no query texts.*convert\(dataset, 'mined'\).*'query'"),
        ({"qid": 1, "pos": [1], "neg": [2]}, "mined", TypeError, "'neg' must hold the lists of each sys"),
        ({"qid": 1, "pos": 1, "neg": {"a": [2]}}, "mined", TypeError, "'pos' must hold lists"),
        ({"qid": 1, "pos": [1.5], "neg": {"a": [2]}}, "mined", ValueError, "'pos' holds the number 1.5"),
        ({"qid": None, "pos": [1], "neg": {"a": [2]}}, "mined", ValueError, "an id in 'qid' is null"),
        ({"qid": 1, "pos": [1], "neg": {"a": [{"id": 2}]}}, "mined", TypeError, r"'neg\.a' need the field 'pid'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, row, to, error, message):
    with pytest.raises(error, match=message):
        convert(from_lines(tmp_path, row), to)


def test_an_id_that_the_corpus_lacks_is_named(tmp_path):
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": ["5238393"], "text": ["a"]}))
    with pytest.raises(KeyError, match="'negative_ids' of the row with query_id '867436' names the passage '3'"):
        convert(from_lines(tmp_path, ROWS[0]), "mined", corpus)
