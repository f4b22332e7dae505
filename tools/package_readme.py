"""A hook of hatchling: the README of the package, where links into the repository become plain words."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_ELSEWHERE = r"(?!\w+:)[^)\s]+"


class PackageReadme(MetadataHookInterface):
    """Set the description that PyPI shows. Relative links and pictures do not work there."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Write the README without relative links to the metadata."""
        text = without_relative_links((Path(self.root) / "README.md").read_text(encoding="utf-8"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def without_relative_links(text: str) -> str:
    """Return Markdown in which relative links are their words, and pictures their descriptions.

    A pair of parentheses that holds only a relative link is left out with it.
    """
    text = re.sub(r'<picture>.*?<img alt="([^"]*)".*?</picture>', r"*\1.*", text, flags=re.DOTALL)
    text = re.sub(rf"\s\(\[[^]]*\]\({_ELSEWHERE}\)\)", "", text)
    return re.sub(rf"\[([^]]*)\]\({_ELSEWHERE}\)", r"\1", text)
