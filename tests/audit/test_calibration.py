import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import (
    AbsoluteMargin,
    RelativeMargin,
    TeacherThreshold,
    TopNegatives,
    calibrate_margin,
    calibrate_threshold,
)


def mined(seed, queries=30, k=12):
    rng = np.random.default_rng(seed)
    rows = Dataset.from_dict(
        {
            "query_id": [f"q{i}" for i in range(queries)],
            "negative_ids": [[f"p{j}" for j in range(k)] for _ in range(queries)],
            "negative_scores": np.sort(rng.uniform(-0.2, 1, (queries, k)))[:, ::-1].tolist(),
            "positive_ids": [["x", "y"]] * queries,
            "positive_scores": rng.uniform(0.3, 0.9, (queries, 2)).tolist(),
        }
    )
    pairs = [(f"q{i}", f"p{j}") for i in range(queries) for j in range(k) if rng.random() < 0.5 / (1 + j)]
    judged = {"query_id": [q for q, _ in pairs], "corpus_id": [p for _, p in pairs], "score": [1] * len(pairs)}
    return rows, Dataset.from_dict(judged)


def rate(rows, judged, steps):
    """Return the share of relevant passages after some steps, and the number of passages."""
    relevant = set(zip(judged["query_id"], judged["corpus_id"], strict=True))
    batch = rows[:]
    for step in steps:
        batch = batch | dict(step(batch))
    lists = zip(batch["query_id"], batch["negative_ids"], strict=True)
    kept = [(query, passage) for query, passages in lists for passage in passages]
    return sum(pair in relevant for pair in kept) / max(1, len(kept)), len(kept)


SEEDS, TARGETS, FIRST = st.integers(0, 40), st.sampled_from([0.05, 0.1, 0.3]), st.sampled_from([None, 1, 3, 20])


def check_does_what_it_says(step, n, rows, judged, found, target):
    got, taken = rate(rows, judged, [step] if n is None else [step, TopNegatives(n)])
    assert got == pytest.approx(found.false_negative_rate)
    assert got <= target
    assert taken / (found.candidates if n is None else n * len(rows)) == pytest.approx(found.found)


@given(SEEDS, TARGETS, FIRST, st.booleans())
def test_the_margin_does_what_it_says(seed, target, n, relative):
    rows, judged = mined(seed)
    try:
        found = calibrate_margin(rows, judged, target, n=n, relative=relative)
    except ValueError as error:
        assert "no margin" in str(error)  # noqa: PT017
        return
    step = (RelativeMargin if relative else AbsoluteMargin)(found.value - 1e-9)
    check_does_what_it_says(step, n, rows, judged, found, target)


@given(SEEDS, TARGETS, FIRST)
def test_the_threshold_does_what_it_says(seed, target, n):
    rows, judged = mined(seed)
    try:
        found = calibrate_threshold(rows, judged, target, n=n, by="score")
    except ValueError as error:
        assert "no threshold" in str(error)  # noqa: PT017
        return
    check_does_what_it_says(TeacherThreshold(found.value, by="score"), n, rows, judged, found, target)


@given(SEEDS, TARGETS, st.sampled_from([None, 2]))
def test_no_higher_threshold_reaches_the_target(seed, target, n):
    rows, judged = mined(seed, queries=6, k=6)
    try:
        found = calibrate_threshold(rows, judged, target, n=n, by="score")
    except ValueError:
        return
    scores = sorted({score for scores in rows["negative_scores"] for score in scores})
    for higher in [score for score in scores if score >= found.value]:
        step = TeacherThreshold(np.nextafter(higher, 2), by="score")
        assert rate(rows, judged, [step] if n is None else [step, TopNegatives(n)])[0] > target


def test_the_first_negatives_are_false_more_often_than_all(caplog):
    rows, judged = mined(3)
    of_all = calibrate_margin(rows, judged, 0.2)
    assert "pass n=" in caplog.text
    assert calibrate_margin(rows, judged, 0.2, n=2).value > of_all.value


def test_unjudged_candidates_can_be_left_out():
    rows, _ = mined(1, queries=2, k=3)
    judged = Dataset.from_dict({"query_id": ["q0", "q0"], "corpus_id": ["p0", "p2"], "score": [1, 0]})
    assert calibrate_margin(rows, judged, 0.0, unjudged="skip").candidates == 2


def test_judgments_without_their_columns_are_refused():
    rows, _ = mined(1, queries=2, k=3)
    with pytest.raises(KeyError, match=r"judgments need the columns \['corpus_id', 'score'\]"):
        calibrate_margin(rows, rows)


def test_what_cannot_be_reached_is_told():
    rows, _ = mined(1, queries=1, k=2)
    judged = Dataset.from_dict({"query_id": ["q0", "q0"], "corpus_id": ["p0", "p1"], "score": [1, 1]})
    with pytest.raises(ValueError, match=r"the lowest is 1\.000"):
        calibrate_margin(rows, judged, 0.1)
    other = Dataset.from_dict({"query_id": ["z"], "corpus_id": ["p0"], "score": [1]})
    with pytest.raises(ValueError, match="none of the candidates is judged"):
        calibrate_margin(rows, other, unjudged="skip")
