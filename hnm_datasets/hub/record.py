"""The record of a dataset, `mining.json`: the content of its card other than the rows, to write the card again."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from datasets import Dataset

from hnm_datasets import checks
from hnm_datasets.audit.report import Audit
from hnm_datasets.audit.run import audit_negatives
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.formats.base import Layout
from hnm_datasets.hub.paths import record_without_paths
from hnm_datasets.hub.shards import corpus_size, size_of
from hnm_datasets.hub.steps import in_order, report_of, steps_of
from hnm_datasets.hub.tokens import hide_tokens
from hnm_datasets.mining.report import MiningReport
from hnm_datasets.rows import Rows
from hnm_datasets.storage.json_files import read_object
from hnm_datasets.storage.json_values import typed
from hnm_datasets.storage.writing import written_aside
from hnm_datasets.terminal import printable
from hnm_datasets.version import __version__

RECORD = "mining.json"
_MADE_BY = {"made_by": "hnm_datasets", "format": 1}
_PACKAGES = (
    "datasets",
    "sentence-transformers",
    "transformers",
    "torch",
    "bm25s",
    "faiss-cpu",
    "numba",
)


class _Split(TypedDict):
    rows: int
    bytes: int


class _Corpus(TypedDict):
    fingerprint: str
    passages: int
    included: bool
    columns: list[str]
    bytes: int


class _Audited(TypedDict):
    split: str
    numbers: Audit


class _Mined(TypedDict):
    split: str
    numbers: MiningReport


class _Record(TypedDict):
    """The required content of a record."""

    made_by: str
    format: int
    repo_id: str
    name: str | None
    license: str | None
    language: list[str] | None
    source: str | None
    steps: list[str]
    mined: _Mined | None
    versions: dict[str, str]
    splits: dict[str, _Split]
    corpus: _Corpus | None
    audit: _Audited | None


@dataclass(frozen=True)
class Options:
    """The options of `save_mined`, see there."""

    steps: Sequence[object] = ()
    corpus: Corpus | None = None
    audit: Audit | None = None
    judgments: Rows | None = None
    license: str | None = None
    language: str | Sequence[str] | None = None
    name: str | None = None
    source: str | None = None
    include_corpus: bool = True

    def check(self, owner: str) -> None:
        """Raise a TypeError for the first option of the wrong type."""
        if isinstance(self.steps, str) or not isinstance(self.steps, Sequence):
            raise TypeError(f"{owner}: steps must be a list of steps or strings, got {type(self.steps).__name__}.")
        if self.corpus is not None:
            check_corpus(owner, self.corpus)
        for name in ("license", "name", "source"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise TypeError(f"{owner}: {name} must be a string, got {getattr(self, name)!r}.")
        if not all(isinstance(language, str) for language in self.languages):
            raise TypeError(f"{owner}: language must be a code such as 'en', or a list of them, got {self.language!r}.")

    @property
    def languages(self) -> list[str]:
        """The language codes as a list."""
        return [self.language] if isinstance(self.language, str) else list(self.language or ())


def record_of(
    owner: str, splits: Mapping[str, Dataset], layout: Layout, options: Options, *, repo_id: str, included: bool
) -> dict[str, Any]:
    """Return the record of a dataset, and audit its first split unless an audit is given.

    Args:
        owner: The name of the calling function, for error messages.
        splits: The rows of each split.
        layout: The columns of the rows.
        options: The options that the user passes.
        repo_id: The id of the dataset on the Hub.
        included: Whether the corpus is written next to the rows.

    Raises:
        ValueError: The steps contradict the rows.
    """
    corpus = options.corpus
    first, rows = next(iter(splits.items()))
    record = {
        **_MADE_BY,
        "repo_id": repo_id,
        "name": options.name,
        "license": options.license,
        "language": options.languages or None,
        "source": options.source,
        "steps": steps_of(owner, splits, options.steps),
        "mined": report_of(splits),
        "versions": versions(),
        "splits": {split: {"rows": len(part), "bytes": size_of(part)} for split, part in splits.items()},
        "corpus": None
        if corpus is None
        else {
            "fingerprint": corpus.fingerprint,
            "passages": len(corpus),
            "included": included,
            "columns": list(corpus.columns),
            "bytes": corpus_size(corpus),
        },
        "audit": _audited(rows, first, layout, options),
    }
    return record_without_paths(record)


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of its installed dependencies."""
    found = {"python": platform.python_version(), "hnm_datasets": __version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read the record of a folder and check it, because anyone may have written the file.

    Returns:
        The record; None if there is none, or if another program wrote it.

    Raises:
        ValueError: The file is not JSON, or is not a record of `save_mined`; the message names the file.
    """
    path = folder / RECORD
    try:
        content = read_object(path)
        if isinstance(maker := content.get("made_by"), str) and maker != _MADE_BY["made_by"]:
            return None
        if not content.items() >= _MADE_BY.items():
            raise ValueError(f"it does not contain {_MADE_BY}")
        # Earlier versions did not write the report of `mine`.
        record: dict[str, Any] = typed(_Record, {"mined": None} | content, "record")
        if not record["splits"]:
            raise ValueError("it lists no splits")
        for split in record["splits"]:
            checks.split_name("record", split)
        if record["mined"] is not None:
            record["mined"] = _mined_record(record, **record["mined"])
        if record["audit"] is not None:
            audit = record["audit"]["numbers"]
            # This fails if numbers of the right types contradict each other.
            audit.to_markdown()
            record["audit"] = _audit_record(record["audit"]["split"], audit)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ArithmeticError, LookupError) as error:
        raise ValueError(
            f"{path} is damaged or was not written by save_mined: {printable(str(error))}. Save the dataset again with "
            f"save_mined, or move the file away; the card will then say that the steps were not recorded."
        ) from None
    # Earlier versions wrote paths.
    return record_without_paths(record)


def audit_of(record: Mapping[str, Any]) -> Audit | None:
    """Return the audit in a record; None if there is none."""
    if not record["audit"]:
        return None
    audit: Audit = typed(Audit, record["audit"]["numbers"], "audit.numbers")
    return audit


def report_in(record: Mapping[str, Any]) -> MiningReport | None:
    """Return the report of `mine` in a record; None if there is none."""
    if not record["mined"]:
        return None
    report: MiningReport = typed(MiningReport, record["mined"]["numbers"], "mined.numbers")
    return report


def write_record(folder: Path, record: Mapping[str, Any], secrets: Sequence[str]) -> dict[str, Any]:
    """Write the record without secrets, and return what was written."""
    text = hide_tokens(json.dumps(record, indent=1, ensure_ascii=False), secrets)
    with written_aside(folder / RECORD) as aside:
        aside.write_text(f"{text}\n", encoding="utf-8")
    hidden: dict[str, Any] = json.loads(text)
    return hidden


def _mined_record(record: Mapping[str, Any], split: str, numbers: MiningReport) -> dict[str, Any]:
    """Return a report of `mine` in the form of the record; raise a ValueError if its steps are not the record's."""
    numbers.to_markdown()
    steps = [one.step for one in numbers.steps]
    if not steps or not in_order(steps, record["steps"]) or split not in record["splits"]:
        raise ValueError("its counts belong to other steps or splits")
    return {"split": split, "numbers": numbers.to_dict()}


def _audited(rows: Dataset, split: str, layout: Layout, options: Options) -> dict[str, Any] | None:
    audit = options.audit
    if audit is None:
        if layout.format.is_graded(layout, rows):
            return None
        audit = audit_negatives(rows, options.corpus, judgments=options.judgments)
    return _audit_record(split, audit)


def _audit_record(split: str, audit: Audit) -> dict[str, Any]:
    """Return an audit in the form of the record: the main results, then all numbers."""
    found = audit.false_negatives
    return {
        "split": split,
        "queries": audit.queries,
        "negatives": audit.negatives,
        "false_negatives": found and asdict(found),
        "defects": [{"name": one.name, "count": one.count, "what": one.what} for one in audit.defects],
        "numbers": audit.to_dict(),
    }
