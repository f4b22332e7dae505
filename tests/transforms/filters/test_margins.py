"""Margins: what is too near a positive is dropped, written out in plain Python."""

import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import AbsoluteMargin, RelativeMargin

MARGINS = [AbsoluteMargin, RelativeMargin]
AGAINST = ["min", "max", "mean", "each"]
# Quarters: sums, products and differences of them are exact in floating point.
QUARTERS = st.integers(-24, 24).map(lambda number: number / 4)
SCORES = st.lists(QUARTERS, max_size=5)
ROWS = st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=6)


def batch_of(rows, teacher=""):
    return {
        "query": [f"q{i}" for i in range(len(rows))],
        "positive_ids": [[f"p{i}-{j}" for j in range(len(positives))] for i, (positives, _) in enumerate(rows)],
        "negative_ids": [[f"n{i}-{j}" for j in range(len(negatives))] for i, (_, negatives) in enumerate(rows)],
        f"positive{teacher}_scores": [positives for positives, _ in rows],
        f"negative{teacher}_scores": [negatives for _, negatives in rows],
        "negative_ranks": [list(range(1, len(negatives) + 1)) for _, negatives in rows],
    }


def limit(step, positives):
    def below(score):
        share = abs(score) * Fraction(step.margin) if isinstance(step, RelativeMargin) else Fraction(step.margin)
        return score - share

    positives = [Fraction(score) for score in positives]
    if not positives:
        return math.inf
    if step.against == "each":
        return min(below(score) for score in positives)
    mean = sum(positives) / len(positives)
    return below({"min": min(positives), "max": max(positives), "mean": mean}[step.against])


@given(
    ROWS,
    st.sampled_from(MARGINS),
    st.sampled_from([0, 0.25, 0.5, 1, 2, -0.5]),
    st.sampled_from(AGAINST),
    st.sampled_from(["score", "teacher"]),
)
def test_margins_keep_what_is_below_the_limit(rows, kind, margin, against, by):
    if against == "mean":
        # No mean of quarters comes near these scores, so that rounding decides nothing.
        rows = [(positives, [score + 1 / 1024 for score in negatives]) for positives, negatives in rows]
    step = kind(margin, by=by, against=against)
    answer = step(batch_of(rows, "" if by == "score" else "_teacher"))
    kept = [
        [j for j, score in enumerate(negatives) if score <= limit(step, positives)] for positives, negatives in rows
    ]
    assert answer["negative_ids"] == [[f"n{i}-{j}" for j in row] for i, row in enumerate(kept)]
    assert answer["negative_ranks"] == [[j + 1 for j in row] for row in kept]
    scores = answer["negative_scores" if by == "score" else "negative_teacher_scores"]
    assert scores == [[negatives[j] for j in row] for row, (_, negatives) in zip(kept, rows, strict=True)]


FLOATS = st.floats(-10, 10, width=32)


@given(
    st.lists(st.tuples(st.lists(FLOATS, max_size=3), st.lists(FLOATS, max_size=6)), min_size=1, max_size=3),
    st.lists(st.floats(-1, 3), min_size=2, max_size=2).map(sorted),
    st.sampled_from(MARGINS),
    st.sampled_from(AGAINST),
    st.booleans(),
)
def test_a_wider_margin_keeps_no_more(rows, margins, kind, against, single):
    batch = batch_of(rows, "_teacher")
    batch = Dataset.from_dict(batch).with_format("numpy", dtype=np.float32)[:] if single else batch
    many, few = (kind(margin, by="teacher", against=against)(batch)["negative_ids"] for margin in margins)
    assert all(set(a) <= set(b) for a, b in zip(few, many, strict=True))


@given(ROWS, st.sampled_from(MARGINS), st.sampled_from(AGAINST))
def test_the_teachers_scores_are_taken_where_there_are_any(rows, kind, against):
    # The retriever's scores are the teacher's in reverse.
    retrieved = [([-score for score in positives], [-score for score in negatives]) for positives, negatives in rows]
    both = batch_of(retrieved) | batch_of(rows, "_teacher")
    assert kind(0.5, against=against)(both) == kind(0.5, by="teacher", against=against)(both)
    alone = batch_of(rows) | {"positive_teacher_scores": [[0.5]] * len(rows)}
    assert kind(0.5, against=against)(alone) == kind(0.5, by="score", against=against)(alone)


@pytest.mark.parametrize("kind", MARGINS)
@pytest.mark.parametrize("against", AGAINST)
def test_a_margin_of_zero_keeps_what_scores_no_higher_than_the_positive(kind, against):
    scores = [0.1, 0.3, 0.7, 0.9, -0.9]
    answer = kind(0, against=against)(batch_of([([score], [score]) for score in scores]))
    assert answer["negative_scores"] == [[score] for score in scores]


@pytest.mark.parametrize("kind", MARGINS)
def test_single_precision_scores_are_compared_as_they_are(kind):
    below, at, above = np.nextafter(np.float32(0.9), np.float32([0, 0.9, 1]), dtype=np.float32).tolist()
    rows = Dataset.from_dict(batch_of([([at], [above, at, below])]))
    assert rows.map(kind(0), batched=True)["negative_ids"][:] == [["n0-1", "n0-2"]]


@pytest.mark.parametrize("against", AGAINST)
def test_the_relative_limit_lies_below_a_negative_positive_score(against):
    answer = RelativeMargin(0.5, against=against)(batch_of([([-4.0], [-2.0, -4.0, -5.75, -6.0, -7.0])]))
    assert answer["negative_scores"] == [[-6.0, -7.0]]


def test_each_positive_is_kept_clear_of():
    batch = batch_of([([1.0, 10.0], [0.5, -5.0, -11.0, -19.0])])
    # Twice the score below it: -1 for the lower positive, -10 for the higher one.
    assert RelativeMargin(2, against="min")(batch)["negative_scores"] == [[-5.0, -11.0, -19.0]]
    assert RelativeMargin(2, against="each")(batch)["negative_scores"] == [[-11.0, -19.0]]


def test_a_row_without_positives_keeps_all_its_candidates():
    batch = batch_of([([], [5.0, -5.0]), ([1.0], [5.0, -5.0]), ([], [])])
    for kind in MARGINS:
        for against in AGAINST:
            answer = kind(0.5, against=against)(batch)
            assert answer["negative_ids"] == [["n0-0", "n0-1"], ["n1-1"], []]


@pytest.mark.parametrize("kind", MARGINS)
def test_bad_rows_are_named(kind):
    batch = batch_of([([1.0, 2.0], [0.5])])
    with pytest.raises(
        ValueError,
        match=r"'positive_ids' and 'positive_scores' must be aligned, but in the row with query 'q0'.*2 and 1",
    ):
        kind(0.1)(batch | {"positive_scores": [[1.0]]})
    with pytest.raises(ValueError, match=r"'negative_ids' and 'negative_scores' must be aligned.*1 and 2"):
        kind(0.1)(batch | {"negative_scores": [[1.0, 2.0]]})
    with pytest.raises(ValueError, match=r"'positive_scores' holds a NaN in the row with query 'q0'"):
        kind(0.1)(batch | {"positive_scores": [[1.0, math.nan]]})
    with pytest.raises(ValueError, match=r"'negative_scores' holds a NaN in the row with query 'q0'"):
        kind(0.1)(batch | {"negative_scores": [[math.nan]]})
    with pytest.raises(ValueError, match=r"'positive_scores' holds a null"):
        kind(0.1)(batch | {"positive_scores": [[1.0, None]]})


@pytest.mark.parametrize("kind", MARGINS)
def test_a_missing_teacher_column_says_to_score_first(kind):
    batch = batch_of([([1.0], [0.5])])
    with pytest.raises(
        KeyError, match=r"'negative_teacher_scores'.*score first.*CrossEncoderScores\(corpus, model, name='teacher'\)"
    ):
        kind(0.1, by="teacher")(batch)
    with pytest.raises(KeyError, match=r"'positive_teacher_scores'.*score first.*name='teacher'"):
        kind(0.1)(batch | {"negative_teacher_scores": [[0.5]]})
    with pytest.raises(KeyError, match=r"'positive_judge_scores'.*score first.*name='judge'"):
        kind(0.1, by="judge")(batch | {"negative_judge_scores": [[0.5]]})
    del batch["positive_scores"]
    with pytest.raises(KeyError, match=r"'positive_scores'.*mine first"):
        kind(0.1)(batch)


@pytest.mark.parametrize("kind", MARGINS)
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"margin": math.nan}, ValueError, "margin must be a finite number"),
        ({"margin": math.inf}, ValueError, "margin must be a finite number"),
        ({"margin": "wide"}, TypeError, "margin must be a number, got 'wide'"),
        ({"margin": True}, ValueError, "margin must be a finite number"),
        (
            {"margin": 0.1, "against": "median"},
            ValueError,
            "against must be one of 'min', 'max', 'mean', 'each', got 'med",
        ),
        (
            {"margin": 0.1, "by": 3},
            TypeError,
            r"by must be 'score' \(the retriever's\), a teacher's name or None, got 3",
        ),
        ({"margin": 0.1, "by": ""}, TypeError, "by must be 'score' .*got ''"),
    ],
)
def test_options_are_checked(kind, options, error, match):
    with pytest.raises(error, match=f"{kind.__name__}: {match}"):
        kind(**options)


def test_options_are_made_plain():
    assert AbsoluteMargin(np.float32(0.5)) == AbsoluteMargin(0.5)
    assert type(RelativeMargin(1).margin) is float


@pytest.mark.parametrize("kind", MARGINS)
def test_one_weak_positive_does_not_empty_a_row(kind):
    batch = batch_of([([0.75, 0.0], [1.0, 0.5, 0.25])])
    assert (
        kind(0.125)(batch)["negative_scores"] == kind(0.125, against="max")(batch)["negative_scores"] == [[0.5, 0.25]]
    )
    assert kind(0.125, against="min")(batch)["negative_scores"] == [[]]


@pytest.mark.parametrize("step", [AbsoluteMargin(0.1), RelativeMargin(0.1)])
@pytest.mark.parametrize("score", [math.inf, -math.inf])
def test_an_infinite_positive_score_is_refused(step, score):
    name = type(step).__name__
    with pytest.raises(ValueError, match=f"^{name}: the column 'positive_scores' holds an infinite score.*query 'q1'"):
        step(batch_of([([0.5], [0.1]), ([0.5, score], [0.1])]))


@pytest.mark.parametrize("step", [AbsoluteMargin(0.1), RelativeMargin(0.1)])
def test_a_typed_table_without_rows_is_answered_by_one(step):
    full = pa.table(batch_of([([0.5], [0.1])]))
    answer = step(full.slice(0, 0))
    assert len(answer["negative_ids"]) == 0
