"""Loaders take rows in any form: each gives the same corpus and rows as a `Dataset` does."""

import pandas as pd
import polars
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, IterableDataset

from hnm_datasets import Corpus, attach_positives, convert, from_mined, from_pairs, pool_positives

FORMS = {
    "pandas": pd.DataFrame,
    "polars": polars.DataFrame,
    "table": pa.table,
    "list": lambda columns: Dataset.from_dict(columns).to_list(),
    "dict": dict,
    "one split": lambda columns: DatasetDict(train=Dataset.from_dict(columns)),
    "strings of Arrow": lambda columns: pd.DataFrame(columns).convert_dtypes(dtype_backend="pyarrow"),
}
PAIRS = {"query": ["a?", "b?", "A?"], "answer": ["A.", "B.", "C."], "topic": ["x", "y", "z"]}
PASSAGES = {"id": ["p1", "p2"], "title": ["One", None], "text": ["Plates move.", "Waves roll."], "group": ["d", "d"]}
QUERIES = {"query_id": ["q1", "q2"], "query": ["a?", "A?"]}
QRELS = {"query_id": ["q1", "q2", "q1"], "corpus_id": ["p1", "p2", "p3"], "score": [1, 2, 0]}
ROWS = {"query": ["a?", "A?"], "positive_ids": [["p1"], ["p2", "p3"]]}
TRIPLETS = {"anchor": ["a?", "a?"], "positive": ["A.", "A."], "negative": ["B.", "C."]}


def answers(make):
    corpus, rows = from_pairs(make(PAIRS))
    mined_corpus, mined = from_mined(make(TRIPLETS))
    return {
        "from_mined": (mined_corpus, mined[:], mined.features),
        "from_pairs": (corpus, rows[:], rows.features, rows._fingerprint),
        "Corpus.from_dataset": Corpus.from_dataset(make(PASSAGES)),
        "attach_positives": attach_positives(make(QUERIES), make(QRELS))[:],
        "pool_positives": pool_positives(make(ROWS))[:],
        "convert": convert(make(TRIPLETS), "flagembedding")[:],
    }


@pytest.fixture(scope="module")
def of_datasets():
    return answers(Dataset.from_dict)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_what_a_dataset_gives(form, of_datasets):
    assert answers(FORMS[form]) == of_datasets


CALLS = {
    "from_pairs": (from_pairs, "dataset"),
    "Corpus.from_dataset": (Corpus.from_dataset, "dataset"),
    "attach_positives": (lambda rows: attach_positives(rows, QRELS), "queries"),
    "attach_positives, qrels": (lambda rows: attach_positives(QUERIES, rows), "qrels"),
    "pool_positives": (pool_positives, "rows"),
    "convert": (lambda rows: convert(rows, "mined"), "dataset"),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_is_refused_names_function_and_parameter(call):
    function, parameter = CALLS[call]
    owner = call.split(",")[0]
    splits = DatasetDict({name: Dataset.from_dict(PAIRS) for name in ("train", "dev")})
    with pytest.raises(ValueError, match=rf"{owner}: {parameter} is a DatasetDict .*such as {parameter}\['train'\]"):
        function(splits)
    with pytest.raises(TypeError, match=rf"{owner}: {parameter} is an IterableDataset"):
        function(IterableDataset.from_generator(lambda: iter([{"query": "a?"}])))
    with pytest.raises(TypeError, match=rf"{owner}: {parameter} must be a Dataset, .*got set"):
        function({"a?"})


def test_a_missing_text_in_a_data_frame_names_column_and_row():
    frame = pd.DataFrame(PAIRS | {"answer": ["A.", float("nan"), "C."]})
    with pytest.raises(ValueError, match="column 'answer' is null or empty in row 1"):
        from_pairs(frame)
    with pytest.raises(ValueError, match="column 'text' is null in the passage 'p2'"):
        Corpus.from_dataset(pd.DataFrame(PASSAGES | {"text": ["Plates move.", None]}))


def test_an_index_of_ids_is_their_column():
    assert Corpus.from_dataset(pd.DataFrame(PASSAGES).set_index("id")) == Corpus.from_dataset(PASSAGES)


def test_columns_that_are_there_already_are_named():
    with pytest.raises(ValueError, match=r"attach_positives: the rows already have the columns \['positive_ids'\]"):
        attach_positives(QUERIES | {"positive_ids": [[], []]}, QRELS)
    with pytest.raises(ValueError, match=r"from_pairs: the rows already have the columns \['query'\]"):
        from_pairs(PAIRS | {"question": ["c?"] * 3}, "question")
    with pytest.raises(ValueError, match=r"already have the columns \['positive_ids'\]"):
        from_pairs(PAIRS | {"positive_ids": [["p"]] * 3})
