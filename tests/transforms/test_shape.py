"""Shapes: the rows that a trainer takes, written out by hand, wherever `map` runs."""

import subprocess
import sys

import pytest
from datasets import Dataset

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
        "import sys, hnm_datasets.transforms.shape\n"
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
