"""Options: plain values come back, anything else is refused with its owner, its name and what is allowed."""

import math

import numpy as np
import pytest

from hnm_datasets import checks


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_come_back_as_int(value):
    assert checks.whole_number("Step", "k", value, low=3) == 3
    assert type(checks.whole_number("Step", "k", value, low=3)) is int


@pytest.mark.parametrize("value", [2, -5, True, False])
def test_whole_numbers_that_are_too_small_are_refused(value):
    with pytest.raises(ValueError, match=f"Step: k must be a whole number of at least 3, got {value}"):
        checks.whole_number("Step", "k", value, low=3)


def test_true_is_no_number_even_where_one_is():
    with pytest.raises(ValueError, match="got True"):
        checks.whole_number("Step", "k", True, low=0)


@pytest.mark.parametrize("value", [3.0, "3", None, [3]])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(TypeError, match="Step: k must be a whole number, got "):
        checks.whole_number("Step", "k", value, low=0)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2)])
def test_real_numbers_come_back_as_float(value):
    assert checks.real_number("Step", "margin", value, above=1.5) == 2.0
    assert type(checks.real_number("Step", "margin", value)) is float


@pytest.mark.parametrize("value", [1.5, 1, -math.inf])
def test_real_numbers_that_are_not_above_the_bound_are_refused(value):
    with pytest.raises(ValueError, match=r"Step: margin must be a finite number greater than 1\.5, got"):
        checks.real_number("Step", "margin", value, above=1.5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, np.True_, np.False_, "2", b"2", np.str_("2")])
def test_real_numbers_are_finite(value):
    with pytest.raises(ValueError, match="Step: margin must be a finite number, got"):
        checks.real_number("Step", "margin", value)


@pytest.mark.parametrize("value", [None, "two", [2.0]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="Step: margin must be a number, got"):
        checks.real_number("Step", "margin", value)


def test_a_choice_comes_back_as_a_plain_string():
    found = checks.one_of("Step", "kind", np.str_("a"), ("a", "b"))
    assert found == "a"
    assert type(found) is str


@pytest.mark.parametrize("value", ["c", "", "A", None, 1])
def test_what_is_not_among_the_choices_is_refused(value):
    with pytest.raises(ValueError, match=f"Step: kind must be one of 'a', 'b', got {value!r}"):
        checks.one_of("Step", "kind", value, ("a", "b"))


def test_a_choice_is_not_part_of_a_choice():
    # "ab" holds "a", were the choices one string.
    with pytest.raises(ValueError, match="must be one of 'ab', got 'a'"):
        checks.one_of("Step", "kind", "a", ("ab",))


@pytest.mark.parametrize("value", [True, False])
def test_yes_or_no(value):
    assert checks.yes_or_no("Step", "drop", value) is value


@pytest.mark.parametrize("value", [1, 0, None, "yes", np.True_])
def test_neither_yes_nor_no_is_refused(value):
    with pytest.raises(TypeError, match="Step: drop must be True or False, got"):
        checks.yes_or_no("Step", "drop", value)


@pytest.mark.parametrize("value", ["score", "teacher", None])
def test_scores_are_named(value):
    assert checks.score_option("Step", "by", value) == value


@pytest.mark.parametrize("value", ["", 0, True, ["score"]])
def test_what_names_no_scores_is_refused(value):
    with pytest.raises(TypeError, match=r"Step: by must be 'score' .*, a teacher's name or None, got"):
        checks.score_option("Step", "by", value)


@pytest.mark.parametrize("source", ["./nosuch", "../nosuch", "/nosuch", "~/nosuch", "models/mine/last"])
def test_a_path_that_does_not_exist_is_refused(source):
    with pytest.raises(FileNotFoundError, match=f"Step: there is no folder '{source}'"):
        checks.source_of_files("Step", source)


def test_hub_ids_and_folders_are_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for source in ("nosuch", "mteb/nosuch", "./here", ".", str(tmp_path / "here")):
        assert checks.source_of_files("Step", source) == source
