"""Sorting: the highest score first, ties in their order, all aligned columns alike."""

import math

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import SortNegatives

LISTS = st.lists(st.lists(st.integers(-3, 3).map(float), max_size=10), min_size=1, max_size=6)


def batch_of(scores, name="negative_teacher_scores"):
    return {
        "query": [f"q{i}" for i in range(len(scores))],
        "negative_ids": [[f"p{i}-{j}" for j in range(len(row))] for i, row in enumerate(scores)],
        "negative_ranks": [[j + 1 for j in range(len(row))] for row in scores],
        "negative_tags": [[f"tag {j}" for j in range(len(row))] for row in scores],
        name: scores,
    }


@given(LISTS, st.sampled_from(["score", "teacher"]))
def test_the_highest_comes_first_and_ties_stay_in_order(scores, by):
    name = "negative_scores" if by == "score" else "negative_teacher_scores"
    answer = SortNegatives(by)(batch_of(scores, name))
    order = [sorted(range(len(row)), key=lambda j, row=row: -row[j]) for row in scores]
    assert answer["negative_ids"] == [[f"p{i}-{j}" for j in row] for i, row in enumerate(order)]
    assert answer["negative_ranks"] == [[j + 1 for j in row] for row in order]
    assert answer["negative_tags"] == [[f"tag {j}" for j in row] for row in order]
    assert answer[name] == [[own[j] for j in row] for own, row in zip(scores, order, strict=True)]
    assert "query" not in answer


def test_infinite_and_whole_scores_are_sorted():
    assert SortNegatives()(batch_of([[0.0, math.inf, -math.inf]]))["negative_tags"] == [["tag 1", "tag 0", "tag 2"]]
    assert SortNegatives()(batch_of([[2**53, 2**53 - 1, 7]]))["negative_teacher_scores"] == [[2**53, 2**53 - 1, 7]]


def test_the_teacher_is_the_default_and_null_lists_count_as_empty():
    rows = Dataset.from_dict({"negative_ids": [["a", "b"], None], "negative_teacher_scores": [[1.0, 2.0], None]})
    assert rows.map(SortNegatives(), batched=True)["negative_ids"][:] == [["b", "a"], []]


def test_bad_rows_and_options():
    batch = batch_of([[1.0, 2.0]])
    with pytest.raises(KeyError, match=r"'negative_judge_scores'.*score first.*name='judge'"):
        SortNegatives("judge")(batch)
    with pytest.raises(KeyError, match=r"'negative_scores'.*by='teacher'"):
        SortNegatives("score")(batch)
    with pytest.raises(ValueError, match="holds a NaN in the row with query 'q0'"):
        SortNegatives()(batch | {"negative_teacher_scores": [[1.0, math.nan]]})
    with pytest.raises(ValueError, match="must be aligned"):
        SortNegatives()(batch | {"negative_teacher_scores": [[1.0]]})
    with pytest.raises(TypeError, match="a teacher's name or None, got 3"):
        SortNegatives(3)
