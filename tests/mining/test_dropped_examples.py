"""Three examples of what each filter dropped: really dropped, for the reason that `explain` says."""

import json
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from datasets import Dataset
from mining_helpers import make_rows, pooled_rows

from hnm_datasets import (
    AbsoluteMargin,
    BM25Negatives,
    Corpus,
    DropKnownPositives,
    DropNearDuplicates,
    FuseNegatives,
    MiningReport,
    PositiveSimilarity,
    RandomNegatives,
    RankWindow,
    RelativeMargin,
    SampleNegatives,
    ScoreBand,
    SortNegatives,
    TeacherThreshold,
    TopNegatives,
    ToTriplets,
    explain,
    mine,
)
from hnm_datasets.mining.memory import with_memory
from hnm_datasets.transforms.base import CandidateFilter


@pytest.fixture(scope="module")
def mined(corpus):
    return mine(pooled_rows(), [BM25Negatives(corpus, k=8)])


def filters(corpus):
    return [
        RankWindow(2, 6),
        RelativeMargin(0.3),
        AbsoluteMargin(0.1, against="min"),
        ScoreBand(min=0.4),
        TeacherThreshold(1.2, by="score"),
        TeacherThreshold(0.5, 0.9, by="score", promote=True),
        DropNearDuplicates(corpus, 0.5),
        PositiveSimilarity(corpus, max=0.1),
        DropKnownPositives(corpus),
    ]


@pytest.mark.parametrize("place", range(9))
def test_they_are_what_explain_says(corpus, mined, place):
    step = filters(corpus)[place]
    rows = {row["query_id"]: row for row in mined}
    one = MiningReport.of(mine(pooled_rows(), [BM25Negatives(corpus, k=8), step])).steps[-1]
    assert len(one.examples) == min(one.dropped, 3)
    assert len({(example.query_id, example.passage_id) for example in one.examples}) == len(one.examples)
    for example in one.examples:
        row = rows[example.query_id]
        assert example.query == row["query"]
        explained = {
            passage.id: passage for passage in explain(row, corpus, steps=[step]).passages if passage.kind == "negative"
        }[example.passage_id]
        assert example.text == explained.text
        assert [example.verdict] == list(explained.verdicts.values())
        assert [example.reason] == list(explained.reasons.values())
    if isinstance(step, TeacherThreshold) and step.promote:
        assert "promoted" in {example.verdict for example in one.examples}


def test_rows_are_spread_evenly_and_each_gives_its_first():
    rows = Dataset.from_dict(
        {
            "query": [f"query {number}" for number in range(9)],
            "negative_ids": [[f"{number}-{place}" for place in range(4)] for number in range(9)],
            # Of every second row, two candidates are dropped.
            "negative_ranks": [[5, 9, 8, 5] if number % 2 else [1, 2, 3, 4] for number in range(9)],
        }
    )
    (one,) = MiningReport.of(mine(rows, [RankWindow(1, 5)])).steps
    assert [(example.query, example.passage_id) for example in one.examples] == [
        ("query 1", "1-1"),
        ("query 5", "5-1"),
        ("query 7", "7-1"),
    ]
    (few,) = MiningReport.of(mine(rows.select([0, 1]), [RankWindow(2, 5)])).steps
    assert [example.passage_id for example in few.examples] == ["0-0", "1-1", "1-2"]
    assert {example.text for example in few.examples} == {None}


def test_a_passage_that_is_there_twice_is_told_apart_by_its_scores():
    rows = Dataset.from_dict(
        {
            "negative_ids": [["a", "a", "b", "a"], ["c", "c", "c", "d"]],
            "negative_ranks": [[1, 7, 3, 9], [4, 4, 8, 2]],
            "negative_scores": [[0.9, float("nan"), None, 0.1], [0.5, 0.5, 0.5, 0.5]],
        }
    )
    (one,) = MiningReport.of(mine(rows, [RankWindow(2, 7)])).steps
    assert [(example.passage_id, example.reason) for example in one.examples] == [
        ("a", "1 < min 2"),
        ("a", "9 > max 7"),
        ("c", "8 > max 7"),
    ]


def test_the_filter_is_asked_why_alone(corpus, monkeypatch):
    """Its rows may have come from the cache, and it may hold a model."""
    steps = [BM25Negatives(corpus, k=8), KeepNone("because")]
    mine(make_rows(), steps)

    def refuse(self, batch, candidates):
        raise AssertionError("called")

    monkeypatch.setattr(KeepNone, "_keep", refuse)
    last = MiningReport.of(mine(make_rows(), steps)).steps[-1]
    assert [example.reason for example in last.examples] == ["because"] * 3


def test_they_are_the_same_however_they_were_mapped(corpus):
    steps = [BM25Negatives(corpus, k=8), RankWindow(2), DropNearDuplicates(corpus, 0.5), ToTriplets(corpus)]
    reports = [
        MiningReport.of(mine(make_rows(9), steps, **how))
        for how in ({}, {"num_proc": 2, "batch_size": 2}, {"batch_size": 4})
    ]
    assert reports[0] == reports[1] == reports[2]
    assert len(reports[0].steps[1].examples) == 3
    formatted = mine(make_rows(9).with_format("numpy"), steps)
    assert MiningReport.of(formatted).steps == reports[0].steps


def test_only_filters_have_examples(corpus):
    def fewer(batch):
        return {"negative_ids": [ids[:1] for ids in batch["negative_ids"]]}

    bm25 = BM25Negatives(corpus, k=8)
    others = [TopNegatives(4), SampleNegatives(3), SortNegatives("score"), bm25, RandomNegatives(corpus, k=4), fewer]
    mined = mine(make_rows(), [bm25, *others])
    assert {one.examples for one in MiningReport.of(mined).steps} == {()}
    assert "Examples" not in MiningReport.of(mined).to_markdown() + MiningReport.of(mined)._repr_html_()


def test_texts_come_from_the_nearest_step_that_holds_a_corpus(corpus):
    texts = Dataset.from_dict({"id": corpus.columns["id"], "text": ["another text"] * len(corpus)})
    another = Corpus.from_dataset(texts.add_column("title", [f"title {number}" for number in range(len(corpus))]))
    bm25 = BM25Negatives(corpus, k=8)
    fuse = FuseNegatives({"bm25": bm25, "random": RandomNegatives(corpus, k=3)})
    mapped = make_rows().map(bm25, batched=True)

    def texts_of(rows, steps):
        report = MiningReport.of(mine(rows, steps))
        (found,) = (one.examples for one in report.steps if one.examples)
        return [(corpus[one.passage_id]["text"], one.text) for one in found]

    window = RankWindow(2)
    for rows, steps in (
        (make_rows(), [bm25, window]),
        (make_rows(), [fuse, window]),
        (mapped, [window, ToTriplets(corpus)]),
        (make_rows(), [bm25, window, SampleNegatives(2, per="group", corpus=grouped(corpus))]),
    ):
        assert all(own == text for own, text in texts_of(rows, steps))
    assert {text for _, text in texts_of(mapped, [window])} == {None}
    assert texts_of(mapped, [PositiveSimilarity(another, max=0.5), Holder(corpus)])[0][1].endswith("another text")
    # A passage that the corpus lacks has an id alone.
    some = Corpus.from_dataset(Dataset.from_dict({"id": ["other"], "text": ["other"]}))
    assert {text for _, text in texts_of(mapped, [window, Holder(some)])} == {None}


def grouped(corpus):
    columns = {"id": corpus.columns["id"], "text": corpus.columns["text"], "group": ["one"] * len(corpus)}
    return Corpus.from_dataset(Dataset.from_dict(columns))


@dataclass(frozen=True)
class Holder:
    corpus: Corpus

    def __call__(self, batch):
        return {}


# ---- steps and rows of others ---------------------------------------------------------------------------------------

EVIL = "<script>alert(1)</script> | `x`\n\n# Approved\n\n[click](javascript:alert(1)) \x1b[31m\u202e" + "y" * 500


@dataclass(frozen=True)
class KeepNone(CandidateFilter):
    why: str = ""

    def _keep(self, batch, candidates):
        return np.zeros(len(candidates.values), dtype=bool)

    def _why_dropped(self, batch, candidates, dropped):
        return [self.why] * len(dropped)


def test_a_filter_of_your_own_need_not_say_why():
    rows = Dataset.from_dict({"negative_ids": [[4, 7], [9]], "query_id": [3, 5]})
    (one,) = MiningReport.of(mine(rows, [KeepNone()])).steps
    assert [(each.query, each.query_id, each.passage_id, each.reason) for each in one.examples] == [
        (None, "3", "4", ""),
        (None, "3", "7", ""),
        (None, "5", "9", ""),
    ]
    assert (
        "- **KeepNone** dropped\n  - **query**: 3\n  - **passage**: \\[4\\]"
        in MiningReport.of(mine(rows, [KeepNone()])).to_markdown()
    )


def test_texts_of_others_are_shown_and_not_obeyed(tmp_path):
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": [EVIL], "text": [EVIL], "title": [EVIL]}))
    rows = Dataset.from_dict({"query": [EVIL], "query_id": [EVIL], "negative_ids": [[EVIL]], "positive_ids": [[]]})
    mined = mine(rows, [KeepNone(EVIL + "\ud800"), Holder(corpus)])
    assert len(mined.info.description.splitlines()) == 1
    report = MiningReport.of(mined)
    (example,) = report.steps[0].examples
    for text in (example.query, example.query_id, example.passage_id, example.text, example.reason):
        assert len(text) <= 200
        assert text.startswith("<script>alert(1)</script> | `x` # Approved [click](javascript:alert(1)) [31m")
        assert text.endswith("y …")
    shown = report.to_markdown()
    assert "<script" not in shown + report._repr_html_()
    assert "[click](" not in shown
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown + report._repr_html_())
    assert [line for line in shown.splitlines() if line.startswith("#")] == []
    # Those of a file are anybody's, of any length and with anything in them.
    values = json.loads(json.dumps(report.to_dict()).replace("[31m", "\\u001b[31m\\n# Approved"))
    changed = MiningReport.of(with_memory(rows, values))
    assert changed != report
    assert "\x1b" not in changed.to_markdown() + changed._repr_html_()
    assert "\n# Approved" not in changed.to_markdown()


def test_the_terminal_shows_the_table_alone(corpus, capsys):
    mined = mine(make_rows(), [BM25Negatives(corpus, k=8), RankWindow(2)])
    report = MiningReport.of(mined)
    example = report.steps[1].examples[0]
    assert example.text not in capsys.readouterr().out + repr(report)
    assert example.text in report._repr_html_()
    assert f"- **RankWindow(min=2)** dropped: 1 &lt; min 2\n  - **query**: {example.query}" in report.to_markdown()
    assert report.to_dict()["steps"][1]["examples"][0]["text"] == example.text


def test_reports_of_earlier_versions_are_read(corpus, mined):
    report = MiningReport.of(mine(mined, [RankWindow(2)]))
    values = report.to_dict()
    for one in values["steps"]:
        del one["hardness"], one["examples"]
    old = MiningReport.of(with_memory(mined, values))
    assert old.steps == tuple(replace(one, hardness=None, examples=()) for one in report.steps)
    assert "hardness" not in repr(old)
    more = MiningReport.of(mine(with_memory(mined, values), [RankWindow(3)]))
    assert more.steps[:2] == old.steps
    assert more.steps[2].hardness is not None
