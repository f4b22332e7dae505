import pytest
from datasets import Dataset

from hnm_datasets import BM25Negatives, TopNegatives, audit_negatives, load_sample
from hnm_datasets.formats.registry import FORMATS

TRIPLETS = {"anchor": ["a?"], "positive": ["A."], "negative": ["B."]}


def test_columns_in_no_known_form_are_listed_with_the_forms():
    with pytest.raises(KeyError) as error:
        audit_negatives(Dataset.from_dict({"sentence": ["a"], "cat": ["b"]}))
    for word in ("'sentence'", "'cat'", *FORMATS):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("columns", "form", "missing"),
    [
        ({"query": ["a"], "negative_ids": [["b"]]}, "mined", "positive_ids"),
        ({"query": ["a"], "neg": [["b"]]}, "flagembedding", "pos"),
        ({"query_id": ["1"], "query": ["a"], "negative_passages": [[]]}, "tevatron", "positive_passages"),
        ({"anchor": ["a"], "negative": ["b"]}, "triplets", "positives"),
        ({"anchor": ["a"], "negative_1": ["b"], "negative_2": ["c"]}, "n-tuples", "positives"),
        ({"anchor": ["a"], "label": [1]}, "labeled-pairs", "passages"),
        ({"anchor": ["a"], "labels": [[1]]}, "labeled-lists", "passages"),
    ],
)
def test_a_missing_column_is_named_with_the_form(columns, form, missing):
    with pytest.raises(KeyError, match=f"{form}.*recognized.*{missing}"):
        audit_negatives(Dataset.from_dict(columns))


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="dataset has no rows"):
        audit_negatives(Dataset.from_dict(TRIPLETS).select([]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"corpus": "wikipedia"}, TypeError, "corpus must be a Corpus, got str"),
        ({"near_duplicates_from": 0}, ValueError, "near_duplicates_from"),
        ({"near_duplicates_from": "much"}, TypeError, "near_duplicates_from"),
        ({"sample": 0}, ValueError, "sample"),
        ({"sample": 1.5}, TypeError, "sample"),
        ({"threshold": "high"}, TypeError, "threshold"),
        ({"threshold": float("nan")}, ValueError, "threshold"),
        ({"teacher": 3}, TypeError, "teacher must be"),
        ({"seed": "x"}, TypeError, "seed"),
        ({"seed": -1}, ValueError, "seed"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        audit_negatives(Dataset.from_dict(TRIPLETS), **arguments)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"query": ["a"], "positive_ids": [["p"]], "negative_ids": [[True]]}, TypeError, "negative_ids.*hold ids"),
        ({"query": [None], "positive_ids": [["p"]], "negative_ids": [["n"]]}, ValueError, "'query' is null"),
        (
            {"query": ["a"], "positive_ids": [["p"]], "negative_ids": [["n"]], "negative_scores": [[1.0, 2.0]]},
            ValueError,
            "aligned",
        ),
        (TRIPLETS | {"negative": [5]}, TypeError, "'negative'.*strings"),
        ({"anchor": ["a"], "passage": ["b"], "label": [0.7]}, ValueError, "labels must be 1.*0.7"),
    ],
)
def test_columns_of_something_else_are_named(columns, error, message):
    with pytest.raises(error, match=message):
        audit_negatives(Dataset.from_dict(columns))


# ---- judgments and teachers that do not fit -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def earthquakes():
    corpus, queries = load_sample("earthquakes")
    return corpus, queries, queries.map(BM25Negatives(corpus, k=4), batched=True)


def test_judgments_are_read_in_any_form(earthquakes):
    corpus, queries, mined = earthquakes
    names = ["richter-scale", "volcanoes"]
    qrels = {"query_id": ["q1"] * 2, "corpus_id": names, "score": [1, 0]}
    forms = [
        qrels,
        {"query-id": ["q1"] * 2, "corpus-id": names, "score": [1.0, 0.0]},
        {"query_id": ["q1"] * 2, "passage_id": names, "score": [2, None]},
        {"query_id": ["q1"], "positive_ids": [names[:1]], "judged_negative_ids": [names[1:]]},
        {"query": queries["query"][:], "positive_ids": [[]], "known_positive_ids": [names[:1]], "query-id": ["q1"]},
    ]
    for form in forms:
        assert audit_negatives(mined, corpus, judgments=Dataset.from_dict(form)).false_negatives.false == 1


def test_judgments_without_their_columns_are_refused(earthquakes):
    corpus, queries, mined = earthquakes
    with pytest.raises(KeyError, match=r"judgments need the columns .*'corpus_id', 'score'.*missing from"):
        audit_negatives(mined, corpus, judgments=Dataset.from_dict({"query_id": ["q1"], "corpus-id": ["tsunamis"]}))
    # Rows without query ids are matched by the queries' texts, which qrels do not have.
    qrels = Dataset.from_dict({"query_id": ["q1"], "corpus_id": ["tsunamis"], "score": [1]})
    with pytest.raises(KeyError, match="by text, because the rows have no query ids"):
        audit_negatives(mined.remove_columns("query_id"), corpus, judgments=qrels)
    assert audit_negatives(mined.remove_columns("query_id"), corpus, judgments=queries).false_negatives.false == 0


def test_judgments_of_other_queries_are_refused(earthquakes):
    corpus, _, mined = earthquakes
    qrels = Dataset.from_dict({"query_id": ["q2"], "corpus_id": ["tsunamis"], "score": [1]})
    with pytest.raises(ValueError, match=r"no query of the dataset is in the judgments.*query 'q1'"):
        audit_negatives(mined, corpus, judgments=qrels)


def test_judgments_of_a_wrong_type_are_refused(earthquakes):
    corpus, _, mined = earthquakes
    with pytest.raises(TypeError, match=r"judgments must be a Dataset, .*judgments\.items"):
        audit_negatives(mined, corpus, judgments={"q1": {"tsunamis": 1}})
    qrels = Dataset.from_dict({"query_id": ["q1"], "corpus_id": ["tsunamis"], "score": ["high"]})
    with pytest.raises(TypeError, match="judgments: the column 'score' must hold numbers"):
        audit_negatives(mined, corpus, judgments=qrels)


def test_judged_ids_and_texts_need_the_corpus():
    qrels = Dataset.from_dict({"query": ["a?"], "positive_ids": [["p"]]})
    with pytest.raises(ValueError, match=r"need the corpus.*audit_negatives\(dataset, corpus, judgments="):
        audit_negatives(Dataset.from_dict(TRIPLETS), judgments=qrels)


def test_a_teacher_that_is_named_must_be_there(earthquakes):
    corpus, _, mined = earthquakes
    with pytest.raises(KeyError, match=r"no scores by 'typo'; available: \['score'\]"):
        audit_negatives(mined, corpus, teacher="typo")
    with pytest.raises(KeyError, match=r"no scores of positives \(needed without threshold=\)"):
        audit_negatives(mined.remove_columns("positive_scores"), corpus, teacher="score")
    assert audit_negatives(mined, corpus, teacher="score").false_negatives.by == "score"


def test_without_a_teacher_the_text_says_how_to_get_one(earthquakes):
    corpus, _, mined = earthquakes
    audit = audit_negatives(mined, corpus)
    assert audit.false_negatives is None
    assert "unknown: pass judgments=, or score with a teacher" in repr(audit)


def test_a_step_that_scores_nothing_is_no_teacher(earthquakes):
    corpus, _, mined = earthquakes
    with pytest.raises(ValueError, match="TopNegatives wrote no scores named 'teacher'"):
        audit_negatives(mined, corpus, teacher=TopNegatives(2))
    with pytest.raises(ValueError, match="needs the corpus"):
        audit_negatives(mined, teacher=TopNegatives(2))
