"""`dpr`: the JSON on which DPR is trained."""

import json

import pyarrow as pa
import pytest
from datasets import Dataset, load_dataset
from format_examples import make_corpus, mined, parts, passage, read

from hnm_datasets import audit_negatives, convert, save_mined
from hnm_datasets.formats.fields import text_ids


def context(name, **more):
    return {"title": f"T{name}", "text": f"text {name}", "score": 1.5, "title_score": 1, "passage_id": name} | more


ROW = {
    "dataset": "nq_train",
    "question": "who sings?",
    "answers": ["She"],
    "positive_ctxs": [context("1", score=1000)],
    "negative_ctxs": [context("2", score=0)],
    "hard_negative_ctxs": [context("3"), context("4", score=None)],
}


def from_json(tmp_path, *rows):
    (tmp_path / "dpr.json").write_text(json.dumps(rows, indent=1))
    return load_dataset("json", data_files=str(tmp_path / "dpr.json"), split="train")


def test_the_json_of_dpr_is_read(tmp_path):
    layout, rows = read(from_json(tmp_path, ROW))
    assert layout.describe() == "dpr (question, positive_ctxs, hard_negative_ctxs, negative_ctxs)"
    assert rows.queries.to_pylist() == ["who sings?"]
    assert parts(rows, "ids") == {"positives": [["1"]], "negatives": [["3", "4", "2"]]}
    assert parts(rows, "texts") == {"positives": [["text 1"]], "negatives": [["text 3", "text 4", "text 2"]]}
    assert parts(rows, "titles") == {"positives": [["T1"]], "negatives": [["T3", "T4", "T2"]]}
    assert rows.positives.scores["score"].tolist() == [1000]
    assert str(rows.negatives.scores["score"].tolist()) == "[1.5, nan, 0.0]"


def test_dpr_becomes_what_trainers_take(tmp_path, caplog):
    rows = from_json(tmp_path, ROW, ROW | {"question": "and he?", "hard_negative_ctxs": []})
    triplets = convert(rows, "triplets")
    assert [(row["anchor"], row["positive"], row["negative"]) for row in triplets] == [
        ("who sings?", "T1 text 1", "T3 text 3"),
        ("who sings?", "T1 text 1", "T4 text 4"),
        ("who sings?", "T1 text 1", "T2 text 2"),
        ("and he?", "T1 text 1", "T2 text 2"),
    ]
    assert triplets["negative_score"][:] == [1.5, None, 0.0, 0.0]
    assert triplets["answers"][0] == ["She"]
    assert "'positive_ctxs.title_score'" in caplog.text
    assert convert(rows, "tevatron")[0]["negative_passages"][0] == {"docid": "3", "title": "T3", "text": "text 3"}


@pytest.mark.parametrize(
    ("change", "ids"),
    [
        ({"positive_ctxs": [{"title": "T1", "text": "A", "psg_id": "p1"}]}, ["p1"]),
        ({"positive_ctxs": [{"title": "T1", "text": "A", "passage_id": 17}]}, ["17"]),
        ({"positive_ctxs": [{"title": None, "text": "Plates move.", "passage_id": None}]}, ["bc5a1770f4ce5039"]),
        ({"positive_ctxs": [{"title": "T1", "text": "A", "score": "79.5"}]}, None),
        ({"positive_ctxs": [{"text": "A"}]}, None),
        ({"positive_ctxs": []}, None),
    ],
)
def test_files_that_differ_in_fields(tmp_path, change, ids):
    row = {"question": "q", "hard_negative_ctxs": [context("3")]} | change
    _, rows = read(from_json(tmp_path, row))
    assert rows.negatives.ids.to_pylist() == ["3"]
    assert (None if rows.positives.ids is None else rows.positives.ids.to_pylist()) == ids
    assert rows.positives.scores.get("score", [79.5])[0] == 79.5


def test_passages_of_one_file_may_differ_in_fields(tmp_path):
    rows = [{"question": "q", "positive_ctxs": [context("1")], "hard_negative_ctxs": [context("2")]} for _ in range(2)]
    rows[1]["hard_negative_ctxs"] = [{"text": "text 3"}, context("4")]
    _, found = read(from_json(tmp_path, *rows))
    assert parts(found, "ids")["negatives"] == [["2"], [text_ids(pa.array(["text 3"]))[0].as_py(), "4"]]
    assert str(found.negatives.scores["score"].tolist()) == "[1.5, nan, 1.5]"


def test_a_file_with_negatives_that_are_not_hard_alone(tmp_path):
    row = {name: value for name, value in ROW.items() if name != "hard_negative_ctxs"}
    assert read(from_json(tmp_path, row))[1].negatives.ids.to_pylist() == ["2"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"positive_ctxs": ["A"]}, TypeError, "'positive_ctxs' must hold lists of passages with 'passage_id', 'title'"),
        ({"positive_ctxs": [{"text": 1}]}, TypeError, r"'positive_ctxs\.text' must hold strings, got int64"),
        ({"positive_ctxs": [{"text": "A", "score": "high"}]}, TypeError, r"'positive_ctxs\.score' must hold numbers"),
        ({"question": None}, ValueError, "'question' is null"),
        ({"question": 5}, TypeError, "'question' must hold strings, got int64"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, error, message):
    for to in ("triplets", "dpr"):
        with pytest.raises(error, match=message):
            convert(from_json(tmp_path, ROW | change), to)


def test_a_missing_column_is_named():
    rows = Dataset.from_dict({"question": ["q"], "positive_ctxs": [[context("1")]]})
    with pytest.raises(KeyError, match=r"'dpr' was recognized, but its columns \['hard_negative_ctxs'\] are missing"):
        convert(rows, "triplets")


def test_to_dpr():
    rows = convert(mined(), "dpr", make_corpus())
    made = {key: value for key, value in passage("c").items() if key != "docid"} | {"score": 3.0, "passage_id": "c"}
    assert rows.column_names == ["query_id", "question", "positive_ctxs", "hard_negative_ctxs"]
    assert rows[0]["hard_negative_ctxs"][0] == made


def test_dpr_is_audited_and_published(tmp_path):
    rows = from_json(tmp_path, ROW)
    assert audit_negatives(rows).negatives == 3
    card = (save_mined(rows, tmp_path / "set") / "README.md").read_text()
    assert 'zip(rows["question"], rows["positive_ctxs"], rows["hard_negative_ctxs"])' in card
    assert "**negative**: T3 text 3" in card
