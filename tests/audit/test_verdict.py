"""What an audit counts as false negatives is among its defects, in every form of the report."""

import json

import pytest
from datasets import Dataset

from hnm_datasets import Corpus, CrossEncoderScores, audit_negatives, compare_negatives
from hnm_datasets.audit.defects import FALSE_NEGATIVES

QUERIES, PER_QUERY = 20, 5


@pytest.fixture(scope="module")
def corpus():
    ids = [f"p{place}" for place in range(QUERIES * (PER_QUERY + 1))]
    texts = [f"passage of number {place} that tells of topic {place}" for place in range(len(ids))]
    return Corpus.from_dataset(Dataset.from_dict({"id": ids, "title": [""] * len(ids), "text": texts}))


def negatives_of(query):
    return [f"p{QUERIES + PER_QUERY * query + place}" for place in range(PER_QUERY)]


def rows_of(**columns):
    numbers = range(QUERIES)
    return Dataset.from_dict(
        {
            "query_id": [f"q{query}" for query in numbers],
            "query": [f"question {query}" for query in numbers],
            "positive_ids": [[f"p{query}"] for query in numbers],
            "negative_ids": [negatives_of(query) for query in numbers],
        }
        | columns
    )


def scored_rows(false):
    """Rows of which a teacher takes the first negative of some queries for relevant."""
    scores = [[0.9 if query < false and not place else 0.1 for place in range(PER_QUERY)] for query in range(QUERIES)]
    return rows_of(positive_teacher_scores=[[0.8]] * QUERIES, negative_teacher_scores=scores)


def judgments_of(false):
    pairs = [(query, f"p{query}") for query in range(QUERIES)]
    pairs += [(query, negatives_of(query)[0]) for query in range(false)]
    return Dataset.from_dict(
        {
            "query_id": [f"q{query}" for query, _ in pairs],
            "corpus_id": [passage for _, passage in pairs],
            "score": [1] * len(pairs),
        }
    )


def step_of(corpus, false):
    relevant = {f"passage of number {negatives_of(query)[0][1:]} that" for query in range(false)}

    def score(pairs):
        own = [f"passage of number {query.split()[1]} that" for query, _ in pairs]
        found = [passage.split(" tells")[0] for _, passage in pairs]
        return [
            0.9 if there in relevant else 0.8 if there == here else 0.1 for there, here in zip(found, own, strict=True)
        ]

    return CrossEncoderScores(corpus, score, fingerprint=f"false-{false}")


WAYS = {
    "judgments": lambda corpus, false: audit_negatives(rows_of(), corpus, judgments=judgments_of(false)),
    "teacher": lambda corpus, false: audit_negatives(scored_rows(false), corpus),
    "step": lambda corpus, false: audit_negatives(rows_of(), corpus, teacher=step_of(corpus, false)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("false", "is_defect"), [(0, False), (5, False), (6, True), (20, True)])
def test_more_than_a_twentieth_of_false_negatives_is_a_defect(corpus, way, false, is_defect):
    assert FALSE_NEGATIVES == 0.05  # as the documentation of audit_negatives says
    audit = WAYS[way](corpus, false)
    assert audit.false_negatives.false == false
    found = [defect for defect in audit.defects if defect.name == "false-negatives"]
    assert [defect.count for defect in found] == [false] * is_defect
    if not is_defect:
        assert "None found." in repr(audit)
        return
    text = "passage of number 20 that tells of topic 20"
    assert found[0].examples[0] == f"query 'q0' ('question 0'): 'p20' ({text!r})" or way == "step"
    assert text in found[0].examples[0]
    for shown in (repr(audit), audit.to_markdown(), audit._repr_html_(), json.dumps(audit.to_dict())):
        assert "None found." not in shown
        assert "false-negatives" in shown.replace("\\-", "-")
        assert f"{5 * false / 5:.1f}%" in shown
        assert "calibrate" in shown
        assert text in shown


def test_rows_that_nothing_judges_have_no_verdict(corpus):
    audit = audit_negatives(rows_of(), corpus)
    assert audit.false_negatives is None
    assert audit.defects == ()


def test_passages_are_named_by_their_texts_where_there_is_a_corpus(corpus):
    rows = rows_of(negative_ids=[["p0"], *[negatives_of(query) for query in range(1, QUERIES)]])
    (defect,) = audit_negatives(rows, corpus).defects
    assert defect.examples == ("query 'q0' ('question 0'): 'p0' ('passage of number 0 that tells of topic 0')",)
    (defect,) = audit_negatives(rows).defects
    assert defect.examples == ("query 'q0' ('question 0'): 'p0'",)
    name, _ = audit_negatives(rows, corpus).hubs[0]
    assert name == "'p0' ('passage of number 0 that tells of topic 0')"
    other = rows_of(negative_ids=[["p9"], *rows["negative_ids"][1:]])
    for given, expected in ((corpus, " ('passage of number 9 that tells of topic 9')"), (None, "")):
        (difference,) = compare_negatives(rows, other, given).examples
        assert difference.only_second == (f"'p9'{expected}",)
