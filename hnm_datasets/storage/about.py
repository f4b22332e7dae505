"""`about.json`: a description of a cache folder in plain words.

The file is written when the folder is complete. Users read it, and the list of the cache shows it. Only embeddings read
their own file. No result and no fingerprint depends on it.
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
#: The subfolders of the cache directory, and the content of the folders in them.
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
#: The facts that a folder inherits from the folder it was built from.
_SHARED = ("corpus", "corpus_name", "passages", "model", "model_name")


@dataclass(frozen=True)
class About:
    """The description of a cache folder.

    Attributes:
        kind: A key of `KINDS`.
        made_by: The public name of the step or function that created it.
        detail: A few words that distinguish it from others of its kind; may be empty.
        of: The cache folder that it was built from, which has the same corpus and model.
        facts: Further facts. `corpus` and `model` are fingerprints, `corpus_name` and `model_name` are names, and
            `passages` is a number.
        options: The options that it was created with.

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
        """Return the content of the file as JSON values."""
        facts = dict(self.facts)
        if self.of is not None:
            shared = {name: value for name, value in read_about(self.of).items() if name in _SHARED}
            # A folder of an earlier version has no file. A corpus is then identified by its fingerprint.
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
        """Write the file to a folder."""
        with written_aside(folder / ABOUT) as aside:
            aside.write_text(json.dumps(self.content(), indent=1, ensure_ascii=False), encoding="utf-8")


def read_about(folder: Path) -> dict[str, Any]:
    """Return the content of the file in a folder; empty if it is missing or damaged."""
    try:
        return read_object(folder / ABOUT)
    except (OSError, ValueError):
        return {}


def in_words(kind: str, facts: Mapping[str, Any], detail: str = "") -> str:
    """Describe the content of a folder in one line.

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
    """Return the name of a model or corpus for lists: the end of a path, or the Hub id if the Hub's cache has it.

    Example:
        >>> short_name("/home/me/runs/minilm/checkpoint-500"), short_name("BeIR/scifact"), short_name(None)
        ('minilm/checkpoint-500', 'BeIR/scifact', '')
        >>> short_name("/home/me/.cache/huggingface/hub/models--BAAI--bge-small-en/snapshots/5c38ec7c")
        'BAAI/bge-small-en'
    """
    text = name if isinstance(name, str) else ""
    path = Path(text)
    if not path.is_absolute():
        return text
    if (repo := path.parent.parent.name).startswith(("models--", "datasets--")):
        return "/".join(repo.split("--")[1:])
    return "/".join(path.parts[1:][-2:])


def _plain(value: Any) -> Any:
    """Return an option as a JSON value."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else str(value)
