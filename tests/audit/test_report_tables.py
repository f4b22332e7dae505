"""Audits as numbers, text, Markdown and HTML."""

import json
import re

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import BM25Negatives, audit_negatives, load_sample
from hnm_datasets.audit.spread import Spread, histogram_of
from hnm_datasets.audit.tables import Table, as_html, as_markdown, as_text, number, percent

HOSTILE = "<script>alert('x')</script> | `rm -rf` *bold* _under_ \\| \\\n\n# heading"


@pytest.fixture(scope="module")
def hostile():
    """An audit whose names and examples are markup."""
    rows = {
        "query_id": [HOSTILE, "q2"],
        "query": [HOSTILE, "b?"],
        "positive_ids": [[HOSTILE], ["p"]],
        "negative_ids": [[HOSTILE, "n", "n"], []],
        "negative_scores": [[1.0, float("inf"), float("nan")], []],
        "positive_scores": [[0.5], [0.1]],
        "negative_ranks": [[0, 1, 2], []],
        "negative_source": [["<b>|`bm25`"] * 3, []],
        "negative_|x_scores": [[1.0, 2.0, 3.0], []],
        "positive_|x_scores": [[1.0], [2.0]],
    }
    return audit_negatives(Dataset.from_dict(rows))


@pytest.fixture(scope="module")
def sample():
    corpus, queries = load_sample()
    rows = queries.select(range(50)).map(BM25Negatives(corpus, k=5), batched=True)
    return audit_negatives(rows, corpus, judgments=queries)


def cells_of(line):
    """Split a line of a Markdown table as GitHub does: at each bar that no backslash escapes."""
    return re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_everything_goes_into_json(hostile, sample):
    for audit in (hostile, sample):
        back = json.loads(json.dumps(audit.to_dict(), allow_nan=False))
        assert back["rows"] == audit.rows
        assert [one["name"] for one in back["defects"]] == [one.name for one in audit.defects]
        assert back["hubs"] == [list(hub) for hub in audit.hubs]
    assert back["false_negatives"] == {
        "by": "judgments",
        "rate": 0.0,
        "low": 0.0,
        "high": sample.false_negatives.high,
        "false": 0,
        "negatives": 250,
        "queries": 50,
        "rule": "judged relevant; the judgments have only the rows' own positives",
    }
    assert back["scores"]["score"]["positive"]["median"] == sample.scores["score"].positive.median


def test_rows_without_anything_go_into_json():
    for rows in (
        {"query": ["a"], "positive_ids": [[]], "negative_ids": [[]]},
        {"query": ["a"], "positive_ids": [[]], "negative_ids": [["n"]], "negative_scores": [[None]]},
        {"query": [""], "pos": [[""]], "neg": [[""]]},
        {"anchor": ["a"], "positive": [None], "negative": [None]},
        {"anchor": ["a", "b"], "passage": ["c", "d"], "label": [1, 1]},
    ):
        audit = audit_negatives(Dataset.from_dict(rows))
        json.dumps(audit.to_dict(), allow_nan=False)
        assert repr(audit).startswith("Audit of ")
        assert "Main numbers" in audit.to_markdown()
        assert audit._repr_html_().startswith("<p>")


def test_numbers_are_written_for_a_person():
    written = {
        0: "0",
        7: "7",
        12345: "12,345",
        0.123456: "0.123",
        -2.5: "-2.5",
        999.4: "999",
        999.6: "1,000",
        1000.0: "1,000",
        12345.6: "12,346",
        1e-5: "1e-05",
        float("inf"): "inf",
        float("-inf"): "-inf",
        None: "-",
    }
    assert {value: number(value) for value in written} == written
    assert number(float("nan")) == "nan"
    assert number(np.int64(5)) == "5"
    assert (percent(0.0345), percent(1.0), percent(None)) == ("3.5%", "100.0%", "-")


@given(st.lists(st.one_of(st.floats(-1e9, 1e9), st.sampled_from([float("nan"), float("inf")])), max_size=20))
def test_a_spread_is_of_the_finite_values(values):
    finite = [value for value in values if np.isfinite(value)]
    spread = Spread.of(np.array(values))
    if not finite:
        assert spread is None
        return
    assert (spread.count, spread.min, spread.max) == (len(finite), min(finite), max(finite))
    assert spread.min <= spread.p5 <= spread.p25 <= spread.median <= spread.p75 <= spread.p95 <= spread.max
    assert spread.mean == pytest.approx(sum(finite) / len(finite), abs=1e-6)


VALUES = st.lists(st.one_of(st.floats(-1e12, 1e12), st.just(float("nan"))), max_size=10)


@given(VALUES, VALUES)
def test_a_histogram_counts_each_finite_value_once(positive, negative):
    found = histogram_of(np.array(positive, dtype=float), np.array(negative, dtype=float))
    sizes = [int(np.isfinite(values).sum()) for values in (positive, negative)]
    if not sum(sizes):
        assert found is None
        return
    edges, *counts = found
    assert [sum(side) for side in counts] == sizes
    assert list(edges) == sorted(set(edges))
    assert [len(side) for side in counts] == [len(edges) - 1] * 2


@pytest.mark.parametrize("value", [0.0, 1.0, -1e300, 1e-300])
def test_values_that_differ_in_their_last_digits_have_a_histogram(value):
    _, positive, negative = histogram_of(np.array([value]), np.array([np.nextafter(value, 2 * value + 1)]))
    assert (sum(positive), sum(negative)) == (1, 1)


# ---- text ------------------------------------------------------------------------------------------------------------


def test_the_text_is_readable(sample):
    lines = repr(sample).splitlines()
    assert lines[0].startswith(
        "Audit of 50 rows in the form mined (query, positive_ids, negative_ids): 50 queries, 250"
    )
    assert "  None found." in lines
    for title in ("Defects", "Main numbers", "Scores", "Spreads"):
        assert title in lines
    assert max(map(len, lines)) < 180
    assert not any(line != line.rstrip() for line in lines)
    assert any(
        re.fullmatch(r"  false negatives, by judgments +0\.0% \(0 of 250; 95% interval 0\.0% to .*\)", line)
        for line in lines
    )
    # Bars of each side are shares of their own.
    bars = [line for line in lines if "█" in line]
    assert len(bars) >= 5
    start = lines.index("Spreads")
    (heads, *rows) = lines[start + 1 : start + 6]
    assert heads.split() == ["mean", "min", "5%", "median", "95%", "max"]
    assert all(len(row) == len(heads) for row in rows)


def test_columns_of_numbers_end_below_each_other():
    table = Table(
        "T", ("name", "value"), (("a", "1"), ("long name", "1,000"), ("c", "-0.5 ^")), note="one\ntwo", block="x\n y"
    )
    assert as_text("head", [table]).splitlines() == [
        "head",
        "",
        "T",
        "  name        value",
        "  a               1",
        "  long name   1,000",
        "  c          -0.5 ^",
        "  one",
        "  two",
        "  x",
        "   y",
    ]
    long = as_text("", [Table("", ("a",), (("x" * 500,),))])
    assert "…" in long
    assert len(long.splitlines()[-1]) < 120


def test_hostile_texts_stay_in_their_lines(hostile):
    text = repr(hostile)
    assert "known-positives" in text
    assert "# heading" not in [line.strip() for line in text.splitlines()]


# ---- Markdown --------------------------------------------------------------------------------------------------------


def test_markdown_tables_are_well_formed(hostile, sample):
    for audit in (hostile, sample):
        # What stands in a fence is shown as it is.
        outside = re.sub(r"```text\n.*?\n```", "", audit.to_markdown(), flags=re.DOTALL)
        lines = outside.splitlines()
        tables, table = [], []
        for line in [*lines, ""]:
            if line.startswith("|"):
                table.append(line)
            elif table:
                tables.append(table)
                table = []
        assert len(tables) >= 3
        for head, rule, *rows in tables:
            assert set(rule) <= set("|- ")
            assert rows
            assert {len(cells_of(line)) for line in (head, rule, *rows)} == {len(cells_of(head))}
        assert [line for line in lines if line.startswith("#")] == [
            "### What was audited",
            "### Defects",
            "### Main numbers",
            "### Scores",
            "### Spreads",
        ]
        assert "<script>" not in outside
        assert not re.search(r"(?<!\\)[`*_]", outside)


@given(st.lists(st.text("a|\\`<*_\n&-", max_size=8), min_size=3, max_size=3))
def test_any_text_stays_in_its_cell(cells):
    written = as_markdown("", [Table("", ("x", "y", "z"), (tuple(cells),))])
    head, rule, *rows = written.splitlines()
    (row,) = rows
    assert len(cells_of(row)) == 3
    assert "<" not in row
    back = [
        re.sub(r"\\([\\|`*_])", r"\1", cell).strip().replace("&lt;", "<").replace("&amp;", "&") for cell in split(row)
    ]
    assert back == [" ".join(cell.split()) for cell in cells]


def split(line):
    """Split a line of a Markdown table character by character."""
    cells, place = [""], 1
    while place < len(line):
        taken = 2 if line[place] == "\\" else 1
        if line[place] == "|":
            cells.append("")
        else:
            cells[-1] += line[place : place + taken]
        place += taken
    return cells[:-1]


def test_a_heading_stays_in_its_line():
    assert as_markdown("a\n\n# b `c`", [Table("T")]) == "a \\# b \\`c\\`\n\n### T"


# ---- HTML ------------------------------------------------------------------------------------------------------------


def test_html_escapes_everything(hostile):
    page = hostile._repr_html_()
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    # Only our own elements.
    assert set(re.findall(r"</?(\w+)", page)) == {"p", "strong", "table", "thead", "tbody", "tr", "th", "td", "pre"}
    for element in ("table", "tr", "td", "p", "pre"):
        assert len(re.findall(rf"<{element}\b", page)) == page.count(f"</{element}>")


def test_html_of_every_part_is_escaped():
    page = as_html("<1>", [Table("<2>", ("<3>",), (("<4>",),), note="<5>", block="<6>")])
    for place in range(1, 7):
        assert f"<{place}>" not in page
        assert f"&lt;{place}&gt;" in page
