"""What a terminal would obey is shown instead."""

import pytest
from datasets import Dataset

from hnm_datasets import audit_negatives, compare_negatives, explain
from hnm_datasets.__main__ import main
from hnm_datasets.batch import Batch
from hnm_datasets.terminal import printable

OBEYED = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\x00",
    "\x08",
    "\r",
    "\x7f",
    "\u202e",
    "\u2066",
    "\u2028",
    "\x0c",
    "\x85",
]


@pytest.mark.parametrize("text", OBEYED)
def test_controls_are_written_as_repr_does(text):
    assert printable(f"a{text}b") == repr(f"a{text}b")[1:-1]
    assert printable(f"a{text}b").isprintable()


@pytest.mark.parametrize(
    "text", ["plain", "two\nlines\tand a tab", "é ü 测试 दिल्ली עברית", "👩\u200d🔬", "a\u00a0b", "\\x1b"]
)
def test_all_other_text_stays(text):
    assert printable(text) == text


def test_halves_of_characters_can_be_printed():
    assert printable("a\ud800").encode() == rb"a\ud800"


@pytest.mark.parametrize("text", OBEYED)
def test_what_explain_and_the_reports_print(text):
    row = {"anchor": f"q{text}?", "positive": f"P{text}p", "negative": f"N{text}n", "anchor_id": f"i{text}"}
    rows = Dataset.from_dict({name: [value] * 2 for name, value in row.items()})
    shown = explain(row)
    reports = [shown, audit_negatives(rows), compare_negatives(rows, rows, names=(f"a{text}", "b"))]
    for report in reports:
        for written in (repr(report), report._repr_html_(), report.to_markdown()):
            assert text not in written
            assert written.replace("\n", "").isprintable()
    assert repr(f"q{text}?")[1:-1] in repr(shown).splitlines()[0]


def test_line_breaks_stay_in_the_heading_and_leave_the_cells():
    shown = repr(explain({"anchor": "one\ntwo", "positive": "a\nb", "negative": "c\r\nd"}))
    assert shown.startswith("one\ntwo\n")
    assert "a b" in shown
    assert "c d" in shown


def test_errors_of_the_command(tmp_path, capsys):
    assert main(["audit", f"{tmp_path}/\x1b[31mred"]) == 1
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err


@pytest.mark.parametrize("values", [["\x1b[31m", 1], [["\x1b[31m"], 1]])
def test_errors_about_values(values):
    with pytest.raises(TypeError, match="mixes types") as caught:
        Batch({"query": values}, "test").strings("query")
    assert str(caught.value).isprintable()
    assert caught.value.__cause__ is None
