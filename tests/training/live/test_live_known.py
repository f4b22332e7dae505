"""Live rows never draw a known positive of their question, and tell what is left out and what is padding."""

import logging

import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import assume, given, settings
from live_helpers import known, whole
from planted import IDS, corpus_of_copies, planted_rows

from hnm_datasets import RandomNegatives, RankWindow, live_negatives, mine
from hnm_datasets.training.generations import Generation
from hnm_datasets.training.labels import PADDING


@pytest.fixture(scope="module")
def copies():
    return corpus_of_copies()


def candidates(generation, corpus):
    lists = generation.negatives
    ids = corpus.ids(lists.values).to_pylist()
    return [ids[a:b] for a, b in zip(lists.offsets[:-1], lists.offsets[1:], strict=True)]


def drawn(live):
    """The copy codes of the negatives of each row that are no padding."""
    return [
        [key for key in known(row["label"], live.source.n).passages[0, 1:].tolist() if key != PADDING]
        for row in whole(live)
    ]


@settings(max_examples=25)
@given(planted=planted_rows())
def test_live_rows_leave_out_what_any_row_of_the_question_knows_and_nothing_else(copies, planted):
    rows = Dataset.from_dict(planted.columns)
    owners = [row for row, own in enumerate(planted.columns["positive_ids"]) for _ in own]
    assume(any(planted.kept_by_question[row] for row in owners))
    live = live_negatives(rows, copies, n=9)
    assert candidates(live.source.generation(), copies) == planted.kept_by_question
    expected = [copies.copy_codes[copies.rows(planted.kept_by_question[row])].tolist() for row in owners]
    assert drawn(live) == expected


def test_a_later_generation_leaves_out_what_another_row_promoted(copies, tmp_path):
    rows = Dataset.from_dict({"query": ["Why?", "why?", "how?"], "positive_ids": [["f0v0"], ["f1v0"], ["f2v0"]]})
    live = live_negatives(rows, copies, n=2, max_positives=8)
    table = pa.table(
        {"positive_ids": [["f0v0"], ["f1v0", "f4v1"], ["f2v0"]], "negative_ids": [IDS, ["f5v0"], ["f4v0", "f2v3"]]}
    )
    live.source.write(1, [table.slice(0, 1), table.slice(1)], tmp_path)
    found = Generation.open(tmp_path / "000001")
    others = [name for name in IDS if name[:2] in ("f2", "f3", "f5")]
    assert candidates(found, copies) == [others, ["f5v0"], ["f4v0"]]
    assert found.dropped == (len(IDS) - len(others) + 1, 2)
    assert not list((tmp_path / "000001").glob("mined*"))


def test_scores_stay_beside_their_candidates(copies):
    rows = Dataset.from_dict(
        {
            "query": ["why?", "how?"],
            "positive_ids": [["f0v0"], ["f1v0"]],
            "negative_ids": [["f0v1", "f2v0", "f3v0"], ["f4v0", "f1v3", "f5v0"]],
            "positive_teacher_scores": [[1.0], [2.0]],
            "negative_teacher_scores": [[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]],
        }
    )
    live = live_negatives(rows, copies, n=2, teacher="teacher")
    assert [known(row["label"], 2).scores[0].tolist() for row in whole(live)] == [[1.0, 4.0, 5.0], [2.0, 6.0, 8.0]]


def rows_of(negatives, **columns):
    size = len(negatives)
    return Dataset.from_dict(
        {"query": [f"q{row}" for row in range(size)], "positive_ids": [["f0v0"]] * size, "negative_ids": negatives}
        | columns
    )


def test_what_is_dropped_and_what_is_padding_is_told_with_counts(copies, caplog):
    rows = rows_of([["f0v1", "f2v0", "f0v0"], ["f1v0", "f2v0"], ["f3v0", "f4v0", "f5v0"]])
    for _ in range(2):  # the second time, the generation is in the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            live_negatives(rows, copies, n=2)
        dropped, padding = (record.getMessage() for record in caplog.records)
        assert "live_negatives: 2 candidates of 1 queries are dropped" in dropped
        assert "DropKnownPositives(corpus)" in dropped
        assert (
            "16.7% of the negatives drawn are padding, because 1 of 3 rows (one per positive) have fewer than n=2"
            in padding
        )
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        live_negatives(rows.select([2]), copies, n=3)
    assert not caplog.records


def test_padding_is_counted_over_the_rows_that_are_trained_on(copies, caplog):
    positives = [["f0v0", "f1v0", "f2v0"], ["f0v0"], []]
    with caplog.at_level(logging.WARNING):
        live_negatives(rows_of([["f5v0"], ["f4v0", "f3v0"], []], positive_ids=positives), copies, n=2)
    assert "37.5% of the negatives drawn are padding, because 3 of 4 rows" in caplog.text


@pytest.mark.parametrize(
    ("negatives", "positives", "counts"),
    [
        ([[], []], ["f0v0"], ""),
        ([["f0v3"], ["f0v0", "f0v1"]], ["f0v0"], "3 candidates were dropped as known positives"),
        ([["f1v0"], []], [], ""),
    ],
)
def test_rows_without_any_candidate_left_are_refused(copies, negatives, positives, counts):
    rows = rows_of(negatives, positive_ids=[positives, ["f0v0"]])
    with pytest.raises(ValueError, match=rf"no row has a candidate left.*{counts}.*RelativeMargin.*'negative_ids'"):
        live_negatives(rows, copies)
    assert len(live_negatives(rows.remove_columns("negative_ids"), copies)) >= 1


def test_the_step_that_dropped_all_candidates_is_named(copies, capsys):
    rows = rows_of([["f1v0", "f2v0"]]).remove_columns("negative_ids")
    mined = mine(rows, [RandomNegatives(copies, k=5), RankWindow(2000)])
    with pytest.raises(ValueError, match=r"RankWindow\(min=2000\) dropped all 5 candidates. Widen the filter"):
        live_negatives(mined, copies)
