"""Digests of objects: equal for what behaves alike, different for what does not."""

import copy
import functools
import importlib
import pickle
import re
import subprocess
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets.models.descriptions import Description

SCALE = 2


def describe(value):
    return Description().digest(value)


def run(code):
    """Return the names that a notebook cell defines."""
    names = {"__name__": "__main__"}
    exec(code, names)
    return names


@dataclass
class Options:
    width: int = 3
    words: set = field(default_factory=lambda: {"plate", "wave", "island"})


class Slotted:
    __slots__ = ("width",)

    def __init__(self, width):
        self.width = width


class Callable:
    def __init__(self, width):
        self.width = width

    def __call__(self, x):
        return x * self.width

    def twice(self, x):
        return 2 * self(x)


def power(exponent):
    return lambda number: number**exponent


def scaled(number):
    return number * SCALE


class Words(dict):
    pass


def words(lowercase):
    found = Words(plate=1)
    found.lowercase = lowercase
    return found


DIFFERENT = {
    "numbers": (1, 1.0, True, "1", b"1", None),
    "containers": ([1, 2], (1, 2), [2, 1], {1, 2}, {1: 2}, [[1], 2], [1, [2]], ["1", "2"], ["1, 2"]),
    "nested": ([[], []], [[[]]], [[], [[]]], {"a": [1]}, {"a": 1}, {"a": {"a": 1}}),
    "functions of torch": (torch.tanh, torch.sigmoid, torch.relu, torch.nn.functional.gelu, torch.nn.Tanh()),
    "lambdas": (lambda x: x + 1, lambda x: x + 2, lambda x: x * 1, lambda x, y=1: x + y, lambda x, y=2: x + y),
    "closures": (power(2), power(3), power([2]), power({"by": 2})),
    "partial": tuple(functools.partial(*one) for one in ((max, 1), (max, 2), (min, 1), (max, 1, 1))),
    "methods": (Callable(1), Callable(2), Callable(1).twice, Callable(2).twice, Callable(1).__call__),
    "objects": (Options(), Options(4), Options(words=set()), Slotted(3), Slotted(4)),
    "subclasses with settings": (words(True), words(False), {"plate": 1}),
    "arrays": tuple(np.array(*one) for one in (([1, 2], "i4"), ([1, 2], "i8"), ([[1, 2]], "i4"), ([2, 1], "i4"))),
    "arrays of objects": (np.array(["a", 1], dtype=object), np.array(["a", 2], dtype=object)),
    "patterns": (re.compile("a"), re.compile("b"), re.compile("a", re.IGNORECASE)),
    "paths": (Path("a"), Path("b"), "a"),
    "types": (int, str, torch.float16, torch.bfloat16, torch.nn.ReLU, torch.nn.GELU, Options, Slotted),
    "modules": (re, sys),
    "cells of a notebook": tuple(
        run(f"class Pool:\n    def forward(self, x):\n        return x.{name}()")["Pool"] for name in ("mean", "max")
    ),
    "helpers of a notebook": tuple(
        run(f"def helper(x):\n    return x {sign} 1\ndef pool(x):\n    return helper(x)")["pool"] for sign in "+-*"
    ),
    "globals of a notebook": tuple(
        run(f"SCALE = {scale!r}\npool = lambda x: x * SCALE")["pool"] for scale in (1, 2, [1], "1")
    ),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_what_behaves_otherwise_has_another_digest(kind):
    digests = [describe(value) for value in DIFFERENT[kind]]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("kind", [kind for kind in DIFFERENT if kind != "modules"])
def test_a_copy_has_the_same_digest(kind):
    for value in DIFFERENT[kind]:
        assert describe(copy.deepcopy(value)) == describe(value)


def test_what_is_written_twice_has_one_digest():
    assert describe(power(2)) == describe(power(2))
    code = (
        "SCALE = 2\nclass Pool:\n    width = 3\n    def forward(self, x):\n        '''Doc.'''\n        return x * SCALE"
    )
    assert describe(run(code)["Pool"]) == describe(run("\n\n" + code)["Pool"])
    assert describe(run(code)["Pool"]()) == describe(run(code)["Pool"]())


def test_the_order_of_a_dict_and_of_a_set_does_not_count():
    assert describe({"a": 1, "b": [2]}) == describe({"b": [2], "a": 1})
    assert describe(OrderedDict(a=1, b=2)) == describe(OrderedDict(b=2, a=1))
    one, other = {0, 8}, {8, 0}
    assert repr(one) != repr(other)
    assert describe(one) == describe(other)


def test_a_global_is_described_when_it_is_asked_for(monkeypatch):
    before = describe(scaled)
    monkeypatch.setitem(scaled.__globals__, "SCALE", 3)
    assert describe(scaled) != before


def test_shared_objects_and_circles_are_described():
    shared = [1]
    assert describe([shared, shared]) == describe([[1], [1]])
    circle = {"a": 1}
    circle["self"] = circle
    assert describe(circle) == describe(circle) != describe({"a": 1})


def test_objects_whose_state_cannot_be_read_are_named():
    description = Description()
    description.digest({"lock": threading.Lock(), "width": 3})
    assert description.opaque == ["lock"]


def test_a_function_in_the_place_of_a_librarys_is_seen(monkeypatch):
    before = Description().patches(torch.nn.Linear)
    assert Description().patches(torch.nn.Linear) == before
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: x)
    assert Description().patches(torch.nn.Linear) != before
    assert Description().patches(torch.nn.Linear, unless=frozenset({"forward"})) == before


def test_a_quick_description_sees_that_something_changed():
    numbers = np.zeros(1000)
    long = list(range(1000))
    quick = Description(quick=True)
    before = (quick.digest(numbers), quick.digest(long))
    numbers[0], long[:] = 1, long[1:]
    assert Description(quick=True).digest(numbers) != before[0]
    assert Description(quick=True).digest(long) != before[1]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


@given(VALUES, VALUES)
def test_values_have_one_digest_if_they_are_written_alike(one, other):
    assert describe(pickle.loads(pickle.dumps(one))) == describe(one)
    if repr(one) != repr(other) and one != other:
        assert describe(one) != describe(other)


def test_digests_are_the_same_in_other_processes():
    code = (
        "import torch\n"
        "from hnm_datasets.models.descriptions import Description\n"
        "class Pool:\n    names = {'a', 'b', 'c', 'd'}\n    def forward(self, x):\n        return {'p', 'q'} & x\n"
        "values = [Pool(), Pool, {'x', 'y', 'z'}, lambda x: x in {'u', 'v', 'w'}, torch.nn.Tanh(), torch.float16]\n"
        "print(*(Description().digest(value).hex() for value in values))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_packages_of_a_target_folder_are_told_by_name(tmp_path, monkeypatch):
    """`pip install --target` puts packages into any folder, beside the records of what it installed."""
    for package, value in (("installed_elsewhere", 1), ("written_here", 1)):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
        (tmp_path / package / "part.py").write_text(f"def answer():\n    return {value}\n")
    record = tmp_path / "installed_elsewhere-1.0.dist-info" / "RECORD"
    record.parent.mkdir()
    record.write_text("installed_elsewhere/__init__.py,,\ninstalled_elsewhere/part.py,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    digests = {}
    for package in ("installed_elsewhere", "written_here"):
        part = importlib.import_module(f"{package}.part")
        digests[package] = describe(part.answer)
        exec(compile("def answer():\n    return 2\n", part.__file__, "exec"), part.__dict__)
        assert (describe(part.answer) == digests[package]) == (package == "installed_elsewhere")
        monkeypatch.delitem(sys.modules, f"{package}.part")
        monkeypatch.delitem(sys.modules, package)
