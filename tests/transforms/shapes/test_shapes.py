"""Shapes: the rows that a trainer takes, written out by hand, wherever `map` runs."""

import math
import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import Corpus, ToLabeledLists, ToLabeledPairs, ToNTuples, ToTriplets

SHAPES = [ToTriplets, ToNTuples, ToLabeledPairs, ToLabeledLists]
MINED = {
    "query_id": ["q1", "q2", "q3", "q4"],
    "query": ["one?", "two?", "three?", "four?"],
    "note": [1, 2, 3, 4],
    "positive_ids": [["a", "b"], ["c"], [], ["d"]],
    "positive_scores": [[5.0, 4.5], [4.0], [], [3.5]],
    "negative_ids": [["c", "d", "e"], [], ["a", "b"], ["e"]],
    "negative_scores": [[3.0, 2.0, 1.0], [], [2.5, 1.5], [0.5]],
    "negative_ranks": [[1, 2, 3], [], [1, 4], [7]],
}


@pytest.fixture(scope="module")
def corpus():
    names = list("abcde")
    rows = {
        "id": names,
        "title": [f"Title {n}" if n < "d" else None for n in names],
        "text": [f"text {n}" for n in names],
    }
    return Corpus.from_dataset(Dataset.from_dict(rows))


def text(name):
    return None if name is None else f"Title {name} text {name}" if name < "d" else f"text {name}"


def mined(**columns):
    return Dataset.from_dict(MINED | columns)


def shaped(step, rows=None, **options):
    rows = mined() if rows is None else rows
    return rows.map(step, batched=True, remove_columns=rows.column_names, **options)


def compact(row):
    """Write a row as ids, after checking that each text is the corpus's."""
    anchor = row["anchor_id"]
    assert row["anchor"] == dict(zip(MINED["query_id"], MINED["query"], strict=True))[anchor]
    out = [anchor]
    for name in row:
        if name.endswith("_id") and name != "anchor_id":
            assert row[name.removesuffix("_id")] == text(row[name])
            out.append(row[name])
        if name == "passage_ids":
            assert row["passages"] == [text(one) for one in row[name]]
            out.append("".join(row[name]))
    if "label" in row:
        out.append(int(row["label"]))
    if "labels" in row:
        out.append("".join(str(int(label)) for label in row["labels"]))
    return tuple(out)


def each(query, *rest):
    return [(query, *row) for row in rest]


Q1_TRIPLETS = each("q1", *[(p, n) for p in "ab" for n in "cde"])
TRIPLETS = {
    "drop": [*Q1_TRIPLETS, ("q4", "d", "e")],
    "keep": [*Q1_TRIPLETS, ("q2", "c", None), ("q3", None, "a"), ("q3", None, "b"), ("q4", "d", "e")],
    "pad": [*Q1_TRIPLETS, ("q4", "d", "e")],
}
Q1_TWO = each("q1", *[(p, n) for p in "ab" for n in "cd"])
TRIPLETS_OF_2 = {
    "drop": [*Q1_TWO, ("q4", "d", "e")],
    "keep": [*Q1_TWO, ("q2", "c", None), ("q3", None, "a"), ("q3", None, "b"), ("q4", "d", "e")],
    "pad": [*Q1_TWO, ("q4", "d", "e"), ("q4", "d", "e")],
}
TUPLES_OF_2 = {
    "drop": [("q1", "a", "c", "d"), ("q1", "b", "c", "d")],
    "keep": [
        ("q1", "a", "c", "d"),
        ("q1", "b", "c", "d"),
        ("q2", "c", None, None),
        ("q3", None, "a", "b"),
        ("q4", "d", "e", None),
    ],
    "pad": [("q1", "a", "c", "d"), ("q1", "b", "c", "d"), ("q4", "d", "e", "e")],
}
TUPLES_OF_4 = {
    "drop": [],
    "keep": [
        ("q1", "a", "c", "d", "e", None),
        ("q1", "b", "c", "d", "e", None),
        ("q2", "c", None, None, None, None),
        ("q3", None, "a", "b", None, None),
        ("q4", "d", "e", None, None, None),
    ],
    "pad": [("q1", "a", "c", "d", "e", "c"), ("q1", "b", "c", "d", "e", "c"), ("q4", "d", "e", "e", "e", "e")],
}
Q1_PAIRS = each("q1", ("a", 1), ("b", 1), ("c", 0), ("d", 0), ("e", 0))
Q4_PAIRS = each("q4", ("d", 1), ("e", 0))
PAIRS = {
    "drop": Q1_PAIRS + Q4_PAIRS,
    "keep": [*Q1_PAIRS, ("q2", "c", 1), ("q3", "a", 0), ("q3", "b", 0), *Q4_PAIRS],
    "pad": Q1_PAIRS + Q4_PAIRS,
}
PAIRS_OF_2 = {
    "drop": Q1_PAIRS[:4] + Q4_PAIRS,
    "keep": [*Q1_PAIRS[:4], ("q2", "c", 1), ("q3", "a", 0), ("q3", "b", 0), *Q4_PAIRS],
    "pad": [*Q1_PAIRS[:4], *Q4_PAIRS, ("q4", "e", 0)],
}
LISTS = {
    "drop": [("q1", "abcde", "11000"), ("q4", "de", "10")],
    "keep": [("q1", "abcde", "11000"), ("q2", "c", "1"), ("q3", "ab", "00"), ("q4", "de", "10")],
    "pad": [("q1", "abcde", "11000"), ("q4", "de", "10")],
}
LISTS_OF_4 = {
    "drop": LISTS["drop"],
    "keep": LISTS["keep"],
    "pad": [("q1", "abcdec", "110000"), ("q4", "deeee", "10000")],
}
CASES = [
    (step, n, missing, rows)
    for step, n, table in [
        (ToTriplets, None, TRIPLETS),
        (ToTriplets, 2, TRIPLETS_OF_2),
        (ToNTuples, 2, TUPLES_OF_2),
        (ToNTuples, 4, TUPLES_OF_4),
        (ToLabeledPairs, None, PAIRS),
        (ToLabeledPairs, 2, PAIRS_OF_2),
        (ToLabeledLists, None, LISTS),
        (ToLabeledLists, 4, LISTS_OF_4),
    ]
    for missing, rows in table.items()
]


@pytest.mark.parametrize(("step", "n", "missing", "rows"), CASES)
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
    assert out == shaped(made).to_list()


@pytest.mark.parametrize(("step", "n", "missing", "rows"), CASES)
@pytest.mark.parametrize("batch_size", [1000, 2])
def test_other_columns_are_repeated_and_lists_are_gone(corpus, step, n, missing, rows, batch_size):
    made = step(corpus, n=n, missing=missing, with_ids=True)
    out = mined().map(made, batched=True, batch_size=batch_size)
    assert [row["query_id"] for row in out] == [row["anchor_id"] for row in out]
    assert [f"q{row['note']}" for row in out] == [row["anchor_id"] for row in out]
    assert [compact({name: row[name] for name in row if name not in ("query_id", "note")}) for row in out] == rows
    if rows:
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


JUDGED = {
    "positive_teacher_scores": [[0.9, 0.8], [0.7], [], [0.6]],
    "negative_teacher_scores": [[0.3, 0.2, 0.1], [], [0.25, 0.15], [0.05]],
}


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


# As many rows come out as went in, but not one for each: `map` sees nothing wrong, and must not mix them up.
AS_MANY = {
    "query_id": ["q1", "q2"],
    "query": ["one?", "two?"],
    "note": [1, 2],
    "positive_ids": [["a"], ["b"]],
    "negative_ids": [["c", "d"], []],
}


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
            ValueError, match=r"the row with query_id 'q2' has 0 negatives and 1 positives.*missing='drop'"
        ):
            step(MINED)
    with pytest.raises(
        ValueError, match=r"query_id 'q1' has 3 negatives and 2 positives, too few for 4 negatives.*larger k"
    ):
        ToNTuples(corpus, n=4, missing="error")(MINED)
    whole = {name: [values[0], values[3]] for name, values in MINED.items()}
    assert len(ToTriplets(corpus, missing="error")(whole)["anchor"]) == 7
    with pytest.raises(ValueError, match="query_id 'q4' has 1 negatives"):
        ToTriplets(corpus, n=2, missing="error")(whole)


@pytest.mark.parametrize("step", SHAPES)
def test_short_rows_are_reported(corpus, step, caplog):
    with caplog.at_level("WARNING", "hnm_datasets"):
        step(corpus, n=1)(MINED)
    assert f"{step.__name__}: 2 of 4 rows" in caplog.text


@pytest.mark.parametrize("step", SHAPES)
def test_an_existing_output_column_is_refused(corpus, step):
    with pytest.raises(ValueError, match=rf"{step.__name__} writes the columns.*\['anchor'\] already.*[Rr]ename"):
        step(corpus, n=1)(MINED | {"anchor": ["x"] * 4})


def test_n_tuples_need_n(corpus):
    with pytest.raises(
        ValueError, match=r"n, the number of negatives per row, must be given: ToNTuples\(corpus, n=5\)"
    ):
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
    with pytest.raises(KeyError, match="'negative_ids' of the row with query_id 'q3' names the passage 'zz'"):
        made(MINED | {"negative_ids": [["c", "d", "e"], [], ["zz", "b"], ["e"]]})
    with pytest.raises(ValueError, match=r"'negative_ids' and 'negative_scores' must be aligned.*'q1'.*3 and 1"):
        made(MINED | {"negative_scores": [[3.0], [], [2.5, 1.5], [0.5]]})
    scored = step(corpus, n=1, with_scores=True)
    with pytest.raises(KeyError, match="needs the column 'positive_scores'"):
        scored({name: values for name, values in MINED.items() if name != "positive_scores"})
    with pytest.raises(ValueError, match="'positive_ids' and 'positive_scores' must be aligned"):
        scored(MINED | {"positive_scores": [[5.0], [4.0], [], [3.5]]})


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


# ---- what a student learns from a teacher ----------------------------------------------------------------------------

TUPLES = [ToTriplets, ToNTuples]
LABELED = [ToLabeledPairs, ToLabeledLists]
KINDS = [(step, labels) for step in TUPLES for labels in ("scores", "margins")] + [(step, "scores") for step in LABELED]


FLOATS = st.floats(-30, 30)


@st.composite
def scored_rows(draw, like=FLOATS):
    """Rows whose passages have a different score by each of three, and no passage twice."""
    batch = {"query_id": [], "query": [], "positive_ids": [], "negative_ids": []}
    for i in range(draw(st.integers(1, 4))):
        names = draw(st.permutations("abcde"))
        cut = draw(st.integers(0, 3))
        parts = {"positive": names[:cut], "negative": names[cut : draw(st.integers(cut, 5))]}
        batch["query_id"].append(f"q{i}")
        batch["query"].append(f"query {i}")
        for part, ids in parts.items():
            batch[f"{part}_ids"].append(list(ids))
            for by in ("", "_teacher", "_judge"):
                scores = draw(st.lists(like, min_size=len(ids), max_size=len(ids)))
                batch.setdefault(f"{part}{by}_scores", []).append(scores)
    return batch


def table_of(batch, by):
    """The scores, in single precision, by query and passage."""
    infix = "" if by == "score" else f"_{by}"
    return {
        (query, name): np.float32(score)
        for part in ("positive", "negative")
        for query, ids, scores in zip(
            batch["query_id"], batch[f"{part}_ids"], batch[f"{part}{infix}_scores"], strict=True
        )
        for name, score in zip(ids, scores, strict=True)
    }


def rows_of(step, batch):
    # Of a batch of as many rows the step answers with its other columns too.
    columns = {name: values for name, values in step(dict(batch)).items() if name not in batch}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


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


def label_feature(table):
    return Features.from_arrow_schema(table.schema)["labels" if "labels" in table.column_names else "label"]


def wanted_feature(step, labels):
    plain = step is ToLabeledPairs or (step, labels) == (ToTriplets, "margins")
    return Value("float32") if plain else List(Value("float32"))


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
    with pytest.raises(ValueError, match=rf"{step.__name__}: labels='{labels}' needs.*'drop', 'pad' or 'error'"):
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
    with pytest.raises(ValueError, match=r"the rows have \['label'\] already"):
        step(corpus, n=1, labels="scores")(rows)
    assert "anchor" in step(corpus, n=1)(rows)


@pytest.mark.parametrize(("step", "labels"), KINDS)
def test_labels_are_part_of_what_a_step_is(corpus, step, labels):
    import pickle

    steps = [step(corpus, n=1), step(corpus, n=1, labels=labels), step(corpus, n=1, labels=labels, by="judge")]
    assert len(set(steps)) == len({pickle.dumps(one) for one in steps}) == 3
    assert [pickle.loads(pickle.dumps(one)) for one in steps] == steps
