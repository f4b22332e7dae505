"""Generations: the negatives of all training queries after one refresh, as arrays in a folder.

A generation is written to a temporary folder and renamed, so no process reads a partial one. It never changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, kept_offsets, slice_lists
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, NEGATIVE_SOURCE, POSITIVE_IDS, score_column
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.runtime.notices import tell_once
from hnm_datasets.storage.about import About
from hnm_datasets.storage.folders import build_once, cache_root
from hnm_datasets.storage.manifest import check_complete
from hnm_datasets.storage.mapped import append_array, open_array, save_array
from hnm_datasets.transforms.known import are_known

logger = logging.getLogger(__name__)

#: The lists of mined rows, before the known positives are dropped.
_MINED = {"positives": POSITIVE_IDS, "mined": NEGATIVE_IDS}
#: Arrays that can be aligned with these lists.
_ALIGNED = {"scores": "<f4", "sources": "<i8"}
#: Rows per batch when known positives are dropped.
_ROWS = 10_000

#: Takes the positives of all rows. Returns the sorted copy codes of each question's known positives, and the question
#: of each row.
KnownOf = Callable[[Ragged[NDArray[np.int64]]], tuple[Ragged[NDArray[np.int64]], NDArray[np.int64]]]


@dataclass(frozen=True)
class Generation:
    """The positives and candidates of Q queries, as memory-mapped row numbers of a corpus.

    Attributes:
        positives: The known positives of each query.
        negatives: The candidates of each query, best first.
        positive_scores: The teacher scores of the positives, if any.
        negative_scores: The teacher scores of the candidates, if any.
        negative_sources: The sources that found each candidate, as one bit per source of the quota; None without a
            quota.
        dropped: The number of candidates dropped because they are known positives, and the number of their queries.
    """

    positives: Ragged[NDArray[np.int64]]
    negatives: Ragged[NDArray[np.int64]]
    positive_scores: NDArray[np.float32] | None
    negative_scores: NDArray[np.float32] | None
    negative_sources: NDArray[np.int64] | None
    dropped: tuple[int, int]

    @classmethod
    def open(cls, folder: Path) -> Generation:
        """Memory-map a generation that `write_generation` wrote.

        Raises:
            FileNotFoundError: The generation does not exist.
            DamagedFolderError: Its files were changed or are incomplete.
        """
        check_complete(
            folder,
            f"Generation {int(folder.name)} of the negatives",
            "Delete its folder if it is damaged. To write generation 0 again, call live_negatives; for a later "
            "generation, resume the training from an earlier checkpoint.",
        )
        positives, of_positives = _open_lists(folder, "positives")
        negatives, of_negatives = _open_lists(folder, "negatives")
        candidates, queries = open_array(folder, "dropped").tolist()
        return cls(
            positives,
            negatives,
            of_positives.get("scores"),
            of_negatives.get("scores"),
            of_negatives.get("sources"),
            (candidates, queries),
        )


def _open_lists(folder: Path, name: str) -> tuple[Ragged[NDArray[np.int64]], dict[str, Any]]:
    """Memory-map lists of passages and the arrays aligned with them."""
    offsets: Any = open_array(folder, f"{name}.offsets")
    rows: Any = open_array(folder, name)
    aligned = (one for one in _ALIGNED if (folder / f"{name}.{one}.npy").exists())
    return Ragged(offsets, rows), {one: open_array(folder, f"{name}.{one}") for one in aligned}


def write_generation(
    parent: Path,
    number: int,
    tables: Iterable[pa.Table],
    corpus: Corpus,
    teacher: str | None,
    step: str,
    known_of: KnownOf,
    sources: Sequence[str] = (),
) -> Path:
    """Write a generation from mined rows, without candidates that are known positives.

    Args:
        parent: The folder of the generations.
        number: The number of the generation.
        tables: The mined rows, in batches.
        corpus: The passages.
        teacher: Also store the scores of this teacher; None: no scores.
        step: The name of the caller, for error messages.
        known_of: Function that returns the known positives of each question.
        sources: Also store which of these sources found each candidate.

    Returns:
        The folder of the generation.

    Raises:
        KeyError: A column is missing, or an id is not in the corpus.
    """

    def build(folder: Path) -> None:
        with ExitStack() as stack:
            scored = ["scores"] if teacher else []
            aligned = {"positives": scored, "mined": [*scored, *(["sources"] if sources else [])]}
            writers = {name: _ListWriter(stack, folder, name, aligned[name]) for name in _MINED}
            for table in tables:
                batch = Batch(table, step=step)
                for name, column in _MINED.items():
                    batch.require(column)
                    own: dict[str, NDArray[Any]] = {}
                    if teacher:
                        by = score_column(teacher, of=column.removesuffix("_ids"))
                        batch.require(by, "teacher")
                        lists = batch.number_lists(by)
                        batch.check_aligned(column, batch.id_lists(column), by, lists)
                        own["scores"] = lists.values.astype(np.float32)
                    if "sources" in aligned[name]:
                        own["sources"] = _source_bits(batch, sources)
                    writers[name].write(batch.rows_in(column, corpus), own)
        _drop_known(folder, corpus, known_of)

    about = About("live", step, f"generation {number}", cache_root() / "corpora" / corpus.fingerprint)
    return build_once(parent, f"{number:06d}", build, about)


def warn_of_dropped(owner: str, generation: Generation) -> None:
    """Warn about candidates that were dropped because they are known positives."""
    candidates, queries = generation.dropped
    if candidates:
        tell_once(
            logger,
            f"{owner}: known positives",
            "%s: %d candidates of %d queries are dropped, because they are known positives of their question or "
            "copies of one. Map DropKnownPositives(corpus) before filters and samplers, so that these choose among "
            "the other candidates.",
            owner,
            candidates,
            queries,
        )


def warn_of_missing(owner: str, generation: Generation, sources: Sequence[str]) -> None:
    """Warn about sources of a quota that no candidate comes from."""
    bits = generation.negative_sources
    if bits is None or not len(bits):
        return
    there = int(np.bitwise_or.reduce(bits))
    missing = [source for bit, source in enumerate(sources) if not there >> bit & 1]
    if missing:
        tell_once(
            logger,
            f"{owner}: sources",
            "%s: the quota names %s, but no candidate has such a source in 'negative_source'; candidates of other "
            "sources are drawn instead. The names of sources are set by FuseNegatives or by the miner.",
            owner,
            ", ".join(map(repr, missing)),
        )


def _source_bits(batch: Batch, sources: Sequence[str]) -> NDArray[np.int64]:
    """Return the sources that found each candidate: bit i is set for source i. Shape (C,)."""
    batch.require(NEGATIVE_SOURCE, "quota")
    lists = batch.string_lists(NEGATIVE_SOURCE)
    batch.check_aligned(NEGATIVE_IDS, batch.id_lists(NEGATIVE_IDS), NEGATIVE_SOURCE, lists)
    coded = lists.values.dictionary_encode()
    named = [name.split("+") for name in coded.dictionary.to_pylist()]
    bits = [sum(1 << bit for bit, source in enumerate(sources) if source in names) for names in named]
    codes: NDArray[np.int32] = coded.indices.to_numpy(zero_copy_only=False)
    return np.array(bits, dtype=np.int64)[codes]


class _ListWriter:
    """Write lists of passages, and the arrays aligned with them, in batches of rows."""

    def __init__(self, stack: ExitStack, folder: Path, name: str, aligned: Iterable[str]) -> None:
        def writer(suffix: str, dtype: str) -> Any:
            return stack.enter_context(append_array(folder, name + suffix, np.dtype(dtype)))

        self._ends, self._rows = writer(".offsets", "<i8"), writer("", "<i8")
        self._aligned = {one: writer(f".{one}", _ALIGNED[one]) for one in aligned}
        self._total = 0
        self._ends(np.zeros(1, dtype=np.int64))

    def write(self, lists: Ragged[NDArray[np.int64]], aligned: Mapping[str, NDArray[Any]]) -> None:
        self._rows(lists.values)
        self._ends(lists.offsets[1:] + self._total)
        self._total += len(lists.values)
        for name, write in self._aligned.items():
            write(aligned[name])


def _drop_known(folder: Path, corpus: Corpus, known_of: KnownOf) -> None:
    """Replace the mined candidates with those that are not known positives of their question.

    Another row of the same question may have promoted a candidate, so the positives of all rows must be written first.
    """
    known, questions = known_of(_open_lists(folder, "positives")[0])
    mined, aligned = _open_lists(folder, "mined")
    dropped = np.zeros(2, dtype=np.int64)
    with ExitStack() as stack:
        writer = _ListWriter(stack, folder, "negatives", aligned)
        for start in range(0, len(mined), _ROWS):
            rows = slice(start, min(start + _ROWS, len(mined)))
            part = slice_lists(mined, rows)
            drop = are_known(known, questions[rows][part.owners], corpus.copy_codes[part.values])
            dropped += drop.sum(), len(np.unique(part.owners[drop]))
            kept = Ragged(kept_offsets(part.offsets, ~drop), part.values[~drop])
            own = slice(mined.offsets[rows.start], mined.offsets[rows.stop])
            writer.write(kept, {name: values[own][~drop] for name, values in aligned.items()})
    save_array(folder, "dropped", dropped)
    for path in folder.glob("mined.*"):
        path.unlink()
