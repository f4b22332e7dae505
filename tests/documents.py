"""The fenced blocks of Markdown pages, and how the Python among them is run."""

import contextlib
import io
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
#: The first line of Python that is shown and not run, with the reason.
NOT_RUN = re.compile(r"# Not run: \w.{5,}")
#: How a page opens a model of the Hub in Python that is run.
DOWNLOADED = 'SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")'
FENCE = re.compile(r"^( *)(```+|~~~+)([^\n]*)\n(.*?)^\1\2 *$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block, what it is fenced as, and the text between it and the block before."""

    language: str
    body: str
    before: str


def blocks_of(page: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    found, end = [], 0
    for match in FENCE.finditer(page):
        found.append(Block(match[3].strip(), match[4], page[end : match.start()]))
        end = match.end()
    return found


def complaints(page: str, makefile: str, extras: set[str]) -> list[str]:
    """Return what is wrong with the blocks of a page, without running any."""
    found = []
    previous = None
    for block, following in pairwise([*blocks_of(page), Block("", "", "")]):
        start = block.body.strip().split("\n")[0]
        if block.language == "python":
            # A comment like the mark that is none would hide code from the test.
            if "not run" in start.lower() and not NOT_RUN.fullmatch(start):
                found.append(f"no reason is given: {start}")
            if re.search(r"^ *print\(", block.body, re.MULTILINE) and following.language != "text":
                found.append(f"what this prints does not stand below it: {start}")
        elif block.language == "text":
            if previous is None or previous.language != "python" or block.before.strip():
                found.append(f"no Python stands right above the output: {start}")
            elif NOT_RUN.match(previous.body):
                found.append(f"the output of Python that is not run: {start}")
        elif block.language == "sh":
            found += [
                f"cannot be right: {line}" for line in block.body.splitlines() if not _is_known(line, makefile, extras)
            ]
        else:
            found.append(f"fenced as {block.language!r}: {start}")
        previous = block
    return found


def _is_known(line: str, makefile: str, extras: set[str]) -> bool:
    """Whether a line for the shell names a target of make, a script, a command or an extra that exists."""
    command = line.split("#")[0].strip()
    if not command:
        return True
    if match := re.fullmatch(r"make (\w+)", command):
        return re.search(rf"^{match[1]}:", makefile, re.MULTILINE) is not None
    if match := re.fullmatch(r"python (\S+\.py)\b.*", command):
        return (ROOT / match[1]).exists()
    if match := re.fullmatch(r"python -m hnm_datasets (\w+)(?: .*)?", command):
        return f'"{match[1]}"' in (ROOT / "hnm_datasets" / "__main__.py").read_text()
    if match := re.fullmatch(r"pip install '?hnm-datasets(?:\[(\w+)\])?'?", command):
        return match[1] is None or match[1] in extras
    return command.startswith(("accelerate launch ", "rm -r ", "git clone "))


def run_page(page: str, name: str, make_model: Callable[[], object]) -> list[tuple[str, str]]:
    """Run the Python of a page, block after block in one namespace.

    Args:
        page: The page.
        name: Its name in tracebacks.
        make_model: Makes the model that takes the place of one that would be downloaded.

    Returns:
        What each block that is run printed, and what the page says that it prints, where it says so.
    """
    namespace: dict[str, object] = {"__name__": "__main__", "_make_model": make_model}
    answers = []
    for block, following in pairwise([*blocks_of(page), Block("", "", "")]):
        if block.language != "python" or NOT_RUN.match(block.body):
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block.body.replace(DOWNLOADED, "_make_model()"), name, "exec"), namespace)
        if following.language == "text":
            answers.append((printed.getvalue(), following.body))
    return answers
