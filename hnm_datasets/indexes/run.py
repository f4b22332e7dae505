"""A run: the ranked passages of each query from another tool, copied into the cache directory and memory-mapped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, offsets_of, take_lists
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.indexes.run_files import FoundHits, of_mapping, of_rows, read_file, read_path
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.storage.about import About
from hnm_datasets.storage.digests import digest_strings, fingerprint
from hnm_datasets.storage.folders import build_once, cache_root
from hnm_datasets.storage.kept_rows import content_digest
from hnm_datasets.storage.manifest import check_complete
from hnm_datasets.storage.mapped import open_array, save_array
from hnm_datasets.storage.opened import Opened
from hnm_datasets.storage.tables import KeyTable

#: A file or folder, a dict `{query id: {passage id: score}}`, or rows.
RunSource: TypeAlias = "str | os.PathLike[str] | Mapping[Any, Mapping[Any, float]] | Rows"

#: Part of the folder name; increase it when the files or the order of hits change.
_FORMAT = 1
_STEP = "RunNegatives"


class Run:
    """The hits of each query of a run as row numbers of a corpus, best first.

    A run is copied into the cache directory once, under a name derived from its content, and pickles to this name.

    Attributes:
        corpus: The passages.
        fingerprint: 32 hexadecimal digits that depend on the run and the corpus.

    Example:
        >>> from hnm_datasets import load_sample
        >>> corpus, _ = load_sample("earthquakes")
        >>> run = Run.read({"q1": {"tsunamis": 1.5, "volcanoes": 2.5}}, corpus)
        >>> lists, scores = run.take(run.find(pa.array(["q1"])))
        >>> corpus.ids(lists.values).to_pylist(), scores.tolist()
        (['volcanoes', 'tsunamis'], [2.5, 1.5])
    """

    def __init__(self, corpus: Corpus, fingerprint: str) -> None:
        self.corpus, self.fingerprint = corpus, fingerprint

    @classmethod
    def read(cls, run: RunSource, corpus: Corpus) -> Run:
        """Read a run, unless a run with the same content and corpus is in the cache directory.

        Raises:
            FileNotFoundError: The file does not exist.
            KeyError: A column is missing, or a hit is not in the corpus.
            TypeError: `run` has an unsupported type.
            ValueError: The run is damaged, a hit is repeated, or scores and ranks disagree.
        """
        parts: list[FoundHits] = []
        if isinstance(run, (str, os.PathLike)):
            files = read_path(Path(run))
            digest = _digest(data for _, data in files)

            def found() -> list[FoundHits]:
                return [read_file(data, where) for where, data in files]

        elif _is_nested(run):
            nested: Any = run
            parts = [of_mapping(nested, "the run")]
            digest = _digest_of_hits(parts[0])
        else:
            rows = dataset_of(run, _STEP, "run")
            digest = content_digest(rows)

            def found() -> list[FoundHits]:
                return [of_rows(rows.with_format("arrow")[:], "the run")]

        name = fingerprint({"kind": "run", "format": _FORMAT, "digest": digest, "corpus": corpus.fingerprint})
        called = {"file": str(Path(run).resolve())} if isinstance(run, (str, os.PathLike)) else {}
        about = About("runs", "RunNegatives", of=cache_root() / "corpora" / corpus.fingerprint, facts=called)
        build_once(cache_root() / "runs", name, lambda folder: _save(folder, parts or found(), corpus), about)
        return cls(corpus, name)

    def __repr__(self) -> str:
        return f"Run({len(self._files.offsets) - 1} queries, fingerprint={self.fingerprint!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> tuple[type[Run], tuple[Corpus, str]]:
        return Run, (self.corpus, self.fingerprint)

    def find(self, query_ids: pa.Array) -> NDArray[np.int64]:
        """Return the list number of each query, -1 for queries that are not in the run. Shape (B,)."""
        return self._files.queries.find(digest_strings(query_ids.to_pylist()))

    def take(self, lists: NDArray[np.int64]) -> tuple[Ragged[NDArray[np.int64]], NDArray[np.float32]]:
        """Return lists by number: the row numbers in the corpus, and the scores, NaN if the run has no scores."""
        files = self._files
        taken = take_lists(Ragged(files.offsets, files.rows), lists)
        return taken, take_lists(Ragged(files.offsets, files.scores), lists).values

    @property
    def _files(self) -> _RunFiles:
        return _open(self.fingerprint)


@dataclass(frozen=True)
class _RunFiles:
    """The memory-mapped files of one run."""

    queries: KeyTable
    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


_OPENED: Opened[_RunFiles] = Opened()


def _open(name: str) -> _RunFiles:
    def opened() -> _RunFiles:
        folder = cache_root() / "runs" / name
        check_complete(
            folder,
            f"The run {name}",
            "Recreate the step with RunNegatives(corpus, run): the same run gets the same name. A run is read from the "
            "datasets cache directory, so HF_DATASETS_CACHE must be the same folder in every process.",
        )
        arrays: Any = [open_array(folder, part) for part in ("offsets", "rows", "scores")]
        return _RunFiles(KeyTable.open(folder, "queries"), *arrays)

    return _OPENED.get(name, opened)


def _is_nested(run: Any) -> bool:
    """Return whether this is a dict `{query id: {passage id: score}}`, not a dict of columns or splits."""
    return isinstance(run, Mapping) and any(
        isinstance(found, Mapping) and not isinstance(found, Dataset) for found in run.values()
    )


def _digest(parts: Iterable[bytes]) -> str:
    hasher = xxhash.xxh3_128()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest()


def _digest_of_hits(found: FoundHits) -> str:
    assert found.scores is not None  # the values of the mapping
    keys = (digest_strings(found.queries.to_pylist()), digest_strings(found.ids.to_pylist()), found.scores)
    return _digest(array.tobytes() for array in keys)


def _save(folder: Path, parts: list[FoundHits], corpus: Corpus) -> None:
    """Sort the hits of each query and write them."""
    _check_disjoint(parts)
    queries = pa.concat_arrays([part.queries.cast(pa.large_string()) for part in parts]).dictionary_encode()
    codes = queries.indices.to_numpy().astype(np.int64)
    ordered, scored = [], []
    before = 0
    for part in parts:
        order, rows = _ordered(part, codes[before : before + len(part.ids)], corpus)
        ordered.append(before + order)
        scored.append((rows, np.full(len(rows), np.nan) if part.scores is None else part.scores[order]))
        before += len(part.ids)
    # Each query is in only one part.
    by_query = np.concatenate(ordered)
    rows, scores = (np.concatenate(arrays) for arrays in zip(*scored, strict=True))
    final = np.argsort(codes[by_query], kind="stable")
    count = len(queries.dictionary)
    KeyTable.from_digests(digest_strings(queries.dictionary.to_pylist())).save(folder, "queries")
    save_array(folder, "offsets", offsets_of(np.bincount(codes, minlength=count)))
    save_array(folder, "rows", rows[final])
    save_array(folder, "scores", scores[final].astype(np.float32))


def _check_disjoint(parts: list[FoundHits]) -> None:
    """Raise an error if two files contain the same query."""
    holders: dict[str, str] = {}
    for part in parts if len(parts) > 1 else ():
        for query in part.queries.unique().to_pylist():
            if query in holders:
                raise ValueError(
                    f"{_STEP}: the query {query!r} is in {holders[query]} and in {part.where}. The files of a folder "
                    f"must be parts of a single run. To use several runs, fuse one step per run: "
                    f"FuseNegatives({{'first': RunNegatives(corpus, ...), ...}})."
                )
            holders[query] = part.where


def _ordered(found: FoundHits, codes: NDArray[np.int64], corpus: Corpus) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort hits by query, score, rank, and position in the file.

    Args:
        found: P hits.
        codes: The query number of each hit. Shape (P,).
        corpus: The passages.

    Returns:
        The order, and the row number of each hit in this order. Shape (P,) each.
    """
    lines = np.arange(len(codes))
    ranks = np.zeros(len(codes)) if found.ranks is None else found.ranks
    for name, values in (("score", found.scores), ("rank", found.ranks)):
        if values is not None:
            with np.errstate(over="ignore"):  # numbers beyond float32 become infinite
                bad = np.flatnonzero(~np.isfinite(values.astype(np.float32)))
            _refuse(found, bad, f"has the {name} {{}}, but a {name} must be a finite number", values)
    order = np.lexsort((lines, ranks, *(() if found.scores is None else (-found.scores,)), codes))
    falls = (np.diff(ranks[order]) < 0) & (np.diff(codes[order]) == 0)
    _refuse(
        found,
        order[1:][falls],
        "is ranked before a hit with a higher score. Sort the hits by score, best first. If the scores are distances, "
        "negate them, so that higher is better",
    )
    rows = corpus.find(found.ids)
    if (rows < 0).any():
        at = int(np.flatnonzero(rows < 0)[0])
        raise KeyError(
            f"{_STEP}: in {found.where}, the passage {found.ids[at].as_py()!r} of the query "
            f"{found.queries[at].as_py()!r} is not among the {len(corpus)} passages of the corpus. Create the corpus "
            f"from all passages that were searched, or remove such hits from the run."
        )
    keys = codes * len(corpus) + rows
    by_key = np.argsort(keys, kind="stable")
    _refuse(found, by_key[1:][np.diff(keys[by_key]) == 0], "is repeated. Keep the better hit")
    return order, rows[order]


def _refuse(found: FoundHits, bad: NDArray[np.int64], fault: str, values: NDArray[np.float64] | None = None) -> None:
    if len(bad):
        at = int(bad.min())
        shown = fault if values is None else fault.format(f"{values[at]:g}")
        raise ValueError(
            f"{_STEP}: in {found.where}, the passage {found.ids[at].as_py()!r} of the query "
            f"{found.queries[at].as_py()!r} {shown}."
        )
