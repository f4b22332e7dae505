import math

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import RankWindow, ScoreBand

LISTS = st.lists(st.lists(st.integers(1, 40), unique=True, max_size=12).map(sorted), min_size=1, max_size=6)


def batch_of(ranks):
    return {
        "query": [f"q{i}" for i in range(len(ranks))],
        "negative_ids": [[f"p{i}-{r}" for r in row] for i, row in enumerate(ranks)],
        "negative_ranks": ranks,
        "negative_scores": [[100.0 - r for r in row] for row in ranks],
        "negative_teacher_scores": [[float(r % 5) for r in row] for row in ranks],
    }


@given(LISTS, st.integers(1, 20), st.one_of(st.none(), st.integers(0, 30)))
def test_rank_window_keeps_just_the_window(ranks, low, width):
    high = None if width is None else low + width
    answer = RankWindow(low, high)(batch_of(ranks))
    wanted = [[r for r in row if low <= r <= (math.inf if high is None else high)] for row in ranks]
    assert answer["negative_ranks"] == wanted
    assert answer["negative_ids"] == [[f"p{i}-{r}" for r in row] for i, row in enumerate(wanted)]
    assert answer["negative_scores"] == [[100.0 - r for r in row] for row in wanted]


@given(LISTS, st.integers(60, 100), st.integers(0, 20))
def test_score_band_keeps_just_the_band(ranks, low, width):
    step = ScoreBand(min=low, max=low + width, by="score")
    wanted = [[r for r in row if low <= 100 - r <= low + width] for row in ranks]
    assert step(batch_of(ranks))["negative_ranks"] == wanted
    # Without a teacher's scores, the retriever's need not be named.
    batch = {name: column for name, column in batch_of(ranks).items() if name != "negative_teacher_scores"}
    assert ScoreBand(min=low, max=low + width)(batch) == step(batch)


@given(LISTS, st.lists(st.integers(1, 40), min_size=4, max_size=4).map(sorted))
def test_a_wider_window_keeps_no_fewer(ranks, ends):
    outer, low, high, last = ends
    narrow, wide = (RankWindow(*window)(batch_of(ranks))["negative_ranks"] for window in ((low, high), (outer, last)))
    assert narrow == [[r for r in row if low <= r <= high] for row in wide]


FLOATS = st.floats(-100, 100, width=32)


@given(st.lists(FLOATS, max_size=12), st.lists(FLOATS, min_size=4, max_size=4).map(sorted), st.sampled_from([1, 2, 3]))
def test_a_wider_band_keeps_no_fewer(scores, ends, sides):
    outer, low, high, last = ends
    rows = {"query": ["?"], "negative_ids": [[str(s) for s in scores]], "negative_judge_scores": [scores]}

    def kept(low, high):
        limits = {"min": low if sides & 1 else None, "max": high if sides & 2 else None}
        (answer,) = ScoreBand(**limits, by="judge")(rows)["negative_judge_scores"]
        assert answer == [s for s in scores if (not sides & 1 or s >= low) and (not sides & 2 or s <= high)]
        return answer

    assert set(kept(low, high)) <= set(kept(outer, last))


def test_score_band_by_teacher():
    for step in (ScoreBand(max=1, by="teacher"), ScoreBand(max=1)):
        answer = step(batch_of([[4, 5, 6, 10]]))
        assert answer["negative_ranks"] == [[5, 6, 10]]


def test_bad_options():
    with pytest.raises(ValueError, match="RankWindow: min must be a whole number of at least 1, got 0"):
        RankWindow(0)
    with pytest.raises(TypeError, match="RankWindow: min must be a whole number"):
        RankWindow(1.5)
    with pytest.raises(ValueError, match="max must be a whole number of at least 1, got 0"):
        RankWindow(max=0)
    with pytest.raises(ValueError, match="window from 5 to 3 is empty; max must be at least min"):
        RankWindow(5, 3)
    with pytest.raises(ValueError, match="pass min, max or both"):
        ScoreBand()
    with pytest.raises(ValueError, match="band from 2 to 1 is empty"):
        ScoreBand(min=2, max=1)
    with pytest.raises(ValueError, match="finite"):
        ScoreBand(min=float("nan"))
    with pytest.raises(TypeError, match="max must be a number"):
        ScoreBand(max="high")
    for by in (3, ""):
        with pytest.raises(TypeError, match=r"ScoreBand: by must be 'score' .*, a teacher's name or None, got"):
            ScoreBand(max=1, by=by)


def test_a_teacher_that_nobody_ran_is_named():
    rows = {"query": ["?"], "negative_ids": [["a"]], "positive_ids": [["b"]]}
    with pytest.raises(KeyError, match=r"'negative_nosuchteacher_scores'.*score first.*name='nosuchteacher'"):
        ScoreBand(min=0, by="nosuchteacher")(rows)


def test_bad_rows_are_named():
    rows = {"query_id": ["q7"], "negative_ids": [["a", "b"]], "negative_scores": [[1.0, math.nan]]}
    with pytest.raises(ValueError, match=r"'negative_scores' holds a NaN in the row with query_id 'q7'"):
        ScoreBand(min=0)(rows)
    with pytest.raises(ValueError, match=r"must be aligned, but in the row with query_id 'q7' they have 2 and 1"):
        ScoreBand(min=0)(rows | {"negative_scores": [[1.0]]})
    with pytest.raises(KeyError, match=r"needs the column 'negative_ranks'.*mine first"):
        RankWindow(2)(rows)
    with pytest.raises(TypeError, match="must be lists of numbers"):
        ScoreBand(min=0)(rows | {"negative_scores": [["high", "low"]]})
    with pytest.raises(TypeError, match="must hold lists"):
        RankWindow(2)(rows | {"negative_ranks": [3]})
    with pytest.raises(TypeError, match=r"batched=True"):
        RankWindow(2)({"negative_ids": "a", "negative_ranks": 1})
    with pytest.raises(TypeError, match=r"takes a batch of rows"):
        RankWindow(2)([1, 2])


def test_a_null_list_counts_as_empty():
    rows = Dataset.from_dict({"negative_ids": [["a"], None], "negative_ranks": [[3], None]})
    assert rows.map(RankWindow(2), batched=True)["negative_ids"][:] == [["a"], []]


def test_options_are_made_plain():
    assert RankWindow(np.int64(2)) == RankWindow(2)
    assert type(RankWindow(np.int64(2)).min) is int
    assert repr(ScoreBand(min=np.float32(1))) == "ScoreBand(min=1.0, max=None, by=None)"
