"""What a pilot found as numbers, text, Markdown and HTML, whatever the strategies are called."""

import html.parser
import json
from dataclasses import replace

import pytest
from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from pilot_helpers import QUICK

from hnm_datasets import BM25Negatives, RandomNegatives, pilot

#: Names that end cells, open tags, drive terminals, and are long.
HOSTILE = [
    "a | b\n| --- |\n# c",
    "<script>alert(1)</script>",
    "\x1b[2J\u202egone",
    "`x` $y$ [z](http://w) ![i](http://v)",
    "name " * 200,
]


@pytest.fixture(scope="module")
def hostile(tiny):
    corpus, rows = tiny
    strategies = {name: [RandomNegatives(corpus, k=4)] for name in HOSTILE}
    strategies[HOSTILE[1]] = [lambda batch: {"<b>": 1 / 0}]
    return pilot(rows, corpus, strategies, **QUICK | {"steps": 1, "seeds": 1})


def test_it_becomes_json_and_back(found, hostile):
    for one in (found, hostile):
        plain = json.loads(json.dumps(one.to_dict(), allow_nan=False))
        assert [trial["name"] for trial in plain["trials"]] == [trial.name for trial in one.trials]
        assert plain["code"] == one.code
        assert "chain" not in plain
    plain = found.to_dict()
    bm25 = next(trial for trial in plain["trials"] if trial["name"] == "BM25")
    assert bm25["hardness"].keys() == {"above", "below", "words"}
    assert bm25["cost"].keys() == {"preparing", "mining", "bytes"}
    assert bm25["false_negatives"]["by"] == "judgments"
    assert bm25["candidates"] == 6
    assert bm25["funnel"]["steps"][0]["mined"] == 6 * 60
    assert plain["untrained"].keys() == {"nDCG@10", "recall@10", "recall@100"}
    assert plain["overlap"]["BM25"]["BM25"] == 1
    assert plain["overlap"]["BM25"]["random"] == plain["overlap"]["random"]["BM25"] < 0.1


def test_each_strategy_is_in_each_form(found):
    for text in (repr(found), found.to_markdown(), found._repr_html_()):
        for name in ("in-batch", "random", "BM25", "dynamic", "untrained"):
            assert name in text
        for words in ("Student trained", "Mined negatives", "negatives in common", "40 other queries"):
            assert words in text


def test_a_terminal_shows_hostile_names_in_narrow_tables(hostile):
    text = repr(hostile)
    assert "\x1b" not in text
    assert "\u202e" not in text
    tables = text[text.index("Student trained") :]
    assert max(map(len, tables.splitlines())) <= 125
    for words in (
        "a | b | --- | # c",
        "gone",
        "`x` $y$ [z](http",
        "name name",
        "Failed strategies",
        "division by zero",
    ):
        assert words in tables


def test_tables_of_markdown_keep_their_columns(hostile):
    tables = [line for line in hostile.to_markdown().splitlines() if line.startswith("|")]
    assert not any("<script" in line for line in tables)
    widths = {line.replace(r"\|", "").count("|") for line in tables}
    # Trained, mined, in common, failed.
    assert widths == {8, 12, 6, 3}
    assert "\n# c" not in hostile.to_markdown()


def test_html_holds_no_tags_of_names(hostile):
    found = []

    class Tags(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.append((tag, dict(attributes)))

    Tags().feed(hostile._repr_html_())
    assert {tag for tag, _ in found} == {"p", "strong", "table", "thead", "tbody", "tr", "th", "td", "pre"}
    assert all(set(attributes) <= {"style"} for _, attributes in found)


def test_it_says_of_how_many_queries_each_part_is(found):
    # Two steps of 32 rows.
    assert (found.sample, found.trained, found.held_out, found.rows) == (60, 64, 40, 600)
    text = repr(found)
    assert "2 steps on 64 queries, 2 seeds" in text
    assert "Measured with 40 other queries in 2,108 passages" in text
    assert "A sample of 60 of 600 rows" in text


def test_usual_names_fit_a_terminal(found):
    # A terminal breaks the sentence at the top.
    assert max(map(len, repr(found).splitlines()[1:])) <= 120


def test_what_is_not_known_is_a_dash(found):
    trials = tuple(
        replace(one, hardness=None, cost=None, whole_seconds=None, false_negatives=None) for one in found.trials
    )
    text = repr(replace(found, trials=trials, false_by="", student=None))
    assert "False negatives are unknown" in text
    assert "Student trained" not in text
    assert "None" not in text


def test_how_many_queries_would_tell_is_said_of_the_clearest(found):
    trials = tuple(
        replace(one, needed=number) for one, number in zip(found.trials, (None, 7000, 3000, None), strict=True)
    )
    assert "would take about 3,000 held-out queries" in repr(replace(found, trials=trials))
    trials = tuple(replace(one, needed=None) for one in found.trials)
    assert "held-out queries" not in repr(replace(found, trials=trials))


def test_without_a_recommendation_there_is_no_code(found):
    assert replace(found, recommended=None).code == ""


def test_one_bar_is_shown_and_nothing_is_left_of_others(tiny, capfd):
    corpus, rows = tiny
    miner = BM25Negatives(corpus, k=5)
    # Building an index shows a bar of its own.
    miner.prepare()
    enable_progress_bars()
    try:
        pilot(rows, corpus, {"BM25": [miner], "in-batch": []}, **QUICK | {"seed": 3, "seeds": 1})
        assert not are_progress_bars_disabled()
    finally:
        disable_progress_bars()
    printed, shown = capfd.readouterr()
    assert printed == ""
    # A carriage return begins each state of a bar, and a line break ends it.
    states = [state for state in shown.replace("\n", "\r").split("\r") if state.strip()]
    assert all(state.startswith("pilot") for state in states)
    assert "100%" in states[-1]
    assert shown.count("\n") == 1
