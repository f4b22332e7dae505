"""Copy the pages of docs/ to build/docs, and beside them the pages of the repository that they link to.

Links in docs/ hold for its files as they are in the repository. In the copy, the other pages are inside the folder, so
one step up is left out of the links to them.
"""

import re
import shutil
from pathlib import Path

#: What pages of docs/ may link to, below the top level.
OUTSIDE = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "benchmarks/results")
_UP = re.compile(r"(?<=\]\()\.\./(?=(?:\.\./)*(?:" + "|".join(map(re.escape, OUTSIDE)) + r")\b)")


def stage(root: Path, target: Path) -> None:
    """Make the folder that zensical reads.

    Args:
        root: The top level of the repository.
        target: The folder; one that is there is replaced.
    """
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(root / "docs", target)
    for page in target.rglob("*.md"):
        page.write_text(_UP.sub("", page.read_text()))
    for name in OUTSIDE:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        copy(root / name, target / name)


if __name__ == "__main__":
    stage(Path(), Path("build/docs"))
