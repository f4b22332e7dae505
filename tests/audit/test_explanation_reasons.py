"""`explain` says of each negative that a filter drops by what value and limit."""

import html

import pytest
from datasets import Dataset

import hnm_datasets
from hnm_datasets import (
    AbsoluteMargin,
    Corpus,
    DropKnownPositives,
    DropNearDuplicates,
    PositiveSimilarity,
    RankWindow,
    RelativeMargin,
    SampleNegatives,
    ScoreBand,
    SortNegatives,
    TeacherThreshold,
    TopNegatives,
    explain,
)
from hnm_datasets.transforms.base import CandidateFilter
from hnm_datasets.transforms.filters.reasons import compared

TEXTS = {
    "pos": "the plate moves to the north of the sea and the land",
    "copy": "The plate moves to the north of the SEA and the land",
    "near": "the plate moves to the north of the sea and the hills",
    "far": "waves roll to the shore in the evening light",
    "like": "waves roll to the shore in the evening sun",
    "low": "a volcano of fire",
}
NEGATIVES = ["copy", "near", "far", "like", "low"]


@pytest.fixture(scope="module")
def corpus():
    columns = {"id": list(TEXTS), "title": [None, "plates", None, None, None, None], "text": list(TEXTS.values())}
    return Corpus.from_dataset(Dataset.from_dict(columns))


ROW = {
    "query": "why?",
    "positive_ids": ["pos"],
    "positive_scores": [0.9],
    "positive_teacher_scores": [0.8],
    "negative_ids": NEGATIVES,
    "negative_scores": [0.95, 0.88, 0.5, 0.45, 0.1],
    "negative_teacher_scores": [0.99, 0.6, 0.3, 0.2, 0.05],
    "negative_ranks": [1, 3, 4, 6, 9],
}


def steps(corpus):
    return {
        "relative": (
            RelativeMargin(0.05, by="score"),
            {"copy": "0.95 > limit 0.855", "near": "0.88 > limit 0.855"},
        ),
        "absolute": (
            AbsoluteMargin(0.45),
            {"copy": "0.99 > limit 0.35", "near": "0.6 > limit 0.35"},
        ),
        "window": (RankWindow(2, 5), {"copy": "1 < min 2", "like": "6 > max 5", "low": "9 > max 5"}),
        "open window": (RankWindow(4), {"copy": "1 < min 4", "near": "3 < min 4"}),
        "similarity": (PositiveSimilarity(corpus, max=0.3), {"copy": "1 > max 0.3", "near": "0.833 > max 0.3"}),
        "band": (ScoreBand(0.2, 0.9, by="score"), {"copy": "0.95 > max 0.9", "low": "0.1 < min 0.2"}),
        "threshold": (
            TeacherThreshold(0.25),
            {
                "copy": "0.99 >= negative_below 0.25",
                "near": "0.6 >= negative_below 0.25",
                "far": "0.3 >= negative_below 0.25",
            },
        ),
        "promote": (
            TeacherThreshold(0.25, 0.9, promote=True),
            {
                "copy": "0.99 > positive_above 0.9",
                "near": "0.6 >= negative_below 0.25",
                "far": "0.3 >= negative_below 0.25",
            },
        ),
        "known": (DropKnownPositives(corpus), {"copy": "a copy of 'pos'"}),
        "near": (
            DropNearDuplicates(corpus, 0.6),
            {
                "copy": "1 >= threshold 0.6, as 'pos'",
                "near": "0.818 >= threshold 0.6, as 'pos'",
                "like": "0.75 >= threshold 0.6, as 'far'",
            },
        ),
        "top": (TopNegatives(3), {"like": "candidate 4 of n=3", "low": "candidate 5 of n=3"}),
    }


NAMES = ("relative", "absolute", "window", "open window", "band", "threshold", "promote", "known", "near", "top")


@pytest.mark.parametrize("name", NAMES)
def test_a_filter_says_by_what_value_and_limit_it_drops(corpus, name):
    step, expected = steps(corpus)[name]
    key = type(step).__name__
    found = explain(ROW, corpus, steps=[step])
    negatives = [passage for passage in found.passages if passage.kind == "negative"]
    assert {one.id: one.reasons[key] for one in negatives if one.reasons} == expected
    assert {one.id for one in negatives if one.verdicts[key] != "kept"} == set(expected)
    for shown in (repr(found), found.to_markdown(), found._repr_html_()):
        plain = html.unescape(shown).replace("\\", "")
        assert [reason for reason in expected.values() if reason not in plain] == []


def test_every_public_filter_says_why(corpus):
    public = {getattr(hnm_datasets, name) for name in hnm_datasets.__all__}
    filters = {one for one in public if isinstance(one, type) and issubclass(one, CandidateFilter)}
    assert filters == {type(step) for step, _ in steps(corpus).values()} | {SampleNegatives}
    assert all("_why_dropped" in {name for base in one.__mro__[:-3] for name in vars(base)} for one in filters)
    drawn = explain(ROW, corpus, steps=[SampleNegatives(2)]).passages
    assert [one.reasons for one in drawn].count({"SampleNegatives": "not drawn"}) == 3


def test_each_of_several_steps_has_its_own_reasons(corpus):
    found = explain(ROW, corpus, steps=[RankWindow(2), SortNegatives("score"), TopNegatives(1), RankWindow(9)])
    reasons = {passage.id: passage.reasons for passage in found.passages[1:]}
    assert reasons == {
        "copy": {"RankWindow": "1 < min 2"},
        "near": {"RankWindow (2)": "3 < min 9"},
        "far": {"TopNegatives": "candidate 2 of n=1"},
        "like": {"TopNegatives": "candidate 3 of n=1"},
        "low": {"TopNegatives": "candidate 4 of n=1"},
    }


def test_a_filter_of_ones_own_need_not_say_why(corpus):
    from dataclasses import dataclass

    import numpy as np

    @dataclass(frozen=True)
    class DropAll(CandidateFilter):
        def _keep(self, batch, candidates):
            return np.zeros(len(candidates.values), dtype=bool)

    found = explain(ROW, corpus, steps=[DropAll()])
    assert {passage.verdicts["DropAll"] for passage in found.passages[1:]} == {"dropped"}
    assert not any(passage.reasons for passage in found.passages)


@pytest.mark.parametrize(
    ("value", "limit", "expected"),
    [(0.91, 0.87, "0.91 > limit 0.87"), (0.870001, 0.87, "0.870001 > limit 0.87"), (12.0, 3, "12 > limit 3")],
)
def test_values_have_the_digits_that_tell_them_from_their_limits(value, limit, expected):
    assert compared(value, ">", "limit", limit) == expected


def test_known_positives_and_copies_are_told_apart(corpus):
    row = ROW | {"negative_ids": ["pos", *NEGATIVES[1:]], "known_positive_ids": ["far"]}
    reasons = {one.id: one.reasons for one in explain(row, corpus, steps=[DropKnownPositives(corpus)]).passages[1:]}
    assert {name: why for name, why in reasons.items() if why} == {
        "pos": {"DropKnownPositives": "a known positive"},
        "far": {"DropKnownPositives": "a known positive"},
    }
