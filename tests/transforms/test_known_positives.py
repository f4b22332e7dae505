"""No known positive is a negative of a training row, whoever made the candidates; what is not known stays."""

import logging

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import IDS, corpus_of_copies, family, planted_rows

from hnm_datasets import (
    BM25Negatives,
    DropKnownPositives,
    ToLabeledLists,
    ToLabeledPairs,
    ToNTuples,
    TopNegatives,
    ToTriplets,
)
from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.transforms.known import are_known, sorted_lists

SHAPES = [ToTriplets, ToNTuples, ToLabeledPairs, ToLabeledLists]


@pytest.fixture(scope="module")
def corpus():
    return corpus_of_copies()


def negatives_of(step, columns):
    """The ids of the negatives that a shape makes of one row, by its positive; None for a gap."""
    batch = {name: [value] for name, value in columns.items()}
    out = step(batch)
    size = len(out["anchor"])
    if isinstance(step, ToTriplets):
        found = {}
        for positive, negative in zip(out["positive_id"], out["negative_id"], strict=True):
            found.setdefault(positive, []).append(negative)
        return found
    if isinstance(step, ToNTuples):
        return {out["positive_id"][i]: [out[f"negative_{k + 1}_id"][i] for k in range(step.n)] for i in range(size)}
    if isinstance(step, ToLabeledPairs):
        pairs = zip(out["passage_id"], out["label"], strict=True)
        return {None: [name for name, label in pairs if label == 0]}
    lists = zip(out["passage_ids"], out["labels"], strict=True)
    return {None: [name for ids, labels in lists for name, label in zip(ids, labels, strict=True) if label == 0]}


@pytest.mark.parametrize("kind", SHAPES)
@settings(max_examples=25)
@given(planted=planted_rows(), n=st.sampled_from([None, 1, 2, 4]))
def test_a_shape_leaves_out_what_is_known_and_nothing_else(corpus, kind, planted, n):
    n = 3 if kind is ToNTuples and n is None else n
    step = kind(corpus, n=n, missing="keep", with_ids=True)
    for row, kept in enumerate(planted.kept):
        columns = {name: values[row] for name, values in planted.columns.items()}
        expected = kept if n is None else kept[:n]
        if kind is ToNTuples:
            expected = expected + [None] * (n - len(expected))
        if kind is ToTriplets:
            expected = expected or [None]
        positives = columns["positive_ids"] if kind in (ToTriplets, ToNTuples) else [None]
        assert negatives_of(step, columns) == dict.fromkeys(positives or [None], expected)


@pytest.mark.parametrize("kind", SHAPES)
@settings(max_examples=10)
@given(planted=planted_rows())
def test_a_batch_is_shaped_as_its_rows_are(corpus, kind, planted):
    step = kind(corpus, n=2, missing="pad", with_ids=True)
    whole = step(dict(planted.columns))
    rows = [step({name: [values[row]] for name, values in planted.columns.items()}) for row in range(len(planted.kept))]
    names = [name for name in rows[0] if name not in planted.columns]
    assert {name: whole[name] for name in names} == {name: [v for one in rows for v in one[name]] for name in names}


@settings(max_examples=25)
@given(planted=planted_rows())
def test_the_step_drops_what_is_known_from_all_aligned_columns(corpus, planted):
    tags = [[f"tag of {name}" for name in names] for names in planted.columns["negative_ids"]]
    out = DropKnownPositives(corpus)(planted.columns | {"negative_tags": tags})
    assert out["negative_ids"] == planted.kept
    assert out["negative_tags"] == [[f"tag of {name}" for name in names] for names in planted.kept]


def test_miners_return_nothing_that_the_step_would_drop(corpus):
    rows = {
        "query": ["text of all 3", "zoo text"],
        "positive_ids": [["f3v0"], ["f1v2"]],
        "known_positive_ids": [["f0v3"], []],
    }
    mined = rows | BM25Negatives(corpus, k=20)(rows)
    assert all(mined["negative_ids"])
    assert DropKnownPositives(corpus)(mined)["negative_ids"] == mined["negative_ids"]


ROW = {"query": ["why?"], "positive_ids": [["f0v0"]], "negative_ids": [["f0v2", "f1v0", "f0v0", "f2v1", "f3v0"]]}


@pytest.mark.parametrize("kind", SHAPES)
def test_what_is_left_out_is_told_once_with_counts(corpus, kind, caplog):
    rows = Dataset.from_dict({name: values * 4 for name, values in ROW.items()})
    with caplog.at_level(logging.WARNING):
        rows.map(kind(corpus, n=2), batched=True, batch_size=2, remove_columns=rows.column_names)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert f"{kind.__name__}: removed 4 candidates in 2 of the 2 rows of this batch, because they are" in told[0]
    assert "DropKnownPositives(corpus)" in told[0]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        rows.map(DropKnownPositives(corpus), batched=True).map(kind(corpus, n=2), batched=True)
    assert not caplog.records


def test_others_take_the_place_of_what_is_left_out_and_gaps_are_as_they_were(corpus, caplog):
    assert ToNTuples(corpus, n=3, with_ids=True)(ROW)["negative_3_id"] == ["f3v0"]
    assert ToNTuples(corpus, n=4, missing="drop")(ROW)["anchor"] == []
    assert ToNTuples(corpus, n=4, missing="keep")(ROW)["negative_4"] == [None]
    assert ToNTuples(corpus, n=4, missing="pad", with_ids=True)(ROW)["negative_4_id"] == ["f1v0"]
    with pytest.raises(ValueError, match="has 3 negatives and 1 positive, too few for 4 negatives"):
        ToNTuples(corpus, n=4, missing="error")(ROW)
    top = ROW | TopNegatives(2)(ROW)
    assert ToNTuples(corpus, n=2, missing="keep", with_ids=True)(top)["negative_2_id"] == [None]


def test_scores_and_labels_are_those_of_the_negatives_that_stay(corpus):
    scored = ROW | {"positive_scores": [[9.0]], "negative_scores": [[8.0, 7.0, 9.0, 6.0, 5.0]]}
    out = ToNTuples(corpus, n=3, with_scores=True, labels="margins", by="score")(scored)
    assert [out[f"negative_{place}_score"] for place in (1, 2, 3)] == [[7.0], [6.0], [5.0]]
    assert out["label"] == [[2.0, 3.0, 4.0]]
    lists = ToLabeledLists(corpus, labels="scores", by="score", with_ids=True)(scored)
    assert lists["passage_ids"] == [["f0v0", "f1v0", "f2v1", "f3v0"]]


def test_a_row_whose_only_candidates_are_known_is_left_out(corpus):
    rows = {"query": ["why?", "how?"], "positive_ids": [["f0v0"]] * 2, "negative_ids": [["f0v1", "f0v0"], ["f1v1"]]}
    assert ToTriplets(corpus)(rows)["anchor"] == ["how?"]
    assert ToTriplets(corpus, missing="keep")(rows)["negative"] == [None, corpus["f1v1"]["text"]]


def test_the_step_names_ids_and_options_that_are_wrong(corpus):
    with pytest.raises(TypeError, match="DropKnownPositives: corpus must be a Corpus, got str"):
        DropKnownPositives("corpus")
    for column in ("positive_ids", "negative_ids"):
        with pytest.raises(KeyError, match=f"'{column}' of the row with query 'why\\?' names the passage 'x'"):
            DropKnownPositives(corpus)(ROW | {column: [["x"]]})


@pytest.mark.parametrize("kind", SHAPES)
def test_an_unknown_positive_that_no_row_needs_makes_nothing_known(corpus, kind):
    """Its lack of a row number must not be that of another passage."""
    last = IDS[-1]
    rows = {"query": ["why?"], "positive_ids": [["f0v0", "x"]], "negative_ids": [[last, "f1v0"]]}
    step = kind(corpus, n=1, positives="first", with_ids=True)
    assert negatives_of(step, {name: values[0] for name, values in rows.items()}) in (
        {"f0v0": [last]},
        {None: [last]},
    )


@given(st.lists(st.lists(st.integers(-1, 40), max_size=6), max_size=5))
def test_sorted_lists_and_what_they_hold(lists):
    ragged = Ragged(
        offsets_of(np.array(list(map(len, lists)), dtype=np.int64)),
        np.array([one for own in lists for one in own], dtype=np.int64),
    )
    ascending = sorted_lists(ragged)
    assert [part.tolist() for part in np.split(ascending.values, ascending.offsets[1:-1])][: len(lists)] == [
        sorted(one) for one in lists
    ]
    owners = np.repeat(np.arange(len(lists)), 42)
    codes = np.tile(np.arange(-1, 41), len(lists))
    assert are_known(ascending, owners, codes).tolist() == [code in one for one in lists for code in range(-1, 41)]


def test_families_are_copies(corpus):
    codes = corpus.copy_codes[corpus.rows(IDS)]
    assert len(set(codes.tolist())) == len({family(name) for name in IDS})


def test_rows_of_known_positives_alone_are_told(corpus, caplog):
    with caplog.at_level(logging.WARNING):
        DropKnownPositives(corpus)(ROW | {"negative_ids": [["f0v0", "f0v3"]]})
    assert "all their candidates are known positives of the question or copies of one" in caplog.text
