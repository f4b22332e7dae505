import json
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from datasets import Dataset

import hnm_datasets
from hnm_datasets import BM25Negatives, TopNegatives, ToTriplets, load_sample
from hnm_datasets.__main__ import main, read_queries
from hnm_datasets.hub.saving import save_mined


@pytest.fixture
def mined():
    corpus, queries = load_sample()
    rows = queries.select(range(30)).map(BM25Negatives(corpus, k=10), batched=True)
    return corpus, rows.map(TopNegatives(3), batched=True)


def test_audit_of_a_saved_folder_uses_its_corpus(mined, tmp_path, capsys):
    corpus, rows = mined
    save_mined(rows, tmp_path / "saved", corpus=corpus)
    assert main(["audit", str(tmp_path / "saved")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("train: Audit of 30 rows in the form mined")
    assert f"from a corpus of {len(corpus):,}" in printed


def test_audit_of_triplets_that_another_tool_wrote_counts_the_defect(tmp_path, capsys):
    rows = {"question": ["a?", "b?"], "answer": ["A.", "B."], "negative": ["A.", "C."]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "train.parquet")
    assert main(["audit", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "triplets (question, answer, negative)" in printed
    assert "known-positives" in printed


def test_card_is_written_and_written_again(mined, tmp_path, capsys):
    corpus, rows = mined
    triplets = rows.map(ToTriplets(corpus), batched=True, remove_columns=rows.column_names)
    triplets.to_parquet(tmp_path / "train.parquet")
    for _ in range(2):
        assert main(["card", str(tmp_path)]) == 0
    assert (tmp_path / "README.md").read_text().startswith("---")
    assert "README.md" in capsys.readouterr().out


def test_card_that_someone_wrote_is_kept(tmp_path, capsys):
    Dataset.from_dict({"anchor": ["a"], "positive": ["b"], "negative": ["c"]}).to_parquet(tmp_path / "train.parquet")
    (tmp_path / "README.md").write_text("mine")
    assert main(["card", str(tmp_path)]) == 1
    assert "README.md" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize("command", ["audit", "card"])
def test_errors_are_one_line(command, tmp_path, capsys):
    Dataset.from_dict({"a": ["x"]}).to_parquet(tmp_path / "train.parquet")
    assert main([command, str(tmp_path)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "no format of mined data was recognized in the columns ['a']" in error
    assert main([command, str(tmp_path / "nowhere")]) == 1
    assert "error: " in capsys.readouterr().err


def test_folder_without_data_is_an_error_of_one_line(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "broken.parquet").write_text("nothing")
    assert main(["audit", str(tmp_path)]) == 1
    assert "error: " in capsys.readouterr().err


def test_pilot_of_a_retrieval_set_prints_and_writes_what_it_found(tmp_path, capsys):
    sample = Path(hnm_datasets.__file__).parent / "sample" / "medquad"
    few = ["--sample", "60", "--steps", "2", "--seeds", "1", "--output", str(tmp_path / "found")]
    assert main(["pilot", str(sample), *few]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Take '")
    assert json.loads((tmp_path / "found" / "pilot.json").read_text())["sample"] == 60
    assert "| BM25 |" in (tmp_path / "found" / "pilot.md").read_text()
    assert (tmp_path / "found" / "pilot.png").read_bytes().startswith(b"\x89PNG")


def test_pilot_of_a_saved_set_takes_its_queries_and_corpus(tmp_path, capsys):
    corpus, queries = load_sample()
    rows = queries.select(range(60)).map(BM25Negatives(corpus, k=2), batched=True)
    save_mined(rows, tmp_path / "saved", corpus=corpus)
    found, read = read_queries(str(tmp_path / "saved"), "train")
    assert found == corpus
    assert read["positive_ids"][:] == rows["positive_ids"][:]
    save_mined(rows, tmp_path / "alone")
    assert main(["pilot", str(tmp_path / "alone")]) == 1
    assert "save_mined(corpus=...)" in capsys.readouterr().err


def test_a_pilot_that_cannot_draw_warns_before_it_begins_and_writes_the_rest(tmp_path, capsys, monkeypatch):
    class Found:
        def to_dict(self):
            return {"sample": 60}

        def to_markdown(self):
            return "Take 'BM25'."

    def pilot(*_, **__):
        assert "warning: the picture is skipped: pilot.png needs matplotlib" in capsys.readouterr().err
        return Found()

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("hnm_datasets.piloting.run.pilot", pilot)
    sample = Path(hnm_datasets.__file__).parent / "sample" / "medquad"
    assert main(["pilot", str(sample), "--output", str(tmp_path / "found")]) == 0
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["pilot.json", "pilot.md"]


@pytest.mark.parametrize("file", ["train.parquet", "train.jsonl"])
@pytest.mark.parametrize("command", ["pilot", "audit"])
def test_a_folder_of_pairs_is_told_how_to_read_them(command, file, tmp_path, capsys):
    rows = Dataset.from_dict({"row_id": [1, 2], "reply": ["A.", "B."], "question": ["a?", "b?"]})
    (rows.to_parquet if file.endswith("parquet") else rows.to_json)(tmp_path / file)
    assert main([command, str(tmp_path)]) == 1
    assert "If these are pairs: from_pairs(dataset, 'question', 'reply'), then" in capsys.readouterr().err


def test_help_names_all_commands():
    shown = subprocess.run([sys.executable, "-m", "hnm_datasets", "--help"], capture_output=True, text=True, check=True)
    assert "audit" in shown.stdout
    assert "card" in shown.stdout
    assert "pilot" in shown.stdout


@pytest.mark.parametrize("said", ["pilot was interrupted while mining: BM25.", ""])
def test_an_interrupt_is_one_line_and_its_own_exit_code(said, monkeypatch, capsys):
    monkeypatch.setattr(hnm_datasets.__main__, "run_pilot", lambda _: (_ for _ in ()).throw(KeyboardInterrupt(said)))
    assert main(["pilot", "folder"]) == 130
    assert capsys.readouterr().err == f"\n{said or 'pilot was interrupted.'}\n"


@pytest.mark.parametrize("command", ["audit", "pilot"])
@pytest.mark.parametrize("source", ["nosuch", "typo/name"])
def test_a_name_that_is_nowhere_is_named(command, source, monkeypatch, capsys, tmp_path):
    def unreachable(name):
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub (LocalEntryNotFoundError)")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "get_dataset_config_names", unreachable)
    assert main([command, source]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"there is no folder {source!r} here, and the Hub cannot be reached (Couldn't reach" in last


def test_a_missing_path_is_an_error_without_the_hub(capsys):
    for command in ("audit", "pilot"):
        assert main([command, "./nosuch"]) == 1
        assert "there is no folder './nosuch'" in capsys.readouterr().err
