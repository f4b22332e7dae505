"""Every format is recognized by its columns and read into the same parts; another one is easily added."""

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from format_examples import (
    IDS,
    LIST_FORMATS,
    MINED,
    QUERIES,
    SCORES,
    SIDES,
    TEXTS,
    example,
    lists,
    make_corpus,
    mined,
    parts,
    read,
    text,
)

from hnm_datasets import audit_negatives, convert, save_mined
from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.batch import Batch
from hnm_datasets.formats.base import Format, Side, Written
from hnm_datasets.formats.fields import query_columns, text_array
from hnm_datasets.formats.names import fixed_layout
from hnm_datasets.formats.registry import FORMATS, recognize

# ---- recognizing ---------------------------------------------------------------------------------------------------


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
def test_formats_are_recognized_by_their_columns(columns, described):
    layout = recognize(columns, "test")
    assert layout.describe() == described
    assert layout.names == tuple(columns)
    assert FORMATS[layout.format.name] is layout.format
    assert layout.format.needs_corpus == (layout.format.name == "mined")
    assert layout.query_id == next((name for name in ("query_id", "anchor_id") if name in columns), None)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["query", "answer"], r"test: no format .* in the columns \['query', 'answer'\].*flagembedding"),
        (["query", "negative_ids"], r"'mined' was recognized, but its columns \['positive_ids'\] are missing"),
        (["query", "positive_passages"], r"'tevatron' was .*\['negative_passages'\]"),
        (["positive_passages", "negative_passages"], r"'tevatron' was .*\['query'\]"),
        (["query", "neg"], r"'flagembedding' was .*\['pos'\]"),
        (["anchor", "negative"], r"'triplets' was recognized by 'negative'.*queries and a column of positives"),
        (["anchor", "negative_1"], r"'n-tuples' was recognized by 'negative_1'"),
        (["label"], r"'labeled-pairs' was recognized by 'label'.*a column of passages"),
        (["anchor", "passage_ids", "labels"], r"'labeled-lists' was recognized by 'labels'"),
    ],
)
def test_what_is_missing_is_named(columns, message):
    with pytest.raises(KeyError, match=message):
        recognize(columns, "test")


# ---- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIST_FORMATS)
@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("batch_format", ["arrow", None])
def test_all_formats_read_alike(name, ids, scores, batch_format):
    layout, rows = read(example(name, ids, scores), batch_format)
    assert layout.format.name == name
    assert rows.queries.to_pylist() == QUERIES
    assert rows.query_ids is None if not ids else rows.query_ids.to_pylist() == ["q1", "q2"]
    assert parts(rows, "texts") == (dict.fromkeys(SIDES) if name == "mined" else TEXTS)
    assert parts(rows, "ids") == (IDS if ids or name in ("mined", "tevatron") else dict.fromkeys(SIDES))
    by = "teacher" if name == "flagembedding" else "score"
    there = scores and name != "tevatron"
    assert parts(rows, "scores") == {side: {by: SCORES[side]} if there else {} for side in SIDES}
    assert rows.negatives.owners.tolist() == [0, 0, 1, 1]
    assert rows.negatives.lengths.tolist() == [2, 2]
    assert (len(rows.positives), len(rows.negatives)) == (2, 4)


def test_parts_of_a_table_are_read_from_where_they_begin():
    for name in LIST_FORMATS:
        table = Dataset.from_dict(example(name)).data.table.slice(1)
        rows = recognize(table.column_names, "test").read(Batch(table, step="test"))
        assert lists(rows.negatives, "ids") == IDS["negatives"][1:]
        assert lists(rows.negatives, "texts") == (None if name == "mined" else TEXTS["negatives"][1:])


@pytest.mark.parametrize("name", LIST_FORMATS)
def test_no_rows(name):
    dataset = Dataset.from_dict(example(name)).select([])
    _, rows = read(dataset)
    assert len(rows.queries) == len(rows.positives) == len(rows.negatives) == 0
    columns = {name: [] for name in dataset.column_names}
    _, rows = read(Dataset.from_dict(columns, features=Features(dict.fromkeys(columns, Value("null")))))
    assert len(rows.negatives) == 0


# ---- a format of one's own ---------------------------------------------------------------------------------------


class Judged(Format):
    """One row per query, with lists of relevant and of irrelevant texts."""

    name = "judged"
    columns = "query, relevant, irrelevant"
    title = "judged lists"
    precedence = 5

    def recognize(self, names, owner):
        return fixed_layout(self, names, owner, "relevant", "irrelevant") if "irrelevant" in names else None

    def read(self, layout, batch):
        relevant, irrelevant = batch.string_lists("relevant"), batch.string_lists("irrelevant")
        return Side(relevant.offsets, texts=relevant.values), Side(irrelevant.offsets, texts=irrelevant.values)

    def write(self, rows, width):
        sides = {"relevant": rows.positives, "irrelevant": rows.negatives}
        columns = {name: list_array(side.offsets, text_array(side)) for name, side in sides.items()}
        return Written(np.arange(len(rows.queries)), query_columns(rows, "query_id") | columns)


@pytest.fixture
def judged(monkeypatch):
    monkeypatch.setitem(FORMATS, "judged", Judged())
    return {"query": QUERIES, "relevant": TEXTS["positives"], "irrelevant": TEXTS["negatives"], "note": [1, 2]}


@pytest.mark.parametrize(
    "name", ["triplets", "n-tuples", "labeled-pairs", "labeled-lists", "tevatron", "flagembedding"]
)
def test_a_format_is_declared_by_one_object(judged, name):
    rows = Dataset.from_dict(judged)
    layout, found = read(rows)
    assert layout.describe() == "judged (query, relevant, irrelevant)"
    assert parts(found, "texts") == TEXTS
    back = convert(convert(rows, name), "judged")
    assert back.select_columns(rows.column_names).to_list() == rows.to_list()


def test_a_format_of_ones_own_comes_from_mined_rows_and_back(judged):
    rows = convert(mined(), "judged", make_corpus())
    assert rows[1]["relevant"] == [text("c")]
    assert convert(rows, "mined", make_corpus())["negative_ids"][:] == MINED["negative_ids"]


def test_a_format_of_ones_own_is_audited_and_published(judged, tmp_path):
    rows = Dataset.from_dict(judged | {"irrelevant": [["x", "A"], ["z", "x"]]})
    audit = audit_negatives(rows)
    assert (audit.form, audit.queries, audit.negatives) == ("judged", 2, 4)
    assert [(defect.name, defect.count) for defect in audit.defects] == [("known-positives", 1)]
    card = (save_mined(rows, tmp_path / "set") / "README.md").read_text()
    assert "2 rows in the format *judged lists*, with the columns `query`, `relevant`, `irrelevant`, `note`" in card
    assert 'zip(rows["query"], rows["relevant"], rows["irrelevant"])' in card


def test_a_format_of_ones_own_is_named_in_errors(judged):
    with pytest.raises(KeyError, match=r"Known formats: .*judged \(query, relevant, irrelevant\)"):
        recognize(["a"], "test")
    with pytest.raises(KeyError, match=r"'judged' was recognized, but its columns \['relevant'\] are missing"):
        recognize(["query", "irrelevant"], "test")


def test_every_format_has_a_precedence_of_its_own():
    assert len({format.precedence for format in FORMATS.values()}) == len(FORMATS)
    assert all(name == format.name for name, format in FORMATS.items())
