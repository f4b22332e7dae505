"""What other releases of dependencies may change is used in the modules `*_internals.py` alone, and it is there."""

import ast
import importlib
import inspect
import io
import sys
from importlib.metadata import version
from pathlib import Path

import datasets
import numba
import pytest
import torch
from datasets import arrow_writer, iterable_dataset
from datasets.utils import py_utils
from multiprocess import managers, pool
from torch._dynamo import eval_frame

import hnm_datasets

PACKAGE = Path(hnm_datasets.__file__).parent
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
INTERNALS = {name: tree for name, tree in TREES.items() if name.endswith("_internals.py")}
#: Modules below the top of a dependency that its documentation describes.
DOCUMENTED = {
    "bm25s": {"stopwords", "tokenization"},
    "datasets": {"exceptions", "fingerprint"},
    "huggingface_hub": {"errors", "utils"},
    "matplotlib": {"axes", "colors", "figure", "font_manager", "patches", "textpath"},
    "numpy": {"typing"},
    "pyarrow": {"compute", "parquet"},
    "scipy": {"sparse"},
    "sentence_transformers": {
        "multi_vector_encoder.modules",
        "sentence_transformer.evaluation",
        "sentence_transformer.losses",
        "sentence_transformer.modules",
        "util",
    },
    "sklearn": {"feature_extraction.text", "preprocessing", "utils.extmath"},
    "torch": {"utils.data"},
}
#: Names that begin with an underscore and are documented all the same.
DOCUMENTED_NAMES = {"_asdict", "_exit", "_getframe", "_render_traceback_"}
#: What reads the variables of a caller.
FRAMES = {"f_back", "f_globals", "f_locals"}
BY_NAME = {"getattr", "setattr", "hasattr"}


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def own_names():
    """Return all names that the package gives to something itself."""
    found = set()
    for node in (node for tree in TREES.values() for node in ast.walk(tree)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= {node.attr} if ast.unparse(node.value) == "self" else set()
    return found


OWN = own_names()


def imports_of(tree):
    """Yield the module and the name of each import from another library; the name is None of a whole module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            found = [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found = [(alias.name, None) for alias in node.names]
        else:
            continue
        if found[0][0].partition(".")[0] not in {"hnm_datasets", *sys.stdlib_module_names}:
            yield from found


def private_imports(tree):
    for module, name in imports_of(tree):
        top, _, below = module.partition(".")
        documented = not below or below in DOCUMENTED.get(top, ())
        if not documented or is_private(name or ""):
            yield module, name


def private_uses(tree):
    """Yield what is imported, read or set of other libraries that their documentation does not describe."""
    yield from (f"{module}.{name}" if name else module for module, name in private_imports(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif (
            isinstance(node, ast.Call) and ast.unparse(node.func) in BY_NAME and isinstance(node.args[1], ast.Constant)
        ):
            name = node.args[1].value
        else:
            continue
        if name in FRAMES or (is_private(name) and name not in OWN | DOCUMENTED_NAMES):
            yield ast.unparse(node)


def test_private_parts_of_dependencies_are_used_in_the_internals_alone():
    found = {name: uses for name, tree in TREES.items() if name not in INTERNALS and (uses := [*private_uses(tree)])}
    assert not found, (
        f"{found}: another release of the dependency may change this. Move it to the module *_internals.py of the "
        f"dependency, or add what is documented to DOCUMENTED."
    )


@pytest.mark.parametrize(
    "code",
    [
        "from datasets.table import MemoryMappedTable",
        "def load():\n    from sentence_transformers.base.losses.gradcache import CachedLossMixin",
        "import transformers.trainer",
        "from numpy import _core",
        "rows._indices_of_a_dataset",
        "getattr(writer, '_num_examples', 0)",
        "frame.f_locals['step']",
    ],
)
def test_a_private_use_is_found(code):
    assert list(private_uses(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    ["from datasets import Dataset", "import numpy as np", "row._asdict()", "import os.path", "value.__dict__"],
)
def test_documented_names_are_no_private_use(code):
    assert not list(private_uses(ast.parse(code)))


#: The module of the internals, the module that it imports and the name that it takes from there.
IMPORTED = [(user, *one) for user, tree in INTERNALS.items() for one in imports_of(tree)]
ROWS = datasets.Dataset.from_dict({"rank": [1]})
#: Private parts of objects and modules.
READ = [
    (ROWS, "_indices", "_format_type", "_format_kwargs", "_fingerprint", "_getitem"),
    (datasets.DatasetInfo(), "_to_yaml_dict"),
    (arrow_writer.ArrowWriter(stream=io.BytesIO()), "_num_examples"),
    (numba.njit(lambda number: number), "_cache"),
    (torch.nn.Linear(1, 1), "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"),
    (torch.nn.Linear(1, 1), "_forward_hooks", "_forward_pre_hooks", "_compiled_call_impl"),
    (torch.zeros(1), "_version"),
    (torch, "_int_mm"),
]
#: Functions that give their objects private parts, or that a step finds among its callers.
NAMED = [
    (
        *(datasets.Dataset._map_single, "apply_function", "inputs", "pa_inputs", "indices", "prepare_outputs"),
        *("remove_columns", "shard", "num_rows", "writer", "rank"),
    ),
    (iterable_dataset.MappedExamplesIterable._iter, "apply_function", "self"),
    (py_utils._write_generator_to_queue, "queue"),
    (managers.BaseProxy.__init__, "_token"),
    (pool.Pool.__init__, "_state"),
    (eval_frame.OptimizedModule._initialize, "_orig_mod"),
]
#: Of some releases alone, which the others do without.
OPTIONAL = {"_distributed_inference"}


def missing(module, what):
    distribution = module.partition(".")[0].replace("_", "-")
    return (
        f"{distribution} {version(distribution)} has no {what}. Adapt the module {distribution.replace('-', '_')}"
        f"_internals.py to this release, or exclude the release in pyproject.toml."
    )


def in_words(part):
    """Name an object, or its type, without its address: workers must collect the same tests."""
    if isinstance(part, list):
        return " ".join(part)
    return getattr(part, "__qualname__", None) or getattr(part, "__name__", type(part).__name__)


@pytest.mark.parametrize(("user", "module", "name"), IMPORTED)
def test_what_the_internals_import_is_there(user, module, name):
    message = missing(module, module if name is None else f"{module}.{name}")
    try:
        found = importlib.import_module(module)
    except ImportError:
        pytest.fail(message)
    assert name is None or hasattr(found, name), message


@pytest.mark.parametrize(("owner", "names"), [(owner, names) for owner, *names in READ], ids=in_words)
def test_what_the_internals_read_is_there(owner, names):
    kind = owner if inspect.ismodule(owner) else type(owner)
    for name in names:
        assert hasattr(owner, name), missing(getattr(kind, "__module__", kind.__name__), f"{kind.__name__}.{name}")


@pytest.mark.parametrize(("function", "names"), [(one, names) for one, *names in NAMED], ids=in_words)
def test_what_the_internals_find_in_functions_is_there(function, names):
    function = inspect.unwrap(function)
    for name in names:
        assert name in names_in(function.__code__), missing(function.__module__, f"{name} in {function.__qualname__}")


def names_in(code):
    """Return the names that a function and the functions within it use."""
    inner = [names_in(constant) for constant in code.co_consts if inspect.iscode(constant)]
    strings = {constant for constant in code.co_consts if isinstance(constant, str)}
    return {code.co_name, *code.co_varnames, *code.co_cellvars, *code.co_freevars, *code.co_names} | strings.union(
        *inner
    )


def test_all_that_the_internals_read_is_looked_for():
    used = {node.attr for tree in INTERNALS.values() for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.value for tree in INTERNALS.values() for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    private = {name for name in used if isinstance(name, str) and is_private(name)}
    assert (
        private - DOCUMENTED_NAMES
        == {name for _, *names in READ + NAMED for name in names if is_private(name)} | OPTIONAL
    )
