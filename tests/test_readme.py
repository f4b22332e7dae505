"""The README's Python runs and prints what it says."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n\n```\n(.*?)```)?", README, re.DOTALL)


@pytest.mark.parametrize(("code", "printed"), BLOCKS, ids=range(len(BLOCKS)))
def test_block(code, printed, capsys):
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == printed


def test_every_block_is_run():
    # Whoever indents a fence or calls it py finds out here.
    fences = sum(line.strip().lower().startswith(("```py", "~~~py")) for line in README.splitlines())
    assert len(BLOCKS) == fences >= 1
