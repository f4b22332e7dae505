"""What a folder of the cache holds, in plain words: `about.json` in it.

The file is written when the folder is finished, and is for people and for the list of the cache. Only embeddings read
their own. No answer and no fingerprint depends on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hnm_datasets.storage.json_files import read_object
from hnm_datasets.storage.writing import written_aside
from hnm_datasets.version import __version__

ABOUT = "about.json"
#: The folders of the cache directory and what a folder in them holds.
KINDS = {
    "corpora": "corpus",
    "rows": "rows made in memory, with the results of map",
    "runs": "run of another tool",
    "bm25": "BM25 index",
    "bm25-bounds": "bounds that speed up a BM25 index",
    "bm25-counts": "token counts",
    "bm25-statistics": "token counts of all shards",
    "bm25-imported": "BM25 index built by bm25s",
    "tokenizers": "tokenizer of a BM25 index",
    "shingles": "word shingles",
    "embeddings": "passage vectors",
    "dense": "index of dense vectors",
    "sparse": "index of sparse vectors",
    "tokens": "index of token vectors",
    "vectors": "vectors of single texts",
    "pair_scores": "teacher scores",
    "pilot": "result of a pilot",
    "live": "candidates of live rows",
    "pushes": "folder written for the Hub",
}
#: What a folder shares with the folder that it was made of.
_SHARED = ("corpus", "corpus_name", "passages", "model", "model_name")


@dataclass(frozen=True)
class About:
    """What a folder of the cache holds.

    Attributes:
        kind: A key of `KINDS`.
        made_by: The public name of what made it.
        detail: What distinguishes it from others of its kind, in a few words; may be empty.
        of: The folder of the cache that it was made of, whose corpus and model are also its own.
        facts: More about it. `corpus` and `model` are fingerprints, `corpus_name` and `model_name` are names, and
            `passages` is a number.
        options: What it was made with.

    Example:
        >>> about = About("bm25", "BM25Index", facts={"passages": 12, "corpus_name": "BeIR/scifact"})
        >>> about.content()["what"]
        'BM25 index of 12 passages (BeIR/scifact)'
    """

    kind: str
    made_by: str
    detail: str = ""
    of: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """Return what the file says, as JSON values."""
        facts = dict(self.facts)
        if self.of is not None:
            shared = {name: value for name, value in read_about(self.of).items() if name in _SHARED}
            # A folder of an earlier version has no file, and a corpus is named by its fingerprint.
            own = {"corpus": self.of.name} if self.of.parent.name == "corpora" else {}
            facts = {"made_of": f"{self.of.parent.name}/{self.of.name}"} | own | shared | facts
        options = {"options": {name: _plain(value) for name, value in self.options.items()}} if self.options else {}
        return {
            "kind": self.kind,
            "what": in_words(self.kind, facts, self.detail),
            "made_by": self.made_by,
            **facts,
            **options,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": __version__,
        }

    def write(self, folder: Path) -> None:
        """Write the file into a folder."""
        with written_aside(folder / ABOUT) as aside:
            aside.write_text(json.dumps(self.content(), indent=1, ensure_ascii=False), encoding="utf-8")


def read_about(folder: Path) -> dict[str, Any]:
    """Return what the file in a folder says; nothing if there is none, or a damaged one."""
    try:
        return read_object(folder / ABOUT)
    except (OSError, ValueError):
        return {}


def in_words(kind: str, facts: Mapping[str, Any], detail: str = "") -> str:
    """Say in one line what a folder holds.

    Example:
        >>> in_words("dense", {"corpus": "1f2e3d4c5b6a7980", "model_name": "all-MiniLM-L6-v2"}, "IVF64,Flat")
        'index of dense vectors (IVF64,Flat) of the corpus 1f2e3d4c by all-MiniLM-L6-v2'
    """
    words = f"{KINDS[kind]} ({detail})" if detail else KINDS[kind]
    passages, corpus, model = facts.get("passages"), facts.get("corpus"), facts.get("model")
    name = short_name(facts.get("corpus_name"))
    if isinstance(passages, int):
        words += f" of {passages:,} passages" + (f" ({name})" if name else "")
    elif name:
        words += f" of {name}"
    elif corpus and kind != "corpora":
        words += f" of the corpus {str(corpus)[:8]}"
    if called := short_name(facts.get("model_name")):
        words += f" by {called}"
    elif model:
        words += f" by the model {str(model)[:8]}"
    return words


def short_name(name: object) -> str:
    """Return what a list calls a model or corpus: of a path only its end.

    Example:
        >>> short_name("/home/me/runs/minilm/checkpoint-500"), short_name("BeIR/scifact"), short_name(None)
        ('minilm/checkpoint-500', 'BeIR/scifact', '')
    """
    text = name if isinstance(name, str) else ""
    return "/".join(Path(text).parts[-2:]) if Path(text).is_absolute() else text


def _plain(value: Any) -> Any:
    """Return an option as a JSON value."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else str(value)
