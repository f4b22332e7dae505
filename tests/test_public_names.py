"""What is exported is documented, sorted and importable; importing it is light."""

import inspect
import subprocess
import sys

import hnm_datasets


def test_all_is_sorted_and_complete():
    names = [
        name
        for name in vars(hnm_datasets)
        if not name.startswith("_") and not inspect.ismodule(vars(hnm_datasets)[name])
    ]
    assert sorted(hnm_datasets.__all__) == sorted(names)


def test_every_public_name_has_a_full_docstring():
    for name in hnm_datasets.__all__:
        text = inspect.getdoc(getattr(hnm_datasets, name))
        assert text, name
        if name not in ("Corpus", "Embeddings", "load_beir"):
            assert "Args:" in text, name
            assert "Example:" in text, name


def test_import_loads_no_model_library():
    code = (
        "import sys, hnm_datasets; print([m for m in ('torch', 'faiss', 'sentence_transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
