import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

RECIPES = Path(__file__).parents[1] / "recipes"
NOTEBOOK = RECIPES / "hard_negatives.ipynb"


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(notebook, kind):
    return [out["data"][kind] for cell in code_cells(notebook) for out in cell.outputs if kind in out.get("data", {})]


def test_committed_outputs_are_those_of_one_run_from_top_to_bottom_without_warnings():
    cells = code_cells(read())
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [out for cell in cells for out in cell.outputs]
    assert not [out for out in outputs if out.output_type == "error" or out.get("name") == "stderr"]
    assert len(outputs_of(read(), "image/png")) == 3
    assert len(outputs_of(read(), "text/html")) >= 3


def test_committed_outputs_name_no_folder_of_their_author():
    text = NOTEBOOK.read_text()
    assert str(Path.home()) + "/" not in text
    assert "/tmp/" not in text


@pytest.mark.timeout(240)
def test_notebook_runs_and_its_training_helps(tmp_path):
    notebook = read()
    committed = len(outputs_of(notebook, "image/png"))
    # A tenth of the training, with a refresh, which helps already.
    (training,) = [cell for cell in code_cells(notebook) if "max_steps=300" in cell.source]
    training.source = training.source.replace("max_steps=300", "max_steps=30").replace("every=60", "every=15")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    client = NotebookClient(
        notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(RECIPES)}}
    )
    client.execute(env=environment)
    assert len(outputs_of(notebook, "image/png")) == committed
    printed = "".join(out.text for cell in code_cells(notebook) for out in cell.outputs if out.output_type == "stream")
    before, after = next(line for line in printed.splitlines() if "ndcg@10" in line).split(":")[1].split(",")
    assert float(after.split()[0]) > float(before.split()[0]) + 0.1
