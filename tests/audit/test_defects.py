"""Each defect is one object; it is found on the smallest dataset that has it."""

import numpy as np
import pytest
from datasets import Dataset

from hnm_datasets import Corpus, audit_negatives
from hnm_datasets.audit import defects, sampled, tally
from hnm_datasets.audit.audited_batch import Marked
from hnm_datasets.audit.counting import Found

TEXT = "a plate of the crust moves slowly to the north of the map every single year"
ONE = {"anchor": ["q"], "positive": ["p"], "negative": ["n"]}


def triplets(**columns):
    return Dataset.from_dict(ONE | columns)


def mined(**columns):
    rows = {"query": ["q"], "positive_ids": [["p"]], "negative_ids": [["n"]]}
    return Dataset.from_dict(rows | columns)


CORPUS = {"id": ["p", "n"], "text": ["relevant", "not relevant"]}
SMALLEST = {
    "swapped-columns": triplets(anchor=["q", "q", "x"], positive=["x", "x", "q"], negative=["n", "m", "o"]),
    "known-positives": triplets(negative=["p"]),
    "duplicates-of-positives": triplets(negative=["P "]),
    "near-duplicates-of-positives": triplets(positive=[TEXT], negative=[TEXT + " again"]),
    "queries-as-negatives": triplets(negative=["Q"]),
    "positives-of-the-question": triplets(anchor=["q", "Q "], positive=["p", "m"], negative=["m", "n"]),
    "repeated-negatives": Dataset.from_dict(
        {"anchor": ["q"], "positive": ["p"], "negative_1": ["n"], "negative_2": ["N"]}
    ),
    "repeated-rows": triplets(anchor=["q", "q"], positive=["p", "p"], negative=["n", "n"]),
    "hubs": triplets(
        anchor=[f"q{i}" for i in range(2000)],
        positive=[f"p{i}" for i in range(2000)],
        negative=["hub" if i < 50 else f"n{i}" for i in range(2000)],
    ),
    "no-negatives": mined(negative_ids=[[]]),
    "no-positives": mined(positive_ids=[[]]),
    "unknown-passages": mined(negative_ids=[["unknown"]]),
    "empty-passages": triplets(negative=[" "]),
    "bad-scores": mined(negative_scores=[[float("nan")]]),
    "bad-ranks": mined(negative_ranks=[[0]]),
}


def names_of(rows, **options):
    corpus = Corpus.from_dataset(Dataset.from_dict(CORPUS)) if "query" in rows.column_names else None
    return {defect.name for defect in audit_negatives(rows, corpus, **options).defects}


@pytest.mark.parametrize("name", SMALLEST)
def test_each_is_found(name):
    assert name in names_of(SMALLEST[name])


def test_sound_rows_have_none():
    assert names_of(triplets()) == set()
    assert names_of(mined(negative_scores=[[1.0]], negative_ranks=[[1]])) == set()


def test_all_but_those_that_need_judgments_are_tested_here():
    assert {defect.name for defect in defects.DEFECTS} - set(SMALLEST) == {"unjudged-positives"}


def test_each_is_found_by_one_function():
    for defect in defects.DEFECTS:
        assert sum(hook is not None for hook in (defect.in_batch, defect.in_sample, defect.in_all)) == 1, defect.name


def test_a_defect_is_added_by_one_object(monkeypatch):
    def short_queries(batch):
        yield Marked("row", np.array([len(query) < 2 for query in batch.rows.queries.to_pylist()]))

    def few_rows(counted):
        return Found(1, ["the dataset"]) if len(counted.row_keys) < 3 else Found()

    own = (
        defects.Defect("short-queries", "queries of one letter", "write more", in_batch=short_queries),
        defects.Defect("few-rows", "datasets of few rows", "collect more", in_all=few_rows),
    )
    for module in (defects, sampled, tally):
        monkeypatch.setattr(module, "DEFECTS", (*defects.DEFECTS, *own) if module is defects else module.DEFECTS + own)
    found = {defect.name: defect for defect in audit_negatives(triplets()).defects}
    assert set(found) == {"short-queries", "few-rows"}
    assert found["short-queries"].examples == ("query 'q'",)
    assert (found["short-queries"].count, found["short-queries"].of_rows) == (1, 1)
    assert "write more" in str(audit_negatives(triplets()))
