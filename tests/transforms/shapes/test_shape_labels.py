"""Labels that a student learns from a teacher."""

import math

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st
from shape_helpers import (
    FLOATS,
    JUDGED,
    KINDS,
    LABELED,
    MINED,
    SHAPES,
    TUPLES,
    label_feature,
    mined,
    rows_of,
    scored_rows,
    shaped,
    table_of,
    text,
    wanted_feature,
)

from hnm_datasets import ToLabeledLists, ToLabeledPairs, ToNTuples, ToTriplets


@given(
    scored_rows(),
    st.sampled_from(TUPLES),
    st.sampled_from(["scores", "margins"]),
    st.sampled_from(["each", "first", "random"]),
    st.sampled_from(["drop", "pad"]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from(["score", "teacher", "judge"]),
)
def test_a_tuple_is_labeled_by_its_own_passages(corpus, batch, step, labels, positives, missing, n, by):
    options = {"n": n, "positives": positives, "missing": missing, "with_ids": True, "seed": 3}
    labeled = rows_of(step(corpus, labels=labels, by=by, **options), batch)
    scores = table_of(batch, by)
    for row in labeled:
        names = [row[name] for name in row if name.endswith("_id") and name != "anchor_id"]
        own, *others = (scores[row["anchor_id"], name] for name in names)
        wanted = [own - other for other in others] if labels == "margins" else [own, *others]
        assert row["label"] == (wanted[0] if (step, labels) == (ToTriplets, "margins") else wanted)
    # The labels leave all else as it is.
    without = rows_of(step(corpus, **options), batch)
    assert [{name: row[name] for name in row if name != "label"} for row in labeled] == without


@given(
    scored_rows(),
    st.sampled_from(["each", "first", "random"]),
    st.sampled_from(["drop", "pad", "keep"]),
    st.sampled_from([None, 1, 3]),
    st.sampled_from(["score", "teacher"]),
)
def test_a_pair_is_labeled_by_its_own_passage(corpus, batch, positives, missing, n, by):
    options = {"n": n, "positives": positives, "missing": missing, "with_ids": True, "seed": 3}
    labeled = rows_of(ToLabeledPairs(corpus, labels="scores", by=by, **options), batch)
    scores = table_of(batch, by)
    assert [row["label"] for row in labeled] == [scores[row["anchor_id"], row["passage_id"]] for row in labeled]
    without = rows_of(ToLabeledPairs(corpus, **options), batch)
    assert [row | {"label": 0} for row in labeled] == [row | {"label": 0} for row in without]


# Few different scores, so that some are equal.
@given(
    scored_rows(st.one_of(st.sampled_from([0.0, 0.1, -2.5]), FLOATS)),
    st.sampled_from(["all", "each", "first", "random"]),
    st.sampled_from(["drop", "pad", "keep"]),
    st.sampled_from([None, 1, 4]),
    st.sampled_from(["score", "teacher"]),
)
def test_a_list_is_in_the_order_of_its_labels(corpus, batch, positives, missing, n, by):
    options = {"n": n, "positives": positives, "missing": missing, "with_ids": True, "with_scores": "judge", "seed": 3}
    labeled = rows_of(ToLabeledLists(corpus, labels="scores", by=by, **options), batch)
    without = rows_of(ToLabeledLists(corpus, **options), batch)
    scores, judged = table_of(batch, by), table_of(batch, "judge")
    assert len(labeled) == len(without)
    for row, plain in zip(labeled, without, strict=True):
        query = row["anchor_id"]
        assert (query, row["anchor"]) == (plain["anchor_id"], plain["anchor"])
        # Of equal scores the positives come first, then the order of the candidates.
        assert row["passage_ids"] == sorted(plain["passage_ids"], key=lambda name, query=query: -scores[query, name])
        assert row["labels"] == [scores[query, name] for name in row["passage_ids"]]
        assert row["labels"] == sorted(row["labels"], reverse=True)
        assert row["passages"] == [text(name) for name in row["passage_ids"]]
        assert row["passage_scores"] == [judged[query, name] for name in row["passage_ids"]]


def test_labels_by_hand(corpus):
    rows = mined(
        positive_teacher_scores=[[5.0, 4.0], [3.0], [], [1.0]],
        negative_teacher_scores=[[4.5, 1.0, 2.0], [], [7.0, 8.0], [3.0]],
    )

    def labels(step, column="label", **options):
        return shaped(step(corpus, **options), rows)[column][:]

    assert labels(ToTriplets, labels="margins") == [0.5, 4.0, 3.0, -0.5, 3.0, 2.0, -2.0]
    assert labels(ToTriplets, n=1, labels="scores") == [[5.0, 4.5], [4.0, 4.5], [1.0, 3.0]]
    assert labels(ToNTuples, n=2, labels="margins") == [[0.5, 4.0], [-0.5, 3.0]]
    assert labels(ToNTuples, n=2, labels="scores", missing="pad")[2] == [1.0, 3.0, 3.0]
    assert labels(ToNTuples, n=2, labels="scores", by="score", positives="first") == [[5.0, 3.0, 2.0]]
    assert labels(ToLabeledPairs, labels="scores") == [5.0, 4.0, 4.5, 1.0, 2.0, 1.0, 3.0]
    assert labels(ToLabeledPairs, labels="scores", missing="keep")[5:8] == [3.0, 7.0, 8.0]
    assert labels(ToLabeledLists, "labels", labels="scores") == [[5.0, 4.5, 4.0, 2.0, 1.0], [3.0, 1.0]]
    kept = shaped(ToLabeledLists(corpus, labels="scores", missing="keep", with_ids=True), rows)
    assert kept["labels"][1:3] == [[3.0], [8.0, 7.0]]
    assert kept["passage_ids"][1:3] == [["c"], ["b", "a"]]


def test_margins_are_differences_of_single_precision_scores(corpus):
    # In double precision the difference would be another number.
    own, other = 0.1, 0.30000000000000004
    rows = {
        "query": ["?"],
        "positive_ids": [["a"]],
        "negative_ids": [["b"]],
        "positive_teacher_scores": [[own]],
        "negative_teacher_scores": [[other]],
    }
    wanted = np.float32(own) - np.float32(other)
    assert wanted != np.float32(own - other)
    for step in (ToTriplets(corpus, labels="margins"), ToNTuples(corpus, n=1, labels="margins")):
        for label in (step(rows)["label"][0], shaped(step, Dataset.from_dict(rows))["label"][0]):
            assert np.ravel(label).tolist() == [wanted]


@pytest.mark.parametrize(("step", "labels"), KINDS)
@pytest.mark.parametrize("missing", ["drop", "pad"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_labels_are_single_precision_where_the_first_batch_is_empty_too(corpus, step, labels, missing, dtype):
    made = step(corpus, n=1, labels=labels, missing=missing)
    texts, numbers = List(Value("string")), List(Value(dtype))
    features = Features(
        {
            "query": Value("string"),
            "positive_ids": texts,
            "negative_ids": texts,
            "positive_teacher_scores": numbers,
            "negative_teacher_scores": numbers,
        }
    )
    columns = {"query": ["x", "y"], "positive_ids": [[], ["a"]], "negative_ids": [[], ["b"]]}
    columns |= {"positive_teacher_scores": [[], [3]], "negative_teacher_scores": [[], [1]]}
    both = Dataset.from_dict(columns, features=features)
    for size in (1, 2):
        out = shaped(made, both, batch_size=size)
        assert label_feature(out.data.table) == wanted_feature(step, labels)
        assert len(out) == (2 if step is ToLabeledPairs else 1)
    # Of no row at all `map` writes nothing, and the type can be seen in a table alone.
    none = made(both.select([0]).with_format("arrow")[:])
    assert len(none) == 0
    assert label_feature(none) == wanted_feature(step, labels)


@pytest.mark.parametrize(("step", "labels"), KINDS)
def test_labels_of_empty_lists_without_a_type(corpus, step, labels):
    empty = Dataset.from_dict({name: [[]] for name in (*JUDGED, "positive_ids", "negative_ids")} | {"query": ["?"]})
    for missing in ["drop", "pad", *(["keep"] if step in LABELED else [])]:
        out = step(corpus, n=2, labels=labels, missing=missing)(empty.with_format("arrow")[:])
        assert len(out) == 0
        assert label_feature(out) == wanted_feature(step, labels)


@pytest.mark.parametrize(("step", "labels"), KINDS)
def test_a_stream_and_small_batches_give_the_same_labels(corpus, step, labels):
    made = step(corpus, n=2, labels=labels, missing="pad", positives="random", with_ids=True)
    rows = mined(**JUDGED)
    whole = shaped(made, rows).to_list()
    assert whole
    assert shaped(made, rows, batch_size=1).to_list() == whole
    stream = rows.to_iterable_dataset()
    assert list(stream.map(made, batched=True, batch_size=2, remove_columns=rows.column_names)) == whole


@pytest.mark.parametrize(("step", "labels"), KINDS)
def test_labels_come_after_the_texts(corpus, step, labels):
    # A trainer takes all other columns for texts, in their order.
    made = step(corpus, n=2, labels=labels)
    out = shaped(made, mined(**JUDGED))
    assert out.column_names == list(made.output_columns)
    assert out.column_names[-1] in ("label", "labels")
    assert "label" not in step(corpus, n=2).output_columns or step in LABELED


@pytest.mark.parametrize(("step", "labels"), KINDS)
def test_labels_say_which_columns_they_need(corpus, step, labels):
    made = step(corpus, n=1, labels=labels, by="judge")
    assert {"positive_judge_scores", "negative_judge_scores"} <= set(made.input_columns)
    assert not {"positive_teacher_scores", "negative_teacher_scores"} & set(made.input_columns)


@pytest.mark.parametrize(("step", "labels"), KINDS)
def test_a_teacher_that_has_no_scores_is_named(corpus, step, labels):
    teacher = r"score first.*CrossEncoderScores\(corpus, model, name='{}'\)"
    made = step(corpus, n=1, labels=labels)
    with pytest.raises(KeyError, match=rf"'positive_teacher_scores'.*{teacher.format('teacher')}"):
        made(MINED)
    with pytest.raises(KeyError, match=rf"'negative_teacher_scores'.*{teacher.format('teacher')}"):
        made(MINED | {"positive_teacher_scores": JUDGED["positive_teacher_scores"]})
    with pytest.raises(KeyError, match=rf"_nosuchteacher_scores'.*{teacher.format('nosuchteacher')}"):
        step(corpus, n=1, labels=labels, by="nosuchteacher")(MINED | JUDGED)
    # Without labels no teacher is asked.
    step(corpus, n=1, by="nosuchteacher")(MINED)


@pytest.mark.parametrize(("step", "labels"), KINDS)
@pytest.mark.parametrize("part", ["positive", "negative"])
def test_labels_of_other_passages_are_refused(corpus, step, labels, part):
    made, name = step(corpus, n=1, labels=labels), f"{part}_teacher_scores"
    wrong = [[*JUDGED[name][0], 0.5], *JUDGED[name][1:]]
    with pytest.raises(ValueError, match=rf"'{part}_ids' and '{name}' must be aligned.*query_id 'q1'"):
        made(MINED | JUDGED | {name: wrong})
    with pytest.raises(ValueError, match=rf"'{name}' holds a NaN in the row with query_id 'q1'"):
        made(MINED | JUDGED | {name: [[math.nan] * len(JUDGED[name][0]), *JUDGED[name][1:]]})
    with pytest.raises(ValueError, match=rf"'{name}' holds a null"):
        made(MINED | JUDGED | {name: [[None, *JUDGED[name][0][1:]], *JUDGED[name][1:]]})


@pytest.mark.parametrize("step", TUPLES)
@pytest.mark.parametrize("labels", ["scores", "margins"])
def test_tuples_with_gaps_have_no_labels(corpus, step, labels):
    with pytest.raises(ValueError, match=rf"{step.__name__}: labels='{labels}' requires.*'drop', 'pad' or 'error'"):
        step(corpus, n=1, labels=labels, missing="keep")


@pytest.mark.parametrize("step", LABELED)
def test_labeled_shapes_have_no_margins(corpus, step):
    with pytest.raises(ValueError, match=rf"{step.__name__}: labels must be one of 'scores', got 'margins'"):
        step(corpus, labels="margins")


@pytest.mark.parametrize("step", SHAPES)
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"labels": "logits"}, ValueError, "labels must be one of .*'scores'.*got 'logits'"),
        ({"labels": True}, ValueError, "labels must be one of .*'scores'.*got True"),
        ({"labels": ""}, ValueError, "labels must be one of .*'scores'.*got ''"),
        ({"labels": "scores", "by": ""}, TypeError, "by must be 'score' .* or a teacher's name, got ''"),
        ({"labels": "scores", "by": 3}, TypeError, "by must be 'score' .* or a teacher's name, got 3"),
        ({"by": None}, TypeError, "by must be 'score' .* or a teacher's name, got None"),
    ],
)
def test_options_of_labels_are_checked(corpus, step, options, error, match):
    with pytest.raises(error, match=f"{step.__name__}: {match}"):
        step(corpus, n=1, **options)


@pytest.mark.parametrize("step", TUPLES)
def test_an_existing_label_is_refused(corpus, step):
    rows = MINED | JUDGED | {"label": [0, 1, 2, 3]}
    with pytest.raises(ValueError, match=r"the rows already have \['label'\]"):
        step(corpus, n=1, labels="scores")(rows)
    assert "anchor" in step(corpus, n=1)(rows)


@pytest.mark.parametrize(("step", "labels"), KINDS)
def test_labels_are_part_of_what_a_step_is(corpus, step, labels):
    import pickle

    steps = [step(corpus, n=1), step(corpus, n=1, labels=labels), step(corpus, n=1, labels=labels, by="judge")]
    assert len(set(steps)) == len({pickle.dumps(one) for one in steps}) == 3
    assert [pickle.loads(pickle.dumps(one)) for one in steps] == steps
