"""What is exported is documented, sorted and importable; importing it is light."""

import inspect
import subprocess
import sys

import pytest

import hnm_datasets
from hnm_datasets import training


def test_all_is_sorted_and_complete():
    names = [
        name
        for name in vars(hnm_datasets)
        if not name.startswith("_") and not inspect.ismodule(vars(hnm_datasets)[name])
    ]
    names = [name for name in names if name not in ("Any", "TYPE_CHECKING")]
    assert sorted(hnm_datasets.__all__) == sorted({*names, *training.__all__})
    for name in training.__all__:
        assert getattr(hnm_datasets, name) is getattr(training, name)
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        hnm_datasets.unknown  # noqa: B018


def test_every_public_name_has_a_full_docstring():
    for name in hnm_datasets.__all__:
        text = inspect.getdoc(getattr(hnm_datasets, name))
        assert text, name
        if name not in ("Corpus", "Embeddings", "LiveNegatives", "load_beir"):
            assert "Args:" in text, name
            assert "Example:" in text, name


def test_import_loads_no_model_library():
    code = (
        "import sys, hnm_datasets; print([m for m in ('torch', 'faiss', 'sentence_transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
