"""Keep paths of this machine out of cards and records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hnm_datasets.storage.about import short_name

# A quoted path may contain spaces. URLs, markup and "and/or" are not paths. A single part, such as the prompt
# "/no_think", says nothing of the machine.
_ROOT = r"(?:(?:file:///|(?<![\w~])~\w*[\\/]+|(?<![\w~])[A-Za-z]:[\\/]+)|(?<![\w./~<>\\-])/(?!/))"


def _path_of(character: str) -> str:
    return rf"{_ROOT}{character}+(?:[\\/]+{character}+)*[\\/]*"


_SINGLE, _DOUBLE, _BARE = map(_path_of, (r"[^'\n\\/]", r'[^"\n\\/]', r"""[^\s'"`,;:()\[\]{}<>|\\/]"""))
_PATH = re.compile(rf"""(?<='){_SINGLE}(?=')|(?<="){_DOUBLE}(?=")|{_BARE}""")


def without_paths(text: str) -> str:
    """Replace each absolute path by its last two parts, or by the Hub id if it is in the cache of the Hub.

    Example:
        >>> without_paths("Encoder('/home/me/my models/minilm/model', 'query'), see https://example.org/a/b")
        "Encoder('minilm/model', 'query'), see https://example.org/a/b"
    """
    return _PATH.sub(_end, text)


def record_without_paths(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without paths in its source, its steps and its report of `mine`; texts of the data stay."""
    source, mined = record["source"], record["mined"]
    if source and (hidden := without_paths(source)) != source:
        # Two parts would look like a Hub id.
        source = hidden.split("/")[-1]
    if mined:
        steps = [
            step | {name: without_paths(step[name]) for name in ("name", "step")} for step in mined["numbers"]["steps"]
        ]
        mined = mined | {"numbers": mined["numbers"] | {"steps": steps}}
    return {
        **record,
        "source": source,
        "steps": list(map(without_paths, record["steps"])),
        "mined": mined,
    }


def _end(found: re.Match[str]) -> str:
    parts = [part for part in re.split(r"[\\/]+", found[0].removeprefix("file:")) if part]
    if len(parts) == 1:
        return found[0]
    root = re.fullmatch(r"~\w*|[A-Za-z]:", parts[0])
    return short_name("/" + "/".join(parts[1:] if root else parts))
