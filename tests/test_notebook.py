import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

RECIPES = Path(__file__).parents[1] / "recipes"
#: The pictures and the tables of each.
COMMITTED = {"hard_negatives": (4, 4), "dynamic_negatives": (2, 5)}


def read(name):
    return nbformat.read(RECIPES / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(notebook, kind):
    return [out["data"][kind] for cell in code_cells(notebook) for out in cell.outputs if kind in out.get("data", {})]


def run_copy(name, folder, **changes):
    """Run a notebook in a folder of its own, with other values of what its training is given; return it."""
    notebook = read(name)
    source = "\n".join(cell.source for cell in code_cells(notebook))
    for old, new in changes.values():
        assert source.count(old) == 1
        for cell in code_cells(notebook):
            cell.source = cell.source.replace(old, new)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    client = NotebookClient(notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)
    assert len(outputs_of(notebook, "image/png")) == COMMITTED[name][0]
    return notebook


def printed_by(notebook):
    return "".join(out.text for cell in code_cells(notebook) for out in cell.outputs if out.output_type == "stream")


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_outputs_are_those_of_one_run_from_top_to_bottom_without_warnings(name):
    notebook = read(name)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [out for cell in cells for out in cell.outputs]
    assert not [out for out in outputs if out.output_type == "error" or out.get("name") == "stderr"]
    pictures, tables = COMMITTED[name]
    assert len(outputs_of(notebook, "image/png")) == pictures
    assert len(outputs_of(notebook, "text/html")) >= tables


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_outputs_name_no_folder_of_their_author(name):
    text = (RECIPES / f"{name}.ipynb").read_text()
    assert str(Path.home()) + "/" not in text
    assert "/tmp/" not in text


@pytest.mark.timeout(240)
def test_hard_negatives_run_and_their_training_helps(tmp_path):
    # A tenth of the training, with a refresh, which helps already.
    changes = {"steps": ("max_steps=300", "max_steps=30"), "every": ("every=60", "every=15")}
    changes |= {"pilot": ("steps=100, seeds=3", "sample=40, train=False")}
    printed = printed_by(run_copy("hard_negatives", tmp_path, **changes))
    before, after = next(line for line in printed.splitlines() if "ndcg@10" in line).split(":")[1].split(",")
    assert float(after.split()[0]) > float(before.split()[0]) + 0.1


@pytest.mark.timeout(240)
def test_dynamic_negatives_run_and_their_trainings_help(tmp_path):
    notebook = run_copy("dynamic_negatives", tmp_path, steps=("STEPS, EVERY = 80, 20", "STEPS, EVERY = 8, 3"))
    results = outputs_of(notebook, "text/plain")[-1]
    untrained, *trained = (float(number) for number in re.findall(r" (0\.\d{3})$", results, re.MULTILINE))
    assert len(trained) == 2
    assert min(trained) > untrained + 0.05
