"""Ids may be whole numbers wherever ids come in; they become strings there, and nothing else changes."""

import json

import numpy as np
import older_versions
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset

from hnm_datasets import (
    BM25Negatives,
    Corpus,
    JudgedNegatives,
    RandomNegatives,
    ToLabeledLists,
    ToNTuples,
    TopNegatives,
    attach_positives,
    convert,
    from_pairs,
    live_negatives,
    load_beir,
    pool_positives,
)

TEXTS = ["Plates move.", "Waves roll.", "Plates collide.", "Bread rises."]
QUERIES = ["why do plates move?", "why do waves roll?"]
#: How each type of ids writes the number of a row.
NUMBERS = {"integers": int, "floats": float, "small": np.int16}


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_dataset({"id": ["0", "1", "2", "3"], "text": TEXTS, "group": ["7", "7", "8", "9"]})


def rows_of(number):
    """Return mined rows whose ids are made by a function."""
    lists = {"positive_ids": [[0], [1]], "negative_ids": [[2, 3], [3]], "judged_negative_ids": [[3], [0]]}
    lists = {name: [[number(one) for one in ids] for ids in column] for name, column in lists.items()}
    known = [[number(2)], []]
    scores = {"negative_scores": [[0.5, 0.25], [0.5]]}
    return {"query_id": [number(10), number(11)], "query": QUERIES, **lists, "known_positive_ids": known, **scores}


def plain(rows):
    """Return rows with the ids of columns that a step leaves alone as strings."""
    return [{name: as_text(value) if "_id" in name else value for name, value in row.items()} for row in rows]


def as_text(ids):
    if isinstance(ids, list):
        return [as_text(one) for one in ids]
    return ids if isinstance(ids, str) else str(int(ids))


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_a_corpus_and_its_groups(number, corpus):
    columns = {
        "id": [number(row) for row in range(4)],
        "text": TEXTS,
        "group": [number(group) for group in (7, 7, 8, 9)],
    }
    assert Corpus.from_dataset(columns) == corpus
    assert Corpus.from_dataset(pd.DataFrame(columns)) == corpus
    asked = [number(2), number(0)]
    for ids in (asked, np.array(asked), pa.array(asked), tuple(asked), ["2", "0"]):
        assert corpus.rows(ids).tolist() == [2, 0]
    assert corpus.find([number(5), number(1)]).tolist() == [-1, 1]


def test_groups_may_be_missing_in_a_data_frame():
    groups = {"group": [7, None, 7]}
    columns = {"id": ["a", "b", "c"], "text": TEXTS[:3]}
    assert Corpus.from_dataset(pd.DataFrame(columns | groups)) == Corpus.from_dataset(
        columns | {"group": ["7", None, "7"]}
    )


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_judgments_and_queries(number):
    judged = [{"query_id": number(10), "corpus_id": number(0)}, {"query_id": number(11), "corpus_id": number(1)}]
    rows = attach_positives({"query_id": [number(10), number(11)], "query": QUERIES}, judged)
    assert rows["query_id"][:] == ["10", "11"]
    assert rows["positive_ids"][:] == [["0"], ["1"]]


def test_beir(tmp_path):
    (tmp_path / "qrels").mkdir()
    for name, rows in (
        ("corpus", [{"_id": row, "text": text} for row, text in enumerate(TEXTS)]),
        ("queries", [{"_id": 10 + row, "text": text} for row, text in enumerate(QUERIES)]),
        ("qrels/train", [{"query-id": 10, "corpus-id": 0, "score": 1}]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus, rows = load_beir(tmp_path)
    assert corpus.ids([0, 3]).to_pylist() == ["0", "3"]
    assert rows[:]["query_id"] == ["10"]
    assert rows[:]["positive_ids"] == [["0"]]


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_pairs_and_pooled_rows(number):
    _, rows = from_pairs({"query": QUERIES, "answer": TEXTS[:2], "query_id": [number(10), number(11)]})
    assert rows["query_id"][:] == ["10", "11"]
    repeated = {"query": ["a?", "A?"], "positive_ids": [[number(1)], [number(2), number(3)]]}
    pooled = pool_positives(repeated | {"negative_ids": [[], [number(4)]]})
    assert pooled[:] == {
        "query": ["a?", "A?"],
        "positive_ids": [["1"], ["2", "3"]],
        "negative_ids": [[], ["4"]],
        "known_positive_ids": [["2", "3"], ["1"]],
    }


STEPS = {
    "BM25Negatives": lambda corpus: BM25Negatives(corpus, k=2),
    "RandomNegatives": lambda corpus: RandomNegatives(corpus, k=1),
    "JudgedNegatives": lambda corpus: JudgedNegatives(corpus, BM25Negatives(corpus)),
    "TopNegatives": lambda corpus: TopNegatives(1),
    "ToNTuples": lambda corpus: ToNTuples(corpus, n=1, with_ids=True),
    "ToLabeledLists": lambda corpus: ToLabeledLists(corpus, with_ids=True),
}


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("step", STEPS)
def test_steps(step, number, corpus):
    step = STEPS[step](corpus)
    wanted = Dataset.from_dict(rows_of(str)).map(step, batched=True)
    found = Dataset.from_dict(rows_of(number)).map(step, batched=True)
    assert plain(found) == plain(wanted)


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_rows_for_training(number, corpus):
    wanted, found = (live_negatives(Dataset.from_dict(rows_of(of)), corpus, n=1, seed=3) for of in (str, number))
    assert found[0].keys() == wanted[0].keys()
    assert [row["negative_1"] for row in found] == [row["negative_1"] for row in wanted]


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("to", ["triplets", "tevatron", "labeled-lists"])
def test_conversion(number, to, corpus):
    wanted, found = (convert(Dataset.from_dict(rows_of(of)), to, corpus) for of in (str, number))
    assert plain(found) == plain(wanted)


def test_other_types_are_refused_everywhere(corpus):
    for ids in ([True], [b"0"]):
        with pytest.raises(TypeError, match="strings or whole numbers"):
            corpus.rows(ids)
        with pytest.raises(TypeError, match="column 'id' must hold ids"):
            Corpus.from_dataset({"id": ids, "text": ["a"]})
        with pytest.raises(TypeError, match="column 'query_id' must hold ids"):
            attach_positives({"query_id": ids, "query": ["a?"]}, {"query_id": ["q"], "corpus_id": ["p"]})
        with pytest.raises(TypeError, match="column 'corpus_id' must hold ids"):
            attach_positives({"query_id": ["q"], "query": ["a?"]}, {"query_id": ["q"], "corpus_id": ids})
        with pytest.raises(TypeError, match="column 'positive_ids' must hold ids"):
            Dataset.from_dict({"query": ["a?"], "positive_ids": [ids]}).map(BM25Negatives(corpus, k=1), batched=True)
    with pytest.raises(ValueError, match=r"the number 0.5 in value 1"):
        corpus.rows([0.0, 0.5])
    with pytest.raises(ValueError, match=r"'positive_ids' holds the number 0.5 in row 1"):
        pool_positives({"query": ["a?", "b?"], "positive_ids": [[1.0], [2.0, 0.5]]})


@older_versions.needs("datasets", "5.2", "it cannot cast lists with nulls")
@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_columns_keep_their_order_and_null_lists(number):
    rows = {"positive_ids": [[number(1)], None], "query": ["a?", "b?"], "query_id": [number(1), number(2)]}
    for form in (rows, Dataset(pa.table(rows).cast(pa.schema(
        [("positive_ids", pa.large_list(pa.float32())), ("query", pa.large_string()), ("query_id", pa.float64())]
    )))):  # fmt: skip
        pooled = pool_positives(form)
        assert pooled[:] == {"positive_ids": [["1"], None], "query": ["a?", "b?"], "query_id": ["1", "2"]}
        assert pooled.column_names == ["positive_ids", "query", "query_id"]
