"""Judgments that repeat or contradict themselves."""

import logging

import pytest
from datasets import Dataset

from hnm_datasets import attach_positives, load_beir


def qrels_of(*judgments):
    queries, passages, scores = zip(*judgments, strict=True)
    return Dataset.from_dict({"query_id": queries, "corpus_id": passages, "score": scores})


QUERIES = Dataset.from_dict({"query_id": ["q1", "q2"], "query": ["why?", "how?"]})


@pytest.mark.parametrize(
    ("judgments", "min_score", "positives", "judged"),
    [
        ([("q1", "a", 1), ("q1", "a", 1), ("q1", "b", 0), ("q1", "b", 0)], 1, ["a"], ["b"]),
        # Two grades on the same side.
        ([("q1", "a", 2), ("q1", "a", 1), ("q1", "b", -1), ("q1", "b", 0)], 1, ["a"], ["b"]),
        ([("q1", "a", 2), ("q1", "b", 1), ("q1", "b", 0)], 2, ["a"], ["b"]),
        # The same passage for another query.
        ([("q1", "a", 1), ("q2", "a", 0), ("q1", "c", 1)], 1, ["a", "c"], []),
    ],
)
def test_a_repeated_judgment_counts_once(judgments, min_score, positives, judged):
    row = attach_positives(QUERIES, qrels_of(*judgments), min_score)[0]
    assert (row["positive_ids"], row["judged_negative_ids"]) == (positives, judged)


@pytest.mark.parametrize(
    ("judgments", "min_score", "query", "passage"),
    [
        ([("q1", "a", 1), ("q1", "a", 0)], 1, "q1", "a"),
        ([("q1", "a", 1), ("q2", "b", 0), ("q2", "c", 1), ("q2", "b", 3)], 1, "q2", "b"),
        ([("q1", "a", 1), ("q1", "a", 2)], 2, "q1", "a"),
        ([("q2", "a", -1), ("q2", "a", -1), ("q2", "a", 1)], 1, "q2", "a"),
    ],
)
def test_a_contradiction_names_query_and_passage(judgments, min_score, query, passage):
    with pytest.raises(
        ValueError, match=rf"'{passage}' is judged both relevant and not relevant to the query '{query}'"
    ):
        attach_positives(QUERIES, qrels_of(*judgments), min_score)


def test_a_null_judgment_is_named():
    with pytest.raises(ValueError, match="null 'score' in row 1"):
        attach_positives(QUERIES, qrels_of(("q1", "a", 1), ("q1", "b", None)))


def test_load_beir_drops_what_is_contradicted(tmp_path, caplog):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "A."}\n{"_id": "b", "text": "B."}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "why?"}\n')
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t0\nq\ta\t1\nq\tb\t0\nq\tb\t0\n")
    with pytest.raises(ValueError, match=r"load_beir: .*'a'.*'q'.*invalid='drop'"):
        load_beir(tmp_path)
    with caplog.at_level(logging.WARNING):
        _, rows = load_beir(tmp_path, invalid="drop")
    assert "dropped 1 of 4 judgments" in caplog.text
    assert (rows[0]["positive_ids"], rows[0]["judged_negative_ids"]) == (["a"], ["b"])
