"""Positives of other rows of a question, and copies without titles, are named by an audit."""

import pytest
from datasets import Dataset

from hnm_datasets import BM25Negatives, Corpus, ToTriplets, audit_negatives, convert, pool_positives

QUESTION = "what is the capital of France"
VARIANTS = ["What is the capital of FRANCE", f" {QUESTION}\n", "what is the capital of Ｆrance"]
TEXTS = ["Paris is the capital of France.", "The capital of France: Paris.", "Italy has another capital than France."]


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_dataset(Dataset.from_dict({"id": ["p0", "p1", "p2"], "text": TEXTS}))


def defects(*given, **options):
    found = {defect.name: defect.count for defect in audit_negatives(*given, **options).defects}
    found.pop("near-duplicates-of-positives", None)
    # FlagEmbedding keeps scores as a teacher's.
    found.pop("false-negatives", None)
    return found


def mined(corpus, second, **columns):
    rows = {"query": [QUESTION, second], "positive_ids": [["p0"], ["p1"]]} | columns
    return Dataset.from_dict(rows).map(BM25Negatives(corpus), batched=True)


@pytest.mark.parametrize("second", VARIANTS)
def test_the_positive_of_a_variant_of_the_query_is_named(corpus, second):
    rows = mined(corpus, second)
    assert defects(rows, corpus) == {"positives-of-the-question": 2}
    triplets = rows.map(ToTriplets(corpus), batched=True, remove_columns=rows.column_names)
    assert defects(triplets) == {"positives-of-the-question": 2}
    for form in ("tevatron", "flagembedding", "n-tuples"):
        assert defects(convert(rows, form, corpus)) == {"positives-of-the-question": 2}


@pytest.mark.parametrize("second", [QUESTION, *VARIANTS])
def test_the_positive_of_another_query_id_is_named(corpus, second):
    rows = mined(corpus, second, query_id=["q1", "q2"])
    assert defects(rows, corpus) == {"positives-of-the-question": 2}
    assert defects(rows) == {"positives-of-the-question": 2}
    (defect,) = audit_negatives(rows).defects
    assert "pool_positives" in defect.remedy
    assert "q1" in defect.examples[0]


def test_the_positive_of_a_row_with_the_same_query_is_a_known_positive(corpus):
    rows = mined(corpus, QUESTION)
    assert defects(rows, corpus) == {"known-positives": 2}


def test_pooled_rows_have_no_such_defect(corpus):
    rows = pool_positives(mined(corpus, VARIANTS[0])).map(BM25Negatives(corpus), batched=True)
    assert defects(rows, corpus) == {}


def test_copies_of_the_positive_of_another_row_are_named(corpus):
    triplets = {"anchor": ["q", "Q"], "positive": ["One.", "Two."], "negative": ["TWO.", "Three."]}
    assert defects(Dataset.from_dict(triplets)) == {"positives-of-the-question": 1}


# ---- without titles ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def titled():
    columns = {"id": ["a", "b", "c", "d"], "title": ["zoos", "zoos", "parks", "zoos"]}
    return Corpus.from_dataset(Dataset.from_dict(columns | {"text": [QUESTION, "Bad.", " BAD.", "Good."]}))


def titled_rows(query=QUESTION):
    return Dataset.from_dict({"query": [query], "positive_ids": [["b"]], "negative_ids": [["a", "c", "d"]]})


@pytest.mark.parametrize("query", [QUESTION, QUESTION.upper(), f"zoos {QUESTION}"])
def test_the_query_and_the_positive_are_found_under_another_title(titled, query):
    rows = titled_rows(query)
    expected = {"queries-as-negatives": 1, "duplicates-of-positives": 1}
    assert defects(rows, titled) == expected
    triplets = convert(rows, "triplets", titled)
    assert defects(triplets, titled) == expected


def test_formats_that_keep_titles_are_compared_without_them_too(titled):
    rows = convert(titled_rows(), "tevatron", titled)
    assert defects(rows) == {"queries-as-negatives": 1, "duplicates-of-positives": 1}


# ---- judgments ---------------------------------------------------------------------------------------------------


def test_judgments_that_contradict_themselves_are_refused(corpus):
    rows = mined(corpus, "another", query_id=["q1", "q2"])
    judged = {"query_id": ["q1", "q1", "q1", "q2"], "corpus_id": ["p1", "p2", "p1", "p1"], "score": [1, 0, 0, 0]}
    with pytest.raises(ValueError, match=r"judgments: the passage 'p1' is judged both relevant and not .* query 'q1'"):
        audit_negatives(rows, corpus, judgments=Dataset.from_dict(judged))
    repeated = judged | {"score": [1, 0, 2, 0]}
    found = audit_negatives(rows, corpus, judgments=Dataset.from_dict(repeated)).false_negatives
    assert found.false == 1
    nothing = judged | {"score": [1, 0, None, 0]}
    assert audit_negatives(rows, corpus, judgments=Dataset.from_dict(nothing)).false_negatives.false == 1
