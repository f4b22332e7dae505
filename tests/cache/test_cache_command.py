"""`python -m hnm_datasets cache` lists, shows before it deletes, and asks."""

import io

import datasets
import pytest
from cache_helpers import left_by_a_killed_build, make
from filelock import FileLock

from hnm_datasets.__main__ import main
from hnm_datasets.storage.folders import cache_root


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "with space")
    return cache_root()


def answer(monkeypatch, text):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_the_list(root, capsys):
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == f"Empty cache: {root}\n"
    folder = make(root, passages=9, corpus_name="BeIR/scifact")
    make(root, "dense")
    assert main(["cache"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("2 folders, ")
    assert "BM25 index of 9 passages (BeIR/scifact)" in printed
    assert f"bm25/{folder.name}" in printed
    assert main(["cache", "--kind", "dense"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("1 of 2 folders, ")
    assert "BM25" not in printed
    assert main(["cache", "--kind", "sparse"]) == 0
    assert capsys.readouterr().out == f"None of 2 folders in {root}\n"


def test_folders_with_the_same_description_share_a_line_unless_one_kind_is_listed(root, capsys):
    folders = [make(root, which=which, age=which) for which in range(3)]
    dense = make(root, "dense")
    assert main(["cache"]) == 0
    printed = capsys.readouterr().out
    (line,) = [line.split() for line in printed.splitlines() if line.startswith("  bm25")]
    assert line[-2:] == ["3", "folders"]
    assert f"dense/{dense.name}" in printed
    assert "A list of one kind shows each of them." in printed
    assert main(["cache", "--kind", "bm25"]) == 0
    printed = capsys.readouterr().out
    assert all(folder.name in printed for folder in folders)
    assert "share a line" not in printed


def test_a_deletion_shows_and_asks(root, capsys, monkeypatch):
    folder, other = make(root, age=40), make(root, which=1)
    for said in ("n\n", "\n", "no\n"):
        answer(monkeypatch, said)
        assert main(["cache", "delete", "--older-than", "30d"]) == 0
        printed = capsys.readouterr().out
        assert folder.name in printed
        assert other.name not in printed
        assert "Delete 1 folder and free " in printed
        assert printed.endswith("Nothing was deleted.\n")
        assert folder.exists()
    answer(monkeypatch, "y\n")
    assert main(["cache", "delete", "--older-than", "30d"]) == 0
    assert "1 folder deleted, " in capsys.readouterr().out
    assert not folder.exists()
    assert other.exists()


def test_nobody_is_there_to_answer(root, capsys, monkeypatch):
    folder = make(root)
    answer(monkeypatch, "")
    assert main(["cache", "delete", "--kind", "bm25"]) == 1
    assert "--yes" in capsys.readouterr().err
    assert folder.exists()


def test_without_a_question_and_without_a_deletion(root, capsys):
    folder, left = make(root), left_by_a_killed_build(root, "dense")
    assert main(["cache", "delete", "--all", "--dry-run"]) == 0
    assert "Would delete 2 folders and free " in capsys.readouterr().out
    assert folder.exists()
    assert main(["cache", "delete", "--name", folder.name, "--yes"]) == 0
    assert not folder.exists()
    assert main(["cache", "delete", "--all", "-y"]) == 0
    assert not left.exists()
    capsys.readouterr()
    assert main(["cache", "delete", "--all"]) == 0
    assert capsys.readouterr().out == f"Empty cache: {root}\n"


def test_another_cache_and_options_before_the_action(root, tmp_path, capsys):
    here, there = make(root), make(tmp_path / "other")
    assert main(["cache", "--cache-folder", str(tmp_path / "other"), "--kind", "bm25", "delete", "-y"]) == 0
    assert here.exists()
    assert not there.exists()


def test_what_is_left_is_an_exit_status(root, capsys):
    folder = make(root)
    (folder / "x.lock").touch()
    with FileLock(folder / "x.lock"):
        assert main(["cache", "delete", "--all", "--yes"]) == 1
    assert "a running process writes it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--kind", "bm52"], "kind must be one of 'corpora'"),
        (["--name", "bge"], "Models and corpora there: 'BAAI/bge-small'"),
        (["--older-than", "30"], "hours, days or weeks"),
        ([], "--kind, --name or --older-than, or pass --all"),
    ],
)
def test_wrong_options_are_one_line(root, capsys, options, said):
    folder = make(root, model_name="BAAI/bge-small")
    assert main(["cache", "delete", *options, "--yes"]) == 1
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: ")
    assert said in error
    assert folder.exists()
