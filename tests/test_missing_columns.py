"""What an error says of scores that rows do not have, where they have others."""

import pytest
from datasets import Dataset

from hnm_datasets import (
    AbsoluteMargin,
    BM25Negatives,
    FuseNegatives,
    RandomNegatives,
    RefreshNegatives,
    RelativeMargin,
    SampleNegatives,
    ScoreBand,
    SortNegatives,
    TeacherThreshold,
    ToLabeledLists,
    ToNTuples,
    ToTriplets,
    calibrate_margin,
    live_negatives,
    load_sample,
    mine,
    pilot,
    plot_scores,
)


@pytest.fixture(scope="module")
def sample():
    corpus, queries = load_sample("earthquakes")
    fuse = FuseNegatives({"bm25": BM25Negatives(corpus, k=3), "dense": RandomNegatives(corpus, k=3)})
    return corpus, queries.map(fuse, batched=True)


def dense(corpus):
    """What is to be read by whom, and the option that chooses scores that are there."""
    judged = Dataset.from_dict({"query_id": ["q1"], "corpus_id": ["a"], "score": [1]})
    return {
        "relative": ("by", lambda rows: RelativeMargin(0.05)(rows)),
        "absolute": ("by", lambda rows: AbsoluteMargin(0.05)(rows)),
        "simans": ("by", lambda rows: SampleNegatives(2, strategy="simans")(rows)),
        "calibrate": ("by", lambda rows: calibrate_margin(rows, judged, 0.1)),
        "mine": ("by", lambda rows: mine(rows, [ToNTuples(corpus, n=2, labels="margins", by="score")])),
        "plot": ("by", lambda rows: plot_scores(rows)),
        "labels": ("by", lambda rows: ToNTuples(corpus, n=2, labels="margins", by="score")(rows)),
        "lists": ("by", lambda rows: ToLabeledLists(corpus, labels="scores", by="score")(rows)),
        "shown": ("with_scores", lambda rows: ToTriplets(corpus, with_scores=True)(rows)),
        "live": ("teacher", lambda rows: live_negatives(Dataset.from_dict(rows), corpus, n=2, teacher="score")),
    }


NAMES = ("relative", "absolute", "simans", "calibrate", "mine", "plot", "labels", "lists", "shown", "live")


@pytest.mark.parametrize("name", NAMES)
def test_after_fusion_the_error_names_the_scores_that_there_are(sample, name):
    corpus, rows = sample
    option, read = dense(corpus)[name]
    plain = rows if name in ("calibrate", "mine", "plot") else rows[:]
    with pytest.raises(KeyError) as error:
        read(plain)
    text = str(error.value)
    assert "needs the column 'positive_scores'" in text
    assert f"use scores that the rows have ('bm25', 'dense'): {option}='dense'" in text
    assert "mine first" not in text


def test_what_reads_scores_of_candidates_alone_needs_no_others(sample):
    _, rows = sample
    teacher = rows[:] | {"negative_teacher_scores": rows["negative_scores"][:]}
    for step in (ScoreBand(min=0, by="judge"), SortNegatives("judge"), TeacherThreshold(by="judge")):
        with pytest.raises(KeyError, match=r"score first.*name='judge'\), batched=True\); or use .*by='teacher'"):
            step(teacher)
    bands = SampleNegatives({(0, 1): 1}, bands="judge")
    with pytest.raises(KeyError, match=r"'negative_judge_scores'.*\('score', 'bm25', 'dense'\): bands="):
        bands(rows[:])


def test_without_any_scores_the_error_says_who_makes_them():
    rows = {"query": ["why?"], "negative_ids": [["a"]]}
    with pytest.raises(KeyError, match=r"'negative_scores'.*mine first.*BM25Negatives"):
        SortNegatives("score")(rows)
    with pytest.raises(KeyError, match=r"'negative_judge_scores'.*name='judge'\), batched=True\)\."):
        SortNegatives("judge")(rows)
    with pytest.raises(KeyError, match=r"'negative_bm25_ranks'.*FuseNegatives"):
        SampleNegatives({"bm25": 2})(rows)


def test_a_refresh_names_the_scores_that_its_steps_write(sample):
    corpus, rows = sample
    live = live_negatives(rows.select_columns(["query", "positive_ids"]), corpus, n=2)
    fuse = FuseNegatives({"bm25": BM25Negatives(corpus), "random": RandomNegatives(corpus)})
    with pytest.raises(ValueError, match=r"Margin needs .*'positive_scores'.*\('bm25', 'random'\): by='random'"):
        RefreshNegatives(live, [fuse, AbsoluteMargin(0.1)], every=4)


@pytest.mark.parametrize("names", [("question", "answer"), ("query", "passage"), ("query_id", "anchor", "positive")])
def test_rows_that_are_pairs_are_converted_first(sample, names):
    corpus, _ = sample
    rows = Dataset.from_dict({name: ["why?", "how?"] for name in names} | {"votes": [1, 2]})
    wanted = rf"To get it: convert the pairs: corpus, rows = from_pairs\(dataset, '{names[-2]}', '{names[-1]}'\)"
    for read in (BM25Negatives(corpus), lambda batch: pilot(Dataset.from_dict(batch), corpus)):
        with pytest.raises(KeyError, match=wanted):
            read(rows[:])


def test_rows_that_are_not_pairs_are_not_taken_for_pairs(sample):
    corpus, _ = sample
    texts = {name: ["why?"] for name in ("a", "b")}
    for rows in (texts | {"c": ["no"]}, {"a": ["why?"]}, texts | {"positive_ids": [["a"]]}):
        with pytest.raises(KeyError, match="To get it: rename your column to 'query'"):
            BM25Negatives(corpus)(rows)
