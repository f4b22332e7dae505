"""The stub is the one list of public names; each is there, documented and loaded on first use."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import hnm_datasets

STUB = ast.parse((Path(hnm_datasets.__file__).parent / "__init__.pyi").read_text())
IMPORTED = [(alias, node) for node in STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names]
#: Each public name with the module that the stub takes it from.
NAMES = {alias.asname: f"hnm_datasets.{node.module}" for alias, node in IMPORTED if node.module}
MODULES = [alias.asname for alias, node in IMPORTED if not node.module]


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_stub_names_each_thing_once_as_it_is_called():
    assert len(IMPORTED) == len({*NAMES, *MODULES}) > 0
    for alias, node in IMPORTED:
        # `X as X` is what type checkers take for public.
        assert alias.asname == alias.name
        assert node.level == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_defined_in_the_module_that_the_stub_names(name):
    thing = getattr(hnm_datasets, name)
    assert thing.__module__ == NAMES[name]
    assert thing.__name__ == name
    assert thing is getattr(import_module(NAMES[name]), name)


def test_a_star_imports_exactly_these_names():
    found = {}
    exec("from hnm_datasets import *", found)
    del found["__builtins__"]
    assert found.keys() == {*NAMES, *MODULES}
    assert all(found[name] is getattr(hnm_datasets, name) for name in NAMES)
    assert set(hnm_datasets.__all__) == {*NAMES, *MODULES}


def test_they_are_listed():
    # Without the packages that they are imported from; `dir` sorts.
    assert dir(hnm_datasets) == sorted([*NAMES, *MODULES, "__version__"])
    # Also before any of them was used.
    assert run("import hnm_datasets; print(*dir(hnm_datasets))").split() == dir(hnm_datasets)


def test_the_checks_of_steps_are_public():
    assert MODULES == ["testing"]
    used = "import hnm_datasets; print(hnm_datasets.testing.check_transform.__name__)"
    assert run(used) == "check_transform\n"


def test_an_unknown_name_is_an_attribute_error():
    for name in ("unknown", "BM25Negative"):
        with pytest.raises(AttributeError, match=f"attribute {name}$"):
            getattr(hnm_datasets, name)
    with pytest.raises(ImportError, match="unknown"):
        exec("from hnm_datasets import unknown")


def test_there_is_a_version():
    declared = [node.target.id for node in STUB.body if isinstance(node, ast.AnnAssign)]
    assert declared == ["__version__"]
    assert hnm_datasets.__version__ == import_module("hnm_datasets.version").__version__


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_a_full_docstring(name):
    text = inspect.getdoc(getattr(hnm_datasets, name))
    assert text
    if name not in ("Corpus", "Embeddings", "SparseEmbeddings", "TokenEmbeddings", "LiveNegatives", "load_beir"):
        assert "Args:" in text
        assert "Example:" in text


def test_import_loads_no_model_library():
    heavy = "[m for m in ('torch', 'faiss', 'sentence_transformers', 'datasets') if m in sys.modules]"
    assert run(f"import sys, hnm_datasets; print({heavy})") == "[]\n"
    # The same question is answered otherwise once they are there.
    assert run(f"import sys, hnm_datasets, faiss; print({heavy})") == "['faiss']\n"


def test_import_takes_no_longer_than_that_of_datasets():
    def seconds(module):
        code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
        return min(float(run(code)) for _ in range(3))

    assert seconds("hnm_datasets") <= 1.25 * seconds("datasets")
