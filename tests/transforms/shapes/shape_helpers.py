"""Helpers of the tests in this folder."""

import numpy as np
from datasets import Dataset, Features, List, Value
from hypothesis import strategies as st

from hnm_datasets import ToLabeledLists, ToLabeledPairs, ToNTuples, ToTriplets

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


#: Those that leave a row, which `map` asks for.
MAPPED = [case for case in CASES if case[-1]]


JUDGED = {
    "positive_teacher_scores": [[0.9, 0.8], [0.7], [], [0.6]],
    "negative_teacher_scores": [[0.3, 0.2, 0.1], [], [0.25, 0.15], [0.05]],
}


# As many rows come out as went in, but not one for each: `map` sees nothing wrong, and must not mix them up.
AS_MANY = {
    "query_id": ["q1", "q2"],
    "query": ["one?", "two?"],
    "note": [1, 2],
    "positive_ids": [["a"], ["b"]],
    "negative_ids": [["c", "d"], []],
}


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


def label_feature(table):
    return Features.from_arrow_schema(table.schema)["labels" if "labels" in table.column_names else "label"]


def wanted_feature(step, labels):
    plain = step is ToLabeledPairs or (step, labels) == (ToTriplets, "margins")
    return Value("float32") if plain else List(Value("float32"))
