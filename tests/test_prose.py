"""The prose of the project avoids words that readers of this field would have to translate."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = ("hnm_datasets/**/*.py", "docs/**/*.md", "recipes/*.py", "tools/*.py")
PAGES = ("hnm_datasets/__init__.pyi", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
#: Each has a plain word: again, treats as, is in, ignored, says, shows, close the file, whichever.
UNUSUAL = re.compile(
    r"\b(anew|(?:take|takes|taken|took) (?:it |them )?for (?!granted)(?=an? |the )|lies? (?:in|beside|under|near|there)"
    r"|no matter|as \w+ as can be|tells|told|let go of|goes on where|whoever|to be had|in vain)\b",
    re.IGNORECASE,
)


def test_words_are_plain():
    files = [path for pattern in FILES for path in ROOT.glob(pattern)]
    files += [ROOT / name for name in PAGES]
    assert len(files) > 200
    found = []
    for path in files:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            found += [f"{path.relative_to(ROOT)}:{number}: {match[0]}" for match in UNUSUAL.finditer(line)]
    assert found == []
