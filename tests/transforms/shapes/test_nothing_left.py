"""Shapes that make nothing of some rows, or of all, and padding that is counted."""

from collections import Counter

import pytest
from datasets import ClassLabel, Dataset
from shape_helpers import SHAPES, mined, shaped

from hnm_datasets import ToLabeledLists, ToLabeledPairs, ToNTuples, ToTriplets

EMPTY = {"negative_ids": [[]] * 4, "negative_scores": [[]] * 4, "negative_ranks": [[]] * 4}


def full_only(places):
    """Ten rows, of which some have negatives."""
    ids = [["c", "d"] if place in places else [] for place in range(10)]
    rows = {"query_id": [f"q{place}" for place in range(10)], "query": ["?"] * 10, "positive_ids": [["a"]] * 10}
    rows = Dataset.from_dict(rows | {"kind": [0, 1] * 5, "negative_ids": ids})
    return rows.cast_column("kind", ClassLabel(names=["one", "two"]))


@pytest.mark.parametrize("step", SHAPES)
@pytest.mark.parametrize("form", [None, "arrow", "numpy"])
def test_nothing_left_is_refused(corpus, step, form):
    rows = mined(**EMPTY).with_format(form)
    for options in ({"batch_size": 1000}, {"batch_size": 3}, {"batch_size": 1, "remove_columns": rows.column_names}):
        with pytest.raises(
            ValueError, match=rf"{step.__name__} produces no rows from the 4 input rows.*mine\(rows, steps\)"
        ):
            rows.map(step(corpus, n=2), batched=True, **options)
    stream = mined(**EMPTY).to_iterable_dataset()
    assert list(stream.map(step(corpus, n=2), batched=True, remove_columns=rows.column_names)) == []


def test_nothing_left_in_the_one_worker_is_refused(corpus):
    with pytest.raises(ValueError, match="ToTriplets produces no rows from the 4 input rows"):
        mined(**EMPTY).map(ToTriplets(corpus), batched=True, num_proc=1)


def test_nothing_left_in_several_workers_has_the_new_columns(corpus):
    rows = mined(**EMPTY)
    assert rows.map(ToTriplets(corpus), batched=True, num_proc=2).column_names == [
        *("query_id", "note"),
        *("anchor", "positive", "negative"),
    ]
    step = ToLabeledLists(corpus)
    out = rows.map(step, batched=True, num_proc=2, remove_columns=rows.column_names)
    assert (out.num_rows, out.features) == (0, shaped(step).features)


@pytest.mark.parametrize("step", SHAPES)
@pytest.mark.parametrize("places", [[9], [0], [4, 5]])
def test_batches_without_a_row_change_nothing(corpus, step, places):
    made, rows = step(corpus, n=2, with_ids=True), full_only(places)
    whole, alone = rows.map(made, batched=True), rows.map(made, batched=True, remove_columns=rows.column_names)
    assert sorted(set(whole["query_id"])) == [f"q{place}" for place in places]
    assert whole.features["kind"] == rows.features["kind"]
    for size in (1, 2, 3):
        for expected, removed in ((whole, None), (alone, rows.column_names)):
            out = rows.map(made, batched=True, batch_size=size, remove_columns=removed)
            assert (out.to_list(), out.features) == (expected.to_list(), expected.features)


def test_a_worker_without_a_row_changes_nothing(corpus):
    made, rows = ToTriplets(corpus), full_only([7])
    out = rows.map(made, batched=True, num_proc=3)
    assert (out.to_list(), out.features) == (
        rows.map(made, batched=True).to_list(),
        rows.map(made, batched=True).features,
    )


@pytest.mark.parametrize(
    ("step", "padding"),
    [
        # Of q1's three, two positives; of q4's one.
        (ToTriplets, 2 * 1 + 3),
        (ToNTuples, 2 * 1 + 3),
        (ToLabeledPairs, 1 + 3),
        (ToLabeledLists, 1 + 3),
    ],
)
def test_padding_is_counted(corpus, caplog, step, padding):
    out = shaped(step(corpus, n=4, missing="pad", with_ids=True))
    (said,) = [record.getMessage() for record in caplog.records if "rows in this batch" in record.getMessage()]
    assert f"repeated {padding} negatives as padding (missing='pad')." in said
    assert padding == sum(repeats(out))
    caplog.clear()
    shaped(step(corpus, n=4, missing="keep"))
    assert "padding" not in caplog.text


def repeats(out):
    """Return how often each negative of a query, beside the same positive, stands there once more."""
    if "passage_ids" in out.column_names:
        for row in out:
            yield sum(label == 0 for label in row["labels"]) - len(
                set(row["passage_ids"][sum(map(int, row["labels"])) :])
            )
    elif "passage_id" in out.column_names:
        counts = Counter((row["anchor_id"], row["passage_id"]) for row in out if row["label"] == 0)
        yield sum(count - 1 for count in counts.values())
    else:
        names = [name for name in out.column_names if name.startswith("negative") and name.endswith("_id")]
        counts = Counter((row["anchor_id"], row["positive_id"], row[name]) for row in out for name in names)
        yield sum(count - 1 for count in counts.values())
