"""Steps that leave most rows without a candidate say so, once for a call of `map`, with the limits and the numbers."""

import logging
from dataclasses import dataclass

import numpy as np
import pytest
from datasets import Dataset

from hnm_datasets import (
    AbsoluteMargin,
    BM25Negatives,
    Corpus,
    DropNearDuplicates,
    RankWindow,
    RelativeMargin,
    SampleNegatives,
    ScoreBand,
    TeacherThreshold,
    TopNegatives,
    load_sample,
)
from hnm_datasets.transforms.base import CandidateFilter

PASSAGES = {"p": "plates move to the north", "a": "Plates move to the north.", "b": "waves roll to the shore"}


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_dataset(Dataset.from_dict({"id": list(PASSAGES), "text": list(PASSAGES.values())}))


@dataclass(frozen=True)
class KeepNone(CandidateFilter):
    """Keep nothing."""

    share: float = 1.0

    def _keep(self, batch, candidates):
        return np.zeros(len(candidates.values), dtype=bool)


def rows_of(count, emptied, without=0):
    """Return rows of which some lose all candidates, and others have none to begin with."""
    easy, hard = ([2.0, 1.0], [1, 60]), ([12.5, 9.25], [1, 7])
    lists = [hard] * emptied + [easy] * (count - emptied - without) + [([], [])] * without
    return Dataset.from_dict(
        {
            "query_id": [f"q{i}" for i in range(count)],
            "query": [f"question {i}?" for i in range(count)],
            "positive_ids": [["p"]] * count,
            "positive_scores": [[10.0]] * count,
            "negative_ids": [(["a", "a"] if scores[0] > 3 else ["a", "b"]) if scores else [] for scores, _ in lists],
            "negative_scores": [scores for scores, _ in lists],
            "negative_teacher_scores": [scores for scores, _ in lists],
            "negative_ranks": [ranks for _, ranks in lists],
        }
    )


CASES = {
    "relative": (
        RelativeMargin(0.5, by="score"),
        ["'negative_scores' range from 9.25 to 12.5", "from 5 to 5", "from 10 to 10"],
    ),
    "relative-share": (
        RelativeMargin(5, by="score"),
        ["margin=5", "0.05 means 5%", "from -40 to -40", "calibrate_margin"],
    ),
    "absolute": (AbsoluteMargin(4.0, by="score"), ["margin=4", "from 6 to 6", "calibrate_margin"]),
    "ranks": (RankWindow(50), ["range from 1 to 7", "starts at 50", "larger k="]),
    "window": (RankWindow(50, 70), ["from 50 to 70"]),
    "band": (ScoreBand(0.2, 3.5, by="score"), ["from 9.25 to 12.5", "from 0.2 to 3.5", "no fixed range"]),
    "teacher": (
        TeacherThreshold(3.0),
        ["negative_below=3", "'negative_teacher_scores' range from 9.25", "calibrate_threshold"],
    ),
    "own": (KeepNone(0.25), ["KeepNone(share=0.25)", "Loosen"]),
}


@pytest.mark.parametrize("case", CASES)
def test_most_rows_are_told_with_limits_and_numbers(case, caplog):
    step, words = CASES[case]
    rows = rows_of(12, 7, without=2)
    rows.map(step, batched=True)
    (message,) = caplog.messages
    emptied = 10 if case in ("own", "relative-share") else 7
    assert message.startswith(
        f"{type(step).__name__}: {emptied} of the 10 rows with candidates in this batch lost all of them: "
    )
    for word in words:
        assert word in message


@pytest.mark.parametrize("case", sorted(CASES.keys() - {"own", "relative-share"}))
def test_half_of_the_rows_is_not_most(case, caplog):
    rows_of(12, 5, without=2).map(CASES[case][0], batched=True)
    assert caplog.messages == []


def test_near_duplicates_are_told(corpus, caplog):
    rows_of(4, 3).map(DropNearDuplicates(corpus, 0.25), batched=True)
    (message,) = caplog.messages
    assert message.startswith("DropNearDuplicates: 3 of the 4 rows with candidates in this batch lost all of them: ")
    assert "threshold=0.25" in message


@pytest.mark.parametrize("step", [RelativeMargin(5), ScoreBand(0.2, 0.9)])
def test_steps_made_for_cosines_are_told_after_bm25(step, caplog):
    corpus, queries = load_sample()
    mined = queries.map(BM25Negatives(corpus, k=10), batched=True)
    left = mined.map(step, batched=True, batch_size=50)
    assert not any(left["negative_ids"])
    (message,) = caplog.messages
    assert "'negative_scores' range from" in message


def test_ranks_are_told_after_the_first(caplog):
    rows_of(5, 5).map(TopNegatives(1), batched=True).map(RankWindow(50), batched=True)
    (message,) = caplog.messages
    assert "range from 1 to 1" in message


def test_no_candidates_are_no_rows_to_empty(caplog):
    rows_of(5, 0, without=5).map(RankWindow(50), batched=True)
    assert caplog.messages == []


class ToFile(logging.FileHandler):
    """Write what is logged in any process to one file."""


def test_workers_tell_once(tmp_path):
    rows_of(40, 40).save_to_disk(tmp_path / "rows")
    rows = Dataset.load_from_disk(tmp_path / "rows")
    handler = ToFile(tmp_path / "log")
    logger = logging.getLogger("hnm_datasets")
    logger.addHandler(handler)
    try:
        rows.map(RankWindow(50), batched=True, batch_size=5, num_proc=2)
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert (tmp_path / "log").read_text().count("lost all of them") == 1


# ---- one weak positive ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("against", ["min", "each"])
@pytest.mark.parametrize("kind", [RelativeMargin, AbsoluteMargin])
def test_one_weak_positive_is_told(kind, against, caplog):
    # Of these, the second keeps its candidates and the fourth has none below its highest positive either.
    positives = [[0.8, 0.1], [0.8, 0.7], [0.1], [0.3, 0.1]] + [[0.9]] * 6
    scores = [[0.6, 0.5]] * 4 + [[0.2, 0.1]] * 6
    batch = {"negative_ids": [["a", "b"]] * 10, "negative_scores": scores, "positive_scores": positives}
    rows = Dataset.from_dict(batch)
    rows.map(kind(0.05, against=against), batched=True)
    (message,) = caplog.messages
    assert message.startswith(
        f"{kind.__name__}: 1 of the 10 rows with candidates in this batch lost all of them to one weak"
    )
    for words in ("the lowest scores from 0.1 to 0.1", "the highest from 0.8 to 0.8", "against='max'"):
        assert words in message
    caplog.clear()
    for other in ("max", "mean"):
        rows.map(kind(0.05, against=other), batched=True)
    assert caplog.messages == []


# ---- sources and bands ----------------------------------------------------------------------------------------------


def test_sources_that_cannot_be_drawn_from_are_told(caplog):
    rows = {"query": [f"{i}?" for i in range(6)], "negative_ids": [list("abcdef")] * 6}
    rows["negative_bm25_ranks"] = [[1, 2, 3, 0, 0, 0]] * 6
    rows["negative_dense_ranks"] = [[0, 0, 0, 1, 0, 0]] * 4 + [[0, 0, 0, 1, 2, 3]] * 2
    Dataset.from_dict(rows).map(SampleNegatives({"bm25": 2, "dense": 3}), batched=True)
    (message,) = caplog.messages
    assert message.startswith(
        "SampleNegatives: 4 of the 6 rows with candidates in this batch have fewer than requested"
    )
    assert "2 of the source 'bm25' (they have from 3 to 3" in message
    assert "3 of the source 'dense' (they have from 1 to 1, 1 on average)" in message


def test_bands_that_cannot_be_drawn_from_are_told(caplog):
    rows = {"query": ["a?", "b?"], "negative_ids": [["a", "b"]] * 2, "negative_ranks": [[1, 2], [1, 3]]}
    Dataset.from_dict(rows).map(SampleNegatives({(1, 10): 1, (11, 100): 2}), batched=True)
    (message,) = caplog.messages
    assert "2 of the rank band 11 to 100 (they have from 0 to 0" in message


@pytest.mark.parametrize("step", [SampleNegatives(5), TopNegatives(5)])
def test_a_number_that_rows_do_not_have_is_theirs_to_keep(step, caplog):
    rows_of(5, 5).map(step, batched=True)
    assert caplog.messages == []
