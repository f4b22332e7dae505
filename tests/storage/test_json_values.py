"""Values of a JSON file are those of the types, or are named."""

import json
from dataclasses import asdict, dataclass, field
from typing import TypedDict

import pytest
from datasets import Dataset

from hnm_datasets import audit_negatives
from hnm_datasets.audit.report import Audit
from hnm_datasets.storage.json_values import typed


@dataclass(frozen=True)
class Point:
    x: float
    names: tuple[str, ...]


@dataclass(frozen=True)
class Later:
    """A class that was given more fields since."""

    x: float
    note: str | None = None
    tags: list[str] = field(default_factory=list)


class Config(TypedDict):
    points: dict[str, Point]
    on: bool


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, 5, 5),
        (float, 5, 5.0),
        (float | None, None, None),
        (int | str, "a", "a"),
        (list[int], [1, 2], [1, 2]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[str, int], ["a", 1], ("a", 1)),
        (dict[str, list[float]], {"a": [1]}, {"a": [1.0]}),
        (bool, True, True),
        (Later, {"x": 1}, Later(1.0, None, [])),
        (Later, {"x": 1, "note": "a", "tags": ["b"]}, Later(1.0, "a", ["b"])),
        (Config, {"points": {"a": {"x": 1, "names": []}}, "on": False, "more": 1},
         {"points": {"a": Point(1.0, ())}, "on": False}),
    ],
)  # fmt: skip
def test_values_come_back_as_their_type(kind, value, expected):
    assert typed(kind, value, "file") == expected


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (int, True, "'file' must be a count, got True"),
        (int, 1.0, "must be a count"),
        (int, 2**63, "must be a count"),
        (float, "1", "must be a number, got '1'"),
        (float, 10**400, "must be a number"),
        (str, None, "must be a text, got None"),
        (str, "\ud800", "must be a text"),
        (str | None, 1, "must be a text"),
        (bool, 1, "must be true or false"),
        (None.__class__, 1, "must be null"),
        (list[int], "12", "must be a list"),
        (list[int], [1, "2"], r"'file\[1\]' must be a count"),
        (tuple[str, int], ["a"], "must be a list of 2"),
        (dict[str, int], [], "must be an object"),
        (Later, {"note": "a"}, r"'file' is missing \['x'\]"),
        (Later, {"x": 1, "note": 5}, r"'file.note' must be a text"),
        (Later, {"x": 1, "tags": None}, r"'file.tags' must be a list"),
        (Config, {"points": {}}, r"'file' is missing \['on'\]"),
        (
            Config,
            {"points": {"a": {"x": 1, "names": [2]}}, "on": True},
            r"'file\.points\.a\.names\[0\]' must be a text",
        ),
    ],
)
def test_anything_else_is_named(kind, value, message):
    with pytest.raises(ValueError, match=message):
        typed(kind, value, "file")


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(ValueError, match=r"got 'x{40,60}\.\.\.$"):
        typed(int, "x" * 10**6, "file")


def test_an_audit_comes_back_from_its_file():
    rows = {"anchor": ["a?", "b?"], "positive": ["A.", "B."], "negative": ["B.", "A."], "positive_score": [1.0, 0.5]}
    audit = audit_negatives(Dataset.from_dict(rows | {"negative_score": [2.0, 0.25]}))
    assert typed(Audit, json.loads(json.dumps(asdict(audit))), "audit") == audit
