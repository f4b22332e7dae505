"""Shapes: rows, other columns, scores, gaps and bad input."""

import subprocess
import sys

import older_versions
import pytest
from datasets import Dataset
from shape_helpers import (
    AS_MANY,
    CASES,
    JUDGED,
    MAPPED,
    MINED,
    Q1_PAIRS,
    Q1_TRIPLETS,
    Q4_PAIRS,
    SHAPES,
    compact,
    mined,
    shaped,
)

from hnm_datasets import ToLabeledLists, ToLabeledPairs, ToNTuples, ToTriplets


@pytest.mark.parametrize(("step", "n", "missing", "rows"), MAPPED)
@pytest.mark.parametrize("batch_size", [1000, 2, 1])
def test_missing(corpus, step, n, missing, rows, batch_size):
    out = shaped(step(corpus, n=n, missing=missing, with_ids=True), batch_size=batch_size)
    assert [compact(row) for row in out] == rows


@pytest.mark.parametrize(("step", "n", "missing", "rows"), CASES)
@pytest.mark.parametrize("batch_size", [1000, 2, 1])
def test_a_stream_gives_the_same_rows(corpus, step, n, missing, rows, batch_size):
    stream = mined().to_iterable_dataset()
    made = step(corpus, n=n, missing=missing, with_ids=True)
    out = list(stream.map(made, batched=True, batch_size=batch_size, remove_columns=list(MINED)))
    assert [compact(row) for row in out] == rows
    if rows:
        assert out == shaped(made).to_list()


@pytest.mark.parametrize(("step", "n", "missing", "rows"), MAPPED)
@pytest.mark.parametrize("batch_size", [1000, 2])
def test_other_columns_are_repeated_and_lists_are_gone(corpus, step, n, missing, rows, batch_size):
    made = step(corpus, n=n, missing=missing, with_ids=True)
    out = mined().map(made, batched=True, batch_size=batch_size)
    assert [row["query_id"] for row in out] == [row["anchor_id"] for row in out]
    assert [f"q{row['note']}" for row in out] == [row["anchor_id"] for row in out]
    assert [compact({name: row[name] for name in row if name not in ("query_id", "note")}) for row in out] == rows
    gone = {"query", "positive_ids", "positive_scores", "negative_ids", "negative_scores", "negative_ranks"}
    assert not gone & set(out.column_names)
    assert {"query_id", "note"} < set(out.column_names)


@pytest.mark.parametrize(
    ("step", "n", "names"),
    [
        (ToTriplets, None, ["anchor", "positive", "negative"]),
        (ToNTuples, 3, ["anchor", "positive", "negative_1", "negative_2", "negative_3"]),
        (ToLabeledPairs, None, ["anchor", "passage", "label"]),
        (ToLabeledLists, None, ["anchor", "passages", "labels"]),
    ],
)
def test_columns(corpus, step, n, names):
    made = step(corpus, n=n)
    assert list(made.output_columns) == names
    assert shaped(made).column_names == names
    for name in ("label", "labels"):
        if name in names:
            feature = shaped(made).features[name]
            assert (feature if name == "label" else feature.feature).dtype == "float32"


@pytest.mark.parametrize(
    ("step", "n", "rows"),
    [
        (ToTriplets, None, [*Q1_TRIPLETS[:3], ("q4", "d", "e")]),
        (ToNTuples, 1, [("q1", "a", "c"), ("q4", "d", "e")]),
        (ToLabeledPairs, None, [Q1_PAIRS[0], *Q1_PAIRS[2:], *Q4_PAIRS]),
        (ToLabeledLists, None, [("q1", "acde", "1000"), ("q4", "de", "10")]),
    ],
)
def test_the_first_positive(corpus, step, n, rows):
    assert [compact(row) for row in shaped(step(corpus, n=n, positives="first", with_ids=True))] == rows


def test_each_positive_in_a_list_of_its_own(corpus):
    out = shaped(ToLabeledLists(corpus, positives="each", with_ids=True))
    assert [compact(row) for row in out] == [("q1", "acde", "1000"), ("q1", "bcde", "1000"), ("q4", "de", "10")]


@pytest.mark.parametrize(
    ("step", "n"), [(ToTriplets, None), (ToNTuples, 1), (ToLabeledPairs, None), (ToLabeledLists, None)]
)
def test_a_random_positive_depends_on_row_and_seed(corpus, step, n):
    rows = Dataset.from_dict(
        {
            "query_id": [f"q{i}" for i in range(60)],
            "query": ["?"] * 60,
            "positive_ids": [["a", "b"]] * 60,
            "negative_ids": [["c"]] * 60,
        }
    )

    def chosen(rows, seed, batch_size=1000):
        out = shaped(step(corpus, n=n, positives="random", with_ids=True, seed=seed), rows, batch_size=batch_size)
        if step is ToLabeledLists:
            assert all(len(ids) == 2 for ids in out["passage_ids"])
            return {row["anchor_id"]: row["passage_ids"][0] for row in out}
        name = "passage_id" if step is ToLabeledPairs else "positive_id"
        found = [(row["anchor_id"], row[name]) for row in out if row[name] != "c"]
        assert len(found) == 60
        return dict(found)

    picks = chosen(rows, 0)
    assert 15 <= list(picks.values()).count("a") <= 45
    assert set(picks.values()) == {"a", "b"}
    assert chosen(rows.select(range(59, -1, -1)), 0, batch_size=7) == picks
    assert chosen(rows, 1) != picks


def test_scores_are_those_of_the_passages(corpus):
    triplets = shaped(ToTriplets(corpus, with_scores=True, missing="keep"))
    assert triplets["positive_score"][:] == [5.0] * 3 + [4.5] * 3 + [4.0, None, None, 3.5]
    assert triplets["negative_score"][:] == [3.0, 2.0, 1.0] * 2 + [None, 2.5, 1.5, 0.5]
    tuples = shaped(ToNTuples(corpus, n=2, with_scores=True, with_ids=True, missing="pad"))
    assert tuples["negative_1_score"][:] == [3.0, 3.0, 0.5]
    assert tuples["negative_2_score"][:] == [2.0, 2.0, 0.5]
    assert tuples["negative_2_id"][:] == ["d", "d", "e"]
    pairs = shaped(ToLabeledPairs(corpus, with_scores=True))
    assert pairs["passage_score"][:] == [5.0, 4.5, 3.0, 2.0, 1.0, 3.5, 0.5]
    lists = shaped(ToLabeledLists(corpus, with_scores=True))
    assert lists["passage_scores"][:] == [[5.0, 4.5, 3.0, 2.0, 1.0], [3.5, 0.5]]


def test_scores_of_a_teacher(corpus):
    def rounded(values):
        return [[round(one, 5) for one in value] if isinstance(value, list) else round(value, 5) for value in values]

    triplets = shaped(ToTriplets(corpus, with_scores="teacher"), mined(**JUDGED))
    assert rounded(triplets["positive_score"]) == [0.9] * 3 + [0.8] * 3 + [0.6]
    assert rounded(triplets["negative_score"]) == [0.3, 0.2, 0.1] * 2 + [0.05]
    tuples = shaped(ToNTuples(corpus, n=2, with_scores="teacher", missing="pad"), mined(**JUDGED))
    assert rounded(tuples["positive_score"]) == [0.9, 0.8, 0.6]
    assert rounded(tuples["negative_1_score"]) == [0.3, 0.3, 0.05]
    assert rounded(tuples["negative_2_score"]) == [0.2, 0.2, 0.05]
    lists = shaped(ToLabeledLists(corpus, with_scores="teacher"), mined(**JUDGED))
    assert rounded(lists["passage_scores"]) == [[0.9, 0.8, 0.3, 0.2, 0.1], [0.6, 0.05]]
    assert lists["labels"][:] == [[1.0, 1.0, 0.0, 0.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize("step", SHAPES)
def test_a_teacher_that_has_not_scored_is_named(corpus, step):
    made = step(corpus, n=2, with_scores="judge")
    with pytest.raises(KeyError, match=r"'positive_judge_scores'.*score first.*name='judge'"):
        shaped(made, mined(**JUDGED))
    wrong = JUDGED | {"negative_teacher_scores": [[0.3], [], [0.25, 0.15], [0.05]]}
    with pytest.raises(ValueError, match=r"'negative_teacher_scores' must be aligned.*query_id 'q1'.*3 and 1"):
        shaped(step(corpus, n=2, with_scores="teacher"), mined(**wrong))


@pytest.mark.parametrize("step", SHAPES)
@pytest.mark.parametrize("wrong", [1, None, "", ["teacher"]])
def test_scores_are_the_retrievers_or_a_teachers(corpus, step, wrong):
    with pytest.raises(
        TypeError, match=rf"{step.__name__}: with_scores must be True .*, False, or a teacher's name, got"
    ):
        step(corpus, n=2, with_scores=wrong)


def test_ids_without_query_id(corpus):
    out = shaped(ToTriplets(corpus, with_ids=True), mined().remove_columns("query_id"))
    assert out.column_names == ["anchor", "positive", "negative", "positive_id", "negative_id"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_batch_of_as_many_rows_stays_aligned(corpus, stream, order):
    rows = Dataset.from_dict(AS_MANY).select(order)
    rows = rows.to_iterable_dataset() if stream else rows
    step = ToTriplets(corpus, with_ids=True)
    out = list(rows.map(step, batched=True))
    expected = {"query_id": "q1", "note": 1, "anchor": "one?", "anchor_id": "q1", "positive_id": "a"}
    assert [{name: row[name] for name in expected} for row in out] == [expected, expected]
    assert [row["negative_id"] for row in out] == ["c", "d"]
    removed = list(rows.map(step, batched=True, remove_columns=list(AS_MANY)))
    assert [set(row) for row in removed] == [
        {"anchor", "positive", "negative", "anchor_id", "positive_id", "negative_id"}
    ] * 2
    assert [(row["anchor_id"], row["positive_id"], row["negative_id"]) for row in removed] == [
        ("q1", "a", "c"),
        ("q1", "a", "d"),
    ]


def test_a_short_row_is_an_error_when_asked(corpus):
    for step in (
        ToTriplets(corpus, missing="error"),
        ToLabeledPairs(corpus, missing="error"),
        ToLabeledLists(corpus, missing="error"),
    ):
        with pytest.raises(
            ValueError, match=r"the row with query_id 'q2' has 0 negatives and 1 positive,.*missing='drop'"
        ):
            step(MINED)
    with pytest.raises(
        ValueError, match=r"query_id 'q1' has 3 negatives and 2 positives, too few for 4 negatives.*larger k"
    ):
        ToNTuples(corpus, n=4, missing="error")(MINED)
    whole = {name: [values[0], values[3]] for name, values in MINED.items()}
    assert len(ToTriplets(corpus, missing="error")(whole)["anchor"]) == 7
    with pytest.raises(ValueError, match="query_id 'q4' has 1 negative "):
        ToTriplets(corpus, n=2, missing="error")(whole)


@pytest.mark.parametrize("step", SHAPES)
def test_short_rows_are_reported(corpus, step, caplog):
    with caplog.at_level("WARNING", "hnm_datasets"):
        step(corpus, n=1)(MINED)
    dropped = "dropped 2 of the 4 rows in this batch, which have no negative or no positive (missing='drop')."
    assert f"{step.__name__}: {dropped}" in caplog.text


@pytest.mark.parametrize("step", SHAPES)
def test_an_existing_output_column_is_refused(corpus, step):
    with pytest.raises(ValueError, match=rf"{step.__name__} writes the columns.*already have \['anchor'\].*[Rr]ename"):
        step(corpus, n=1)(MINED | {"anchor": ["x"] * 4})


def test_n_tuples_need_n(corpus):
    with pytest.raises(ValueError, match=r"n, the number of negatives per row, is required: ToNTuples\(corpus, n=5\)"):
        ToNTuples(corpus)


@pytest.mark.parametrize("step", SHAPES)
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n": 0}, ValueError, "n must be a whole number of at least 1, got 0"),
        ({"positives": "last"}, ValueError, "positives must be one of .*'first'.*got 'last'"),
        ({"missing": "ignore"}, ValueError, "missing must be one of 'drop', 'keep', 'pad', 'error', got 'ignore'"),
        ({"with_ids": "yes"}, TypeError, "with_ids must be True or False"),
        ({"with_scores": 1}, TypeError, "with_scores must be True .*, False, or a teacher"),
        ({"seed": -1}, ValueError, "seed must be a whole number of at least 0"),
    ],
)
def test_options_are_checked(corpus, step, options, error, match):
    with pytest.raises(error, match=match):
        step(corpus, **{"n": 1} | options)


def test_only_lists_take_all_positives(corpus):
    for step in (ToTriplets, ToNTuples, ToLabeledPairs):
        with pytest.raises(ValueError, match="positives must be one of 'each', 'first', 'random', got 'all'"):
            step(corpus, n=1, positives="all")
    with pytest.raises(TypeError, match="corpus must be a Corpus, got str"):
        ToTriplets("corpus")


@pytest.mark.parametrize("step", SHAPES)
def test_bad_batches_are_refused(corpus, step):
    made = step(corpus, n=1)
    without = {name: values for name, values in MINED.items() if name != "negative_ids"}
    with pytest.raises(KeyError, match=r"needs the column 'negative_ids'.*mine first"):
        made(without)
    with pytest.raises(KeyError, match="'negative_ids' of the row with query_id 'q1' names the passage 'zz'"):
        made(MINED | {"negative_ids": [["zz", "d", "e"], [], ["a", "b"], ["e"]]})
    # Only ids that a row needs are looked up: the third query has no positive.
    assert made(MINED | {"negative_ids": [["c", "d", "e"], [], ["zz", "b"], ["e"]]})["anchor"]
    with pytest.raises(ValueError, match=r"'negative_ids' and 'negative_scores' must be aligned.*'q1'.*3 and 1"):
        made(MINED | {"negative_scores": [[3.0], [], [2.5, 1.5], [0.5]]})
    scored = step(corpus, n=1, with_scores=True)
    with pytest.raises(KeyError, match="needs the column 'positive_scores'"):
        scored({name: values for name, values in MINED.items() if name != "positive_scores"})
    with pytest.raises(ValueError, match="'positive_ids' and 'positive_scores' must be aligned"):
        scored(MINED | {"positive_scores": [[5.0], [4.0], [], [3.5]]})


@older_versions.needs("datasets", "4.6", "it imports torch")
def test_shapes_need_no_trainer():
    script = (
        "import sys, hnm_datasets.transforms.shapes.tuples\n"
        "print([name for name in ('sentence_transformers', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", ["numpy", "pandas", "arrow"])
def test_a_formatted_batch_of_as_many_rows_stays_aligned(corpus, form, stream):
    rows = Dataset.from_dict(AS_MANY)
    rows = (rows.to_iterable_dataset() if stream else rows).with_format(form)
    out = list(rows.map(ToTriplets(corpus, with_ids=True), batched=True).with_format(None))
    assert [(row["query_id"], int(row["note"]), row["anchor_id"]) for row in out] == [("q1", 1, "q1")] * 2
