"""The table in a terminal, a notebook, Markdown and as plain values; the names of steps."""

import json
from pathlib import Path

import pytest
from mining_helpers import make_rows

from hnm_datasets import (
    BM25Negatives,
    FuseNegatives,
    MiningReport,
    RandomNegatives,
    RankWindow,
    SampleNegatives,
    TeacherThreshold,
    ToNTuples,
    ToTriplets,
    mine,
)
from hnm_datasets.mining.names import full_name, short_name
from hnm_datasets.mining.report import StepCounts
from hnm_datasets.storage.json_values import typed


@pytest.fixture(scope="module")
def report(corpus):
    steps = [BM25Negatives(corpus, k=8), TeacherThreshold(0.5, 0.9, by="score", promote=True)]
    return MiningReport.of(mine(make_rows(), [*steps, ToNTuples(corpus, n=9, missing="pad")]))


def test_the_table_shows_each_step(report):
    lines = repr(report).splitlines()
    assert lines[0].startswith("mine: 7 rows became ")
    assert lines[2].split() == [
        *("step", "rows", "candidates", "mined", "dropped", "%", "promoted", "left"),
        *("hardness", "above", "padding", "rows", "left", "empty", "short"),
    ]
    assert [line.split("(")[0].strip() for line in lines[3:6]] == ["BM25Negatives", "TeacherThreshold", "ToNTuples"]
    assert f"{report.steps[-1].padding} negatives are padding" in lines[-1]
    assert "<table>" in report._repr_html_()
    assert report.to_markdown().startswith("| step | rows |")


def test_the_footer_explains_the_columns_that_are_shown(report, corpus):
    rows = "empty: rows without candidates (of a shape: dropped)"
    assert f"  above: share scoring higher; {rows}; short: fewer than k or n." in repr(report).splitlines()
    unscored = make_rows().map(RandomNegatives(corpus, k=2), batched=True).remove_columns("negative_scores")
    assert f"  {rows}." in repr(MiningReport.of(mine(unscored, [RankWindow(2)]))).splitlines()


def test_names_of_others_are_shown_and_not_obeyed():
    evil = "<b>\x1b[31m|"
    numbers = dict.fromkeys(("rows_in", "rows_out", "candidates_in", "mined", "dropped", "candidates_out"), 1)
    one = StepCounts(evil, evil, False, **numbers, empty=0, short=None, promoted=0, padding=0)
    report = MiningReport((one,), "")
    assert "\x1b" not in repr(report) + report.to_markdown() + report._repr_html_()
    assert "<b>" not in report._repr_html_() + report.to_markdown()


def test_plain_values_are_all_of_it(report):
    assert typed(MiningReport, json.loads(json.dumps(report.to_dict())), "report") == report


def test_short_names_have_the_plain_options(corpus):
    bm25 = BM25Negatives(corpus, k=7)
    assert short_name(bm25) == "BM25Negatives(k=7)"
    assert short_name(BM25Negatives(corpus)) == "BM25Negatives(k=100)"
    fuse = FuseNegatives({"bm25": bm25, "random": RandomNegatives(corpus)}, method="union")
    assert short_name(fuse) == "FuseNegatives(miners={'bm25', 'random'}, method='union')"
    assert short_name(SampleNegatives({(1, 4): 2})) == "SampleNegatives(n={(1.0, 4.0): 2})"
    assert short_name(ToTriplets(corpus)) == "ToTriplets"
    assert short_name(lambda batch: batch) == "<lambda>"


def test_full_names_are_the_same_everywhere(corpus):
    assert full_name(BM25Negatives(corpus)) == repr(BM25Negatives(corpus))
    assert full_name(mine) == "<function mine>"
    assert full_name(Path.home() / "model") == "PosixPath('~/model')"
