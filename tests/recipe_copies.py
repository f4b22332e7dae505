"""Recipes as users take them: copied to a folder of their own, with other constants at the top, and run from there."""

import re
import runpy
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"


def copy(recipe, folder, **constants):
    """Copy a recipe to a new folder, with other values of its constants, and return the path of the copy."""
    text = (RECIPES / recipe).read_text()
    for name, value in constants.items():
        line = re.compile(rf"^{name} = .*$", re.MULTILINE)
        assert len(line.findall(text)) == 1, f"{recipe} has no constant {name}"
        text = line.sub(lambda _, line=f"{name} = {value!r}": line, text)
    folder.mkdir()
    (folder / recipe).write_text(text)
    return folder / recipe


def run_here(path, monkeypatch):
    """Run a copy in this process, which has imported everything, with its folder as the working directory."""
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr("sys.argv", [path.name])
    runpy.run_path(str(path), run_name="__main__")
