"""Copy the pages of docs/ to build/docs, with the pages of the repository that they link to.

Links in docs/ are those of its files in the repository. In the copy, the other pages are inside the folder, so links to
them need one `../` less. The tables of results are left out of the search, because they would be most of its hits. A
picture NAME-light.png becomes two, and the theme shows the one that fits light or dark pages.
"""

import re
import shutil
from pathlib import Path

#: The pages and folders outside docs/ that its pages may link to.
OUTSIDE = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "benchmarks/results")
_UP = re.compile(r"(?<=\]\()\.\./(?=(?:\.\./)*(?:" + "|".join(map(re.escape, OUTSIDE)) + r")\b)")
#: A picture in Markdown, or the element <picture> with its light and its dark file.
_PICTURE = re.compile(r"!\[(?P<alt>[^]]*)\]\((?P<path>\S+)-light\.png\)")
_ELEMENT = re.compile(r'<picture>.*?<img alt="(?P<alt>[^"]*)" src="(?P<path>[^"]+)-light\.png".*?</picture>', re.DOTALL)
_BOTH = r"![\g<alt>](\g<path>-light.png#only-light)![\g<alt>](\g<path>-dark.png#only-dark)"

_NOT_SEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"


def stage(root: Path, target: Path) -> None:
    """Make the folder that zensical reads.

    Args:
        root: The top level of the repository.
        target: The folder to write. An existing folder is replaced.
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
    for page in (target / "benchmarks" / "results").glob("*.md"):
        page.write_text(_NOT_SEARCHED + page.read_text())
    for page in target.rglob("*.md"):
        page.write_text(_ELEMENT.sub(_BOTH, _PICTURE.sub(_BOTH, page.read_text())))


if __name__ == "__main__":
    stage(Path(), Path("build/docs"))
