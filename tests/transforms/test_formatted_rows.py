"""In `map`, rows of every format get the answer of plain rows, and `remove_columns` removes what it names."""

from dataclasses import replace

import pyarrow as pa
import pytest
from datasets import Dataset

from hnm_datasets import (
    BM25Negatives,
    Corpus,
    RankWindow,
    SortNegatives,
    ToLabeledLists,
    ToLabeledPairs,
    ToNTuples,
    TopNegatives,
    ToTriplets,
)
from hnm_datasets.batch import Batch

FORMATS = ["arrow", "numpy", "pandas", "polars", "torch"]
ROWS = Dataset.from_dict(
    {
        "query_id": [f"q{number}" for number in range(6)],
        "query": [f"what are plates {number}" for number in range(6)],
        "positive_ids": [["a"], ["b", "c"], ["a"], ["d"], ["e"], ["f", "a"]],
        "topic": [f"topic\0{number}" for number in range(6)],
        "number": list(range(6)),
    }
)
SHAPES = ["triplets", "one each", "tuples", "pairs", "lists"]
NAMES = [*SHAPES, "top", "rank", "sort", "bm25"]


@pytest.fixture(scope="module")
def steps():
    texts = [f"plates and waves of {one}" for one in "abcdef"]
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": list("abcdef"), "text": texts}))
    return {
        "triplets": ToTriplets(corpus),
        "one each": ToTriplets(corpus, n=1, positives="first"),
        "tuples": ToNTuples(corpus, n=2, positives="random"),
        "pairs": ToLabeledPairs(corpus),
        "lists": ToLabeledLists(corpus),
        "top": TopNegatives(1),
        "rank": RankWindow(2),
        "sort": SortNegatives(),
        "bm25": BM25Negatives(corpus, k=2),
    }


@pytest.fixture(scope="module")
def mined(steps):
    return ROWS.map(replace(steps["bm25"], k=3), batched=True)


def plain(rows):
    return [dict(sorted(row.items())) for row in rows.with_format(None)]


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
@pytest.mark.parametrize("removed", ["all", "topic", "read", None])
@pytest.mark.parametrize("name", NAMES)
def test_every_format_gets_the_answer_of_plain_rows(steps, mined, name, removed):
    removed = {"all": mined.column_names, "topic": ["topic"], "read": ["query", "number", "negative_ids"]}.get(removed)
    options = {"batched": True, "batch_size": 4, "remove_columns": removed}
    wanted = mined.map(steps[name], **options)
    for form in FORMATS:
        found = mined.with_format(form).map(steps[name], **options)
        assert set(found.column_names) == set(wanted.column_names), form
        assert found.features == wanted.features, form
        assert plain(found) == plain(wanted), form
        if name in SHAPES:
            assert found.column_names == wanted.column_names, form


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
@pytest.mark.parametrize("form", [None, *FORMATS])
@pytest.mark.parametrize("name", SHAPES)
def test_a_formatted_stream_is_left_with_the_columns_of_the_shape(steps, mined, name, form):
    options = {"batched": True, "batch_size": 4, "remove_columns": mined.column_names}
    wanted = mined.map(steps[name], **options)
    stream = mined.to_iterable_dataset().with_format(form).map(steps[name], **options)
    assert list(next(iter(stream.with_format(None)))) == wanted.column_names


def test_triplets_of_arrow_rows_begin_with_the_anchor(steps, mined):
    options = {"batched": True, "remove_columns": mined.column_names}
    for form in FORMATS:
        found = mined.with_format(form).map(steps["triplets"], **options)
        assert found.column_names == ["anchor", "positive", "negative"], form


def test_rows_of_a_transform_of_ones_own_are_left_with_the_columns_of_the_shape(steps, mined):
    shouted = mined.with_transform(lambda rows: rows | {"query": [query.upper() for query in rows["query"]]})
    for name in SHAPES:
        found = shouted.map(steps[name], batched=True, remove_columns=mined.column_names).with_format(None)
        assert found.column_names == list(steps[name].output_columns)
        assert all(anchor.isupper() for anchor in found["anchor"][:])


def test_one_row_in_place_of_a_batch_is_refused_in_arrays(steps, mined):
    with pytest.raises(TypeError, match="one row instead of a batch"):
        mined.with_format("numpy").map(steps["bm25"])


def test_a_polars_frame_is_answered_by_one(steps, mined):
    polars = pytest.importorskip("polars")
    frame = mined.with_format("polars")[:]
    for name, step in steps.items():
        found = step(frame)
        assert isinstance(found, polars.DataFrame)
        wanted = step(mined.with_format("arrow")[:])
        assert found.to_dict(as_series=False) == wanted.to_pydict(), name
    assert Batch(frame, "Step").column("topic").to_pylist() == mined["topic"][:]


def test_a_wrapped_step_answers_in_the_form_of_its_rows(steps, mined):
    seen = []

    def wrapped(rows):
        answer = steps["triplets"](rows)
        seen.append(type(answer))
        return answer

    mined.with_format("arrow").map(wrapped, batched=True)
    assert seen == [pa.Table]
