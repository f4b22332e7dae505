"""The rows of a pilot: no question is on both sides, enough are held out, and their order changes nothing."""

import logging

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import BM25Negatives
from hnm_datasets.corpus.text import normal_text
from hnm_datasets.piloting import split as module
from hnm_datasets.piloting.split import searched_passages, split_rows

FORMS = [str, str.upper, lambda text: f"  {text} ", lambda text: text.replace(" ", "\t")]


def rows_of(numbers, rng=None):
    """A row for each number of a question, in one of its forms."""
    rng = rng or np.random.default_rng(0)
    forms = [FORMS[at] for at in rng.integers(0, len(FORMS), len(numbers))]
    return Dataset.from_dict(
        {
            "query": [form(f"what is question {number}?") for form, number in zip(forms, numbers, strict=True)],
            "positive_ids": [[f"p{at}" for at in rng.integers(0, 100, rng.integers(1, 3))] for _ in numbers],
        }
    )


def questions(rows):
    return {normal_text(query) for query in rows["query"]}


@settings(max_examples=20)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(40, 80),
    st.integers(20, 70),
    st.sampled_from([1, 30, 50, 70]),
    st.integers(20, 40),
)
def test_no_question_is_on_both_sides(tiny, seed, distinct, sample, trained, held_out):
    rng = np.random.default_rng(seed)
    numbers = [*range(distinct), *rng.choice(distinct, rng.integers(0, 100), p=rng.dirichlet(np.full(distinct, 0.1)))]
    rows = rows_of(rng.permutation(numbers).tolist(), rng)
    split = split_rows(rows, tiny[0], sample, trained, held_out, seed % 7)
    assert not questions(split.trained) & questions(split.held_out)
    assert 1 <= len(split.sample) <= sample
    assert len(split.sample) <= len(split.trained) <= max(sample, trained)
    # What is mined is trained on.
    assert split.trained[: len(split.sample)] == split.sample[:]
    # Each question that is held out is asked once.
    assert 20 <= len(split.held_out) <= held_out
    assert len(questions(split.held_out)) == len(split.held_out)
    assert len(split.rows) == len(rows)
    assert questions(split.trained) | questions(split.held_out) <= questions(rows)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_rows_changes_nothing(tiny, seed):
    rng = np.random.default_rng(seed)
    rows = rows_of([*range(45), *rng.choice(45, 20)], rng)
    other = rows.select(rng.permutation(len(rows)))
    one, two = (split_rows(each, tiny[0], 30, 30, 20, 3) for each in (rows, other))
    for first, second in zip(one, two, strict=True):
        assert (first is None) == (second is None)
        if first is not None:
            assert first[:] == second[:]


def test_another_seed_draws_others(tiny):
    one, two = (split_rows(tiny[1], tiny[0], 30, 30, 30, seed) for seed in (0, 1))
    assert set(one.sample["query"]) != set(two.sample["query"])


def test_what_other_rows_know_of_a_question_is_relevant_too(tiny):
    corpus, rows = tiny
    twice = Dataset.from_list(
        [*rows, {"query_id": "again", "query": rows[3]["query"].upper(), "positive_ids": ["p100"]}]
    )
    for seed in range(10):
        held = split_rows(twice, corpus, 20, 20, 40, seed).held_out
        known = {
            query.lower(): {*own, *more}
            for query, own, more in zip(held["query"], held["positive_ids"], held["known_positive_ids"], strict=True)
        }
        if (query := rows[3]["query"]) in known:
            assert known[query] == {"p3", "p100"}
            return
    pytest.fail("it was never held out")


def test_too_few_questions_are_an_error_that_says_how_many_would_do(tiny):
    corpus, rows = tiny
    empty = [*rows.select(range(39)), {"query_id": "q", "query": "empty?", "positive_ids": []}]
    with pytest.raises(ValueError, match=r"39 of 40 rows .*39 different questions.*at least 40: 20 to mine and 20 to"):
        split_rows(Dataset.from_list(empty), corpus, 30, 30, 30, 0)
    split = split_rows(Dataset.from_list(empty), corpus, 30, 0, 30, 0)
    assert (len(split.rows), len(split.sample), len(split.held_out)) == (39, 30, 0)
    with pytest.raises(ValueError, match=r"19 of 19 rows .*at least 20: 20 to mine\. Add positives"):
        split_rows(rows.select(range(19)), corpus, 30, 0, 30, 0)
    # Many rows of few questions.
    with pytest.raises(ValueError, match=r"200 of 200 rows have a positive, with 39 different questions"):
        split_rows(rows_of([at % 39 for at in range(200)]), corpus, 30, 30, 30, 0)


def test_half_of_the_questions_are_left_to_measure_with(tiny):
    corpus, rows = tiny
    split = split_rows(rows, corpus, 500, 500, 1000, 0)
    assert (len(split.sample), len(split.held_out)) == (30, 30)
    # One question in most of the rows.
    many = rows_of([*range(40), *[0] * 500])
    for seed in range(5):
        split = split_rows(many, corpus, 100, 100, 1000, seed)
        assert len(split.held_out) >= 20
        assert len(split.sample) <= 100


def test_columns_and_positives_that_are_missing_are_named(tiny):
    corpus, rows = tiny
    with pytest.raises(KeyError, match="positive_ids"):
        split_rows(rows.remove_columns("positive_ids"), corpus, 30, 30, 30, 0)
    with pytest.raises(KeyError, match="'query'"):
        split_rows(rows.remove_columns("query"), corpus, 30, 30, 30, 0)
    lacking = Dataset.from_list([*rows, {"query_id": "q60", "query": "lacking?", "positive_ids": ["p999"]}])
    with pytest.raises(KeyError, match="'p999'"):
        split_rows(lacking, corpus, 30, 30, 30, 0)


def test_what_was_mined_before_is_left_out(tiny, caplog):
    corpus, rows = tiny
    mined = rows.map(BM25Negatives(corpus, k=3), batched=True)
    assert {"negative_ids", "positive_scores"} < set(mined.column_names)
    with caplog.at_level(logging.WARNING):
        split = split_rows(mined, corpus, 30, 30, 30, 0)
    assert "mined before" in caplog.text
    assert set(split.sample.column_names) == set(rows.column_names)
    assert split.sample[:] == split_rows(rows, corpus, 30, 30, 30, 0).sample[:]


def test_hidden_positives_are_those_of_rows_with_several(tiny):
    corpus, rows = tiny
    assert split_rows(rows, corpus, 30, 30, 30, 0).hidden is None
    several = [row | {"positive_ids": [f"p{at}", f"p{at + 60}"]} for at, row in enumerate(rows) if at < 25]
    split = split_rows(Dataset.from_list([*several, *rows.select(range(25, 60))]), corpus, 30, 30, 30, 0)
    assert set(split.hidden["query_id"]) == {f"q{at}" for at in range(25)}
    assert {len(one) for one in split.hidden["positive_ids"]} == {1}
    assert {len(one) for one in split.judgments["positive_ids"]} == {2}


def test_of_a_large_corpus_relevant_and_some_other_passages_are_searched(tiny, monkeypatch):
    corpus, rows = tiny
    split = split_rows(rows, corpus, 30, 30, 30, 0)
    assert searched_passages(split, corpus, 0).tolist() == list(range(120))
    monkeypatch.setattr(module, "_SEARCHED", 20)
    found = searched_passages(split, corpus, 0)
    relevant = corpus.find([one for (one,) in split.held_out["positive_ids"]])
    assert set(relevant.tolist()) <= set(found.tolist())
    assert len(relevant) < len(found) <= len(relevant) + 20
    assert (np.diff(found) > 0).all()
    assert searched_passages(split, corpus, 1).tolist() != found.tolist()
