"""Every form is recognised by its columns and read into the same parts, or refused with what is wrong."""

import numpy as np
import pytest
from datasets import Dataset, Features, Value

from hnm_datasets.batch import Batch
from hnm_datasets.formats.reading import FORMS, read_rows, recognize

SIDES = ("positives", "negatives")
#: Two queries with one positive and two negatives each.
QUERIES = ["one?", "two?"]
TEXTS = {"positives": [["A"], ["B"]], "negatives": [["x", "y"], ["z", "x"]]}
IDS = {"positives": [["a"], ["b"]], "negatives": [["1", "2"], ["3", "1"]]}
SCORES = {"positives": [[4.0], [3.0]], "negatives": [[2.0, 1.0], [0.5, 0.25]]}


def read(columns, batch_format="arrow", **options):
    dataset = columns if isinstance(columns, Dataset) else Dataset.from_dict(columns, **options)
    form = recognize(dataset.column_names, "test")
    return form, read_rows(form, Batch(dataset.with_format(batch_format)[:], step="test"))


def lists(side, part):
    """Write a part of a side as lists, row by row."""
    values = getattr(side, part) if part != "scores" else side.scores
    if part == "scores":
        return {name: lists_of(side, one.tolist()) for name, one in values.items()}
    return None if values is None else lists_of(side, values.to_pylist())


def lists_of(side, values):
    return [values[begin:end] for begin, end in zip(side.offsets[:-1], side.offsets[1:], strict=True)]


def parts(rows, part):
    return {name: lists(getattr(rows, name), part) for name in SIDES}


def example(form, ids=True, scores=True):
    """Write the two queries in a form."""
    anchors = {"anchor_id": ["q1", "q2"]} if ids else {}
    queries = {"query": QUERIES} | ({"query_id": ["q1", "q2"]} if ids else {})
    both = [[*a, *b] for a, b in zip(TEXTS["positives"], TEXTS["negatives"], strict=True)]
    both_ids = [[*a, *b] for a, b in zip(IDS["positives"], IDS["negatives"], strict=True)]
    both_scores = [[*a, *b] for a, b in zip(SCORES["positives"], SCORES["negatives"], strict=True)]
    if form == "mined":
        columns = queries | {"positive_ids": IDS["positives"], "negative_ids": IDS["negatives"]}
        if scores:
            columns |= {"positive_scores": SCORES["positives"], "negative_scores": SCORES["negatives"]}
        return columns
    if form == "n-tuples":
        columns = {"anchor": QUERIES, "positive": ["A", "B"], "negative_1": ["x", "z"], "negative_2": ["y", "x"]}
        if ids:
            columns |= anchors | {"positive_id": ["a", "b"], "negative_1_id": ["1", "3"], "negative_2_id": ["2", "1"]}
        if scores:
            columns |= {"positive_score": [4.0, 3.0], "negative_1_score": [2.0, 0.5], "negative_2_score": [1.0, 0.25]}
        return columns
    if form == "labeled-lists":
        columns = {"anchor": QUERIES, "passages": both, "labels": [[1.0, 0.0, 0.0]] * 2}
        columns |= anchors | ({"passage_ids": both_ids} if ids else {})
        return columns | ({"passage_scores": both_scores} if scores else {})
    if form == "tevatron":
        passages = {
            f"{side.removesuffix('s')}_passages": [
                [{"docid": i, "title": "", "text": t} for i, t in zip(*row, strict=True)]
                for row in zip(IDS[side], TEXTS[side], strict=True)
            ]
            for side in SIDES
        }
        return queries | passages
    columns = queries | {"pos": TEXTS["positives"], "neg": TEXTS["negatives"], "prompt": ["p"] * 2, "type": ["t"] * 2}
    if ids:
        columns |= {"pos_id": IDS["positives"], "neg_id": IDS["negatives"]}
    return columns | ({"pos_scores": SCORES["positives"], "neg_scores": SCORES["negatives"]} if scores else {})


LIST_FORMS = ["mined", "n-tuples", "labeled-lists", "tevatron", "flagembedding"]


# ---- recognising -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "described"),
    [
        (["query_id", "query", "positive_ids", "negative_ids"], "mined (query, positive_ids, negative_ids)"),
        (["anchor", "positive", "negative", "label"], "triplets (anchor, positive, negative)"),
        (["q", "a", "negative"], "triplets (q, a, negative)"),
        (["id", "title", "body", "negative"], "triplets (title, body, negative)"),
        (["anchor_id", "scores", "label", "title", "body", "negative"], "triplets (title, body, negative)"),
        (["negative", "positive", "anchor"], "triplets (anchor, positive, negative)"),
        (
            ["anchor", "positive", *(f"negative_{place}" for place in (10, 9, 1)), "negative_1_id"],
            "n-tuples (anchor, positive, negative_1, negative_9, negative_10)",
        ),
        (
            ["anchor", "positive", *(f"negative_{place}" for place in range(1, 8))],
            "n-tuples (anchor, positive, negative_1, negative_2, …, negative_7)",
        ),
        (["question", "answer", "label"], "labeled-pairs (question, answer, label)"),
        (["anchor", "passages", "labels", "passage_ids"], "labeled-lists (anchor, passages, labels)"),
        (
            ["query_id", "query", "positive_passages", "negative_passages"],
            "tevatron (query, positive_passages, negative_passages)",
        ),
        (["query", "pos", "neg", "pos_scores", "neg_scores", "prompt", "type"], "flagembedding (query, pos, neg)"),
    ],
)
def test_forms_are_recognised_by_their_columns(columns, described):
    form = recognize(columns, "test")
    assert form.describe() == described
    assert form.names == tuple(columns)
    assert form.name in FORMS
    assert form.has_ids == (form.name == "mined")
    assert form.query_id == next((name for name in ("query_id", "anchor_id") if name in columns), None)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["query", "answer"], r"test: no form .* in the columns \['query', 'answer'\].*flagembedding"),
        (["query", "negative_ids"], r"'mined' was recognised, and it needs the columns \['positive_ids'\] also"),
        (["query", "positive_passages"], r"'tevatron' was .*\['negative_passages'\]"),
        (["positive_passages", "negative_passages"], r"'tevatron' was .*\['query'\]"),
        (["query", "neg"], r"'flagembedding' was .*\['pos'\]"),
        (["anchor", "negative"], r"'triplets' was recognised by 'negative'.*queries and one of positives"),
        (["anchor", "negative_1"], r"'n-tuples' was recognised by 'negative_1'"),
        (["label"], r"'labeled-pairs' was recognised by 'label'.*one of passages"),
        (["anchor", "passage_ids", "labels"], r"'labeled-lists' was recognised by 'labels'"),
    ],
)
def test_what_is_missing_is_named(columns, message):
    with pytest.raises(KeyError, match=message):
        recognize(columns, "test")


# ---- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", LIST_FORMS)
@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("batch_format", ["arrow", None])
def test_all_forms_read_alike(form, ids, scores, batch_format):
    found, rows = read(example(form, ids, scores), batch_format)
    assert found.name == form
    assert rows.queries.to_pylist() == QUERIES
    assert rows.query_ids is None if not ids else rows.query_ids.to_pylist() == ["q1", "q2"]
    assert parts(rows, "texts") == (dict.fromkeys(SIDES) if form == "mined" else TEXTS)
    assert parts(rows, "ids") == (IDS if ids or form in ("mined", "tevatron") else dict.fromkeys(SIDES))
    by = "teacher" if form == "flagembedding" else "score"
    there = scores and form != "tevatron"
    assert parts(rows, "scores") == {side: {by: SCORES[side]} if there else {} for side in SIDES}
    assert rows.negatives.owners.tolist() == [0, 0, 1, 1]
    assert rows.negatives.lengths.tolist() == [2, 2]
    assert (len(rows.positives), len(rows.negatives)) == (2, 4)


def test_triplets_and_labeled_pairs_have_one_passage_a_column_or_row():
    _, rows = read({"anchor": QUERIES, "positive": ["A", "B"], "negative": ["x", "y"], "negative_id": ["1", "2"]})
    assert parts(rows, "texts") == {"positives": [["A"], ["B"]], "negatives": [["x"], ["y"]]}
    assert parts(rows, "ids") == {"positives": None, "negatives": [["1"], ["2"]]}
    _, rows = read(
        {
            "anchor": QUERIES, "passage": ["A", "x"], "label": [True, False], "anchor_id": ["q1", "q2"],
            "passage_id": ["a", "1"], "passage_score": [4, 2],
        }
    )  # fmt: skip
    assert parts(rows, "texts") == {"positives": [["A"], []], "negatives": [[], ["x"]]}
    assert parts(rows, "ids") == {"positives": [["a"], []], "negatives": [[], ["1"]]}
    assert parts(rows, "scores")["negatives"] == {"score": [[], [2.0]]}


def test_mined_rows_bring_ranks_sources_and_all_scores():
    more = {
        "negative_ranks": [[1, 2], [1, 7]],
        "negative_source": [["bm25", "dense"], ["bm25", "bm25"]],
        "negative_teacher_scores": [[0.1, None], [0.3, 0.4]],
        "positive_teacher_scores": [[0.9], [0.8]],
        "negative_other_ranks": [[1, 2], [0, 1]],
    }
    _, rows = read(example("mined") | more)
    assert rows.negatives.ranks.tolist() == [1, 2, 1, 7]
    assert rows.negatives.sources.to_pylist() == ["bm25", "dense", "bm25", "bm25"]
    assert set(rows.negatives.scores) == set(rows.positives.scores) == {"score", "teacher"}
    np.testing.assert_array_equal(rows.negatives.scores["teacher"], [0.1, np.nan, 0.3, 0.4])


def test_a_null_text_is_no_passage():
    _, rows = read({"anchor": QUERIES, "positive": ["A", None], "negative": [None, "y"], "negative_id": [None, "2"]})
    assert parts(rows, "texts") == {"positives": [["A"], []], "negatives": [[], ["y"]]}
    assert parts(rows, "ids")["negatives"] == [[], ["2"]]
    columns = example("n-tuples") | {"negative_1": [None, "z"], "negative_1_id": [None, "3"]}
    _, rows = read(columns | {"negative_1_score": [None, 0.5]})
    assert parts(rows, "texts")["negatives"] == [["y"], ["z", "x"]]
    assert parts(rows, "ids")["negatives"] == [["2"], ["3", "1"]]
    assert parts(rows, "scores")["negatives"] == {"score": [[1.0], [0.5, 0.25]]}
    _, rows = read({"anchor": QUERIES, "positive": ["A", "B"], "negative": [None, None]})
    assert len(rows.negatives) == 0


def test_null_and_empty_lists_have_no_passage():
    _, rows = read({"query": QUERIES, "pos": [["A"], None], "neg": [[], []], "neg_scores": [[], []]})
    assert parts(rows, "texts") == {"positives": [["A"], []], "negatives": [[], []]}
    _, rows = read({"query": QUERIES, "positive_passages": [[], []], "negative_passages": [None, []]})
    assert parts(rows, "texts") == {"positives": [[], []], "negatives": [[], []]}
    _, rows = read({"anchor": QUERIES, "passages": [[], []], "labels": [[], []]})
    assert parts(rows, "texts") == {"positives": [[], []], "negatives": [[], []]}


def test_parts_of_a_table_are_read_from_where_they_begin():
    for form in LIST_FORMS:
        table = Dataset.from_dict(example(form)).data.table.slice(1)
        rows = read_rows(recognize(table.column_names, "test"), Batch(table, step="test"))
        assert lists(rows.negatives, "ids") == IDS["negatives"][1:]
        assert lists(rows.negatives, "texts") == (None if form == "mined" else TEXTS["negatives"][1:])


def test_tevatron_titles_are_read_and_joined():
    passages = [[{"docid": "1", "title": "Plates", "text": "They move."}, {"docid": "2", "title": None, "text": "x"}]]
    _, rows = read({"query": ["a?"], "positive_passages": passages, "negative_passages": [[]]})
    assert rows.positives.titles.to_pylist() == ["Plates", ""]
    assert rows.positives.full_texts.to_pylist() == ["Plates They move.", "x"]


def test_tevatron_passages_without_an_id_are_told_apart_by_their_texts():
    ids_and_texts = [(None, "x"), (None, "y"), (None, "x"), ("", "y")]
    passages = [[{"docid": docid, "title": "", "text": text} for docid, text in ids_and_texts]]
    _, rows = read({"query": ["a?"], "positive_passages": passages, "negative_passages": passages})
    first, second, third, fourth = rows.positives.ids.to_pylist()
    assert first == third
    assert second == fourth
    assert first != second
    _, rows = read({"query": ["a?"], "positive_passages": [[{"text": "x"}]], "negative_passages": [[{"text": "y"}]]})
    assert rows.positives.ids is None
    assert rows.positives.titles is None


# ---- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"anchor": [None], "positive": ["A"], "negative": ["x"]}, ValueError, "'anchor' is null"),
        ({"anchor": [1], "positive": ["A"], "negative": ["x"]}, TypeError, "'anchor' must hold strings, got int64"),
        ({"anchor": ["a"], "positive": [1], "negative": ["x"]}, TypeError, "'positive' must hold texts, got int64"),
        (
            {"anchor": ["a"], "positive": ["A"], "negative": ["x"], "negative_id": [None]},
            ValueError,
            "'negative_id' is null in row 0 of the batch, and 'negative' is not. Fill the id",
        ),
        (
            {"anchor": ["a"], "positive": ["A"], "negative": ["x"], "scores": [[1.0, 2.0, 3.0]]},
            ValueError,
            "'scores' must hold 2 scores a row.*has 3",
        ),
        (
            {"anchor": ["a"], "positive": ["A"], "negative": ["x"], "positive_score": ["high"]},
            TypeError,
            "'positive_score' must hold numbers, got string",
        ),
        ({"anchor": ["a"], "passage": ["A"], "label": [None]}, ValueError, "'label' holds nan"),
        ({"anchor": ["a"], "passage": ["A"], "label": [2]}, ValueError, "'label' holds 2"),
        ({"anchor": ["a"], "passages": [["A"]], "labels": [[1, 0]]}, ValueError, "'passages' and 'labels' must be al"),
        (
            {"anchor": ["a"], "passages": [["A"]], "labels": [[1]], "passage_ids": [["a", "b"]]},
            ValueError,
            "'passages' and 'passage_ids' must be aligned",
        ),
        (
            {"anchor": ["a"], "passages": [["A"]], "labels": [[1]], "passage_scores": [[]]},
            ValueError,
            "'passages' and 'passage_scores' must be aligned",
        ),
        ({"query": ["a"], "pos": [["A"]], "neg": ["x"]}, TypeError, "'neg' must hold lists"),
        (
            {"query": ["a"], "pos": [["A"]], "neg": [["x", None]]},
            ValueError,
            "'neg' holds a null in the row with query",
        ),
        ({"query": ["a"], "pos": [["A"]], "neg": [["x"]], "neg_id": [[]]}, ValueError, "'neg' and 'neg_id' must be al"),
        ({"query": ["a"], "pos": [["A"]], "neg": [["x"]], "neg_scores": [[]]}, ValueError, "'neg' and 'neg_scores'"),
        (
            {"query": ["a"], "positive_passages": [["A"]], "negative_passages": [[]]},
            TypeError,
            "'docid', 'title' and 'te",
        ),
        (
            {"query": ["a"], "positive_passages": [[{"text": "A"}, None]], "negative_passages": [[]]},
            ValueError,
            "'positive_passages' holds a null in the row with query 'a'",
        ),
        (
            {"query": ["a"], "positive_ids": [["p"]], "negative_ids": [["n"]], "negative_ranks": [[None]]},
            ValueError,
            "'negative_ranks' holds a null",
        ),
        (
            {"query": ["a"], "positive_ids": [["p"]], "negative_ids": [["n"]], "negative_ranks": [[1, 2]]},
            ValueError,
            "'negative_ids' and 'negative_ranks' must be aligned",
        ),
        (
            example("mined") | {"positive_scores": [[], [1.0]]},
            ValueError,
            "'positive_ids' and 'positive_scores' must be aligned",
        ),
    ],
)
def test_what_does_not_fit_is_named(columns, error, message):
    with pytest.raises(error, match=message):
        read(columns)


@pytest.mark.parametrize("form", LIST_FORMS)
def test_no_rows(form):
    dataset = Dataset.from_dict(example(form)).select([])
    _, rows = read(dataset)
    assert len(rows.queries) == len(rows.positives) == len(rows.negatives) == 0
    columns = {name: [] for name in dataset.column_names}
    _, rows = read(Dataset.from_dict(columns, features=Features(dict.fromkeys(columns, Value("null")))))
    assert len(rows.negatives) == 0
