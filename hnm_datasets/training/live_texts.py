"""The transform of live rows: it draws the negatives of the epoch and looks up their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.arrays.draws import permuted_rows
from hnm_datasets.arrays.ragged import Ragged, first_positions, offsets_of, positions_within, take_lists
from hnm_datasets.columns import NEGATIVE_SOURCE, QUERY, score_column
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.runtime.datasets_internals import fingerprint_of
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.training.generations import Generation, write_generation
from hnm_datasets.training.labels import PADDING, pack
from hnm_datasets.training.live_table import POSITIVE_ROW, QUERY_ROW, text_names
from hnm_datasets.training.progress import Progress
from hnm_datasets.training.questions import Questions
from hnm_datasets.training.quota import draw, draw_by_source
from hnm_datasets.transforms.known import sorted_lists

_NAME = "live_negatives"
#: Increase it when the same rows keep other candidates.
_VERSION = 2
#: The number of rows that the training still reads from the previous generation.
_HELD = {"rows": 0}


@dataclass(eq=False)
class LiveTexts:
    """The transform of `LiveNegatives`: turns row numbers into texts and labels.

    Attributes:
        corpus: The passages.
        n: Negatives per row.
        teacher: The teacher whose scores are in the label, if any.
        max_positives: The number of positives that a label has room for.
        seed: Seed for drawing the negatives.
        keys: 64 bits that identify each query. Shape (Q,).
        rows: The queries, for mining.
        questions: The rows that share a question; None if all questions differ.
        quota: The number of negatives from each source, per epoch; later epochs use the last entry.
        progress: The epoch and the generation.
        root: The folder of the generations after the first.
    """

    corpus: Corpus
    n: int
    teacher: str | None
    max_positives: int
    seed: int
    keys: NDArray[np.uint64]
    rows: Dataset
    questions: Questions | None = None
    quota: Sequence[Mapping[str, int]] = ()
    progress: Progress = field(default_factory=Progress)
    root: Path | None = None
    _first: Path | None = None
    _opened: tuple[int, Generation] | None = None
    _pooled: tuple[Generation, Ragged[NDArray[np.int64]]] | None = None
    _held: int | None = None

    def __post_init__(self) -> None:
        self._queries = self.rows.select_columns([QUERY]).with_format("arrow")

    def __deepcopy__(self, memo: object) -> LiveTexts:
        # Copies of a dataset share its epoch and generation.
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_copies"} | {
            "_opened": None,
            "_pooled": None,
        }

    @property
    def name(self) -> str:
        """The fingerprint of the queries, corpus and options: 32 hexadecimal digits."""
        options: list[Any] = [self.n, self.seed, self.max_positives]
        # Only with a quota, so that generations of rows without one keep their name.
        options += [[list(one.items()) for one in self.quota]] if self.quota else []
        return fingerprint({"kind": "draw", "of": self.rows_name, "options": options})

    @property
    def sources(self) -> list[str]:
        """The sources that a quota names in any epoch."""
        return list(dict.fromkeys(name for one in self.quota for name in one))

    @property
    def rows_name(self) -> str:
        """The fingerprint of the queries and the corpus: 32 hexadecimal digits."""
        rows = fingerprint_of(self.rows)
        options: dict[str, Any] = {"corpus": self.corpus.fingerprint, "rows": rows, "teacher": self.teacher}
        options |= {"version": _VERSION} | ({"sources": self.sources} if self.quota else {})
        return fingerprint({"kind": "live", "options": options})

    def write(self, number: int, tables: Any, folder: Path) -> None:
        """Write a generation of these queries, without known positives, to a folder of generations."""
        path = write_generation(folder, number, tables, self.corpus, self.teacher, _NAME, self._known_of, self.sources)
        longest = int(self._known_lists(Generation.open(path)).lengths.max(initial=0))
        if longest > self.max_positives:
            raise ValueError(
                f"{_NAME}: a question now has {longest} positives, but the labels have room for {self.max_positives}. "
                f"Make room for promoted candidates: live_negatives(..., max_positives={2 * longest})."
            )
        if number == 0:
            self._first = path
        else:
            self.root = folder

    def _known_of(self, positives: Ragged[NDArray[np.int64]]) -> tuple[Ragged[NDArray[np.int64]], NDArray[np.int64]]:
        """Return the sorted copy codes of each question's known positives, and the question of each row."""
        codes = self.corpus.copy_codes
        if self.questions is None:
            return sorted_lists(Ragged(positives.offsets, codes[positives.values])), np.arange(len(positives))
        return self.questions.pooled(positives, codes), self.questions.codes

    def folder_of(self, number: int) -> Path:
        """Return the folder of a generation."""
        if number == 0:
            assert self._first is not None
            return self._first
        if self.root is None:
            raise RuntimeError(f"{_NAME}: generation {number} does not exist.")
        return self.root / f"{number:06d}"

    def generation(self) -> Generation:
        """Open the generation in use."""
        number = self.progress.generation if not self._holds() else self._held
        assert number is not None
        if self._opened is None or self._opened[0] != number:
            self._opened = (number, Generation.open(self.folder_of(number)))
        return self._opened[1]

    def hold(self, number: int | None, rows: int) -> None:
        """Read the next `rows` rows of the training, counted over all its datasets, from another generation."""
        self._held = number
        _HELD["rows"] = rows

    def forget(self) -> None:
        """Discard the state of an interrupted training, because its generations may be overwritten."""
        self._held = self._opened = self._pooled = None

    def _holds(self) -> bool:
        worker = get_worker_info()
        # The first worker loads the first batch.
        return self._held is not None and _HELD["rows"] > 0 and (worker is None or worker.id == 0)

    def ids_of(self, lists: Ragged[NDArray[np.int64]], rows: NDArray[np.int64]) -> pa.ListArray:
        """Return the lists of some rows as ids."""
        taken = take_lists(lists, rows)
        return list_array(taken.offsets, self.corpus.ids(taken.values))

    def table_of(self, generation: Generation, rows: NDArray[np.int64]) -> pa.Table:
        """Return the lists of a generation for some queries as columns."""
        columns = {}
        for part in ("positive", "negative"):
            lists, scores = getattr(generation, f"{part}s"), getattr(generation, f"{part}_scores")
            columns[f"{part}_ids"] = self.ids_of(lists, rows)
            if self.teacher is not None:
                taken = take_lists(Ragged(lists.offsets, scores), rows)
                columns[score_column(self.teacher, of=part)] = list_array(taken.offsets, pa.array(taken.values))
        if self.quota:
            assert generation.negative_sources is not None
            bits = take_lists(Ragged(generation.negatives.offsets, generation.negative_sources), rows)
            columns[NEGATIVE_SOURCE] = list_array(bits.offsets, self._names_of(bits.values))
        return pa.table(columns)

    def _names_of(self, bits: NDArray[np.int64]) -> pa.Array:
        """Return the names of each candidate's sources in the quota, joined by `+`."""
        used, codes = np.unique(bits, return_inverse=True)
        named = ["+".join(name for bit, name in enumerate(self.sources) if one >> bit & 1) for one in used.tolist()]
        return pa.array(named, pa.string()).take(pa.array(codes))

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return the texts and labels of some rows."""
        owners = np.asarray(batch[QUERY_ROW], dtype=np.int64)
        positives = np.asarray(batch[POSITIVE_ROW], dtype=np.int64)
        generation = self.generation()
        if self._holds():
            _HELD["rows"] -= len(owners)
        texts, labels = self.texts_of(generation, owners, positives, self.progress.epoch)
        return {name: column.to_pylist() for name, column in texts.items()} | {"label": labels.tolist()}

    def texts_of(
        self, generation: Generation, owners: NDArray[np.int64], positives: NDArray[np.int64], epoch: int
    ) -> tuple[dict[str, pa.Array], NDArray[np.int64]]:
        """Return the texts and labels of M rows in an epoch.

        Args:
            generation: The generation to draw the negatives from.
            owners: The query of each row. Shape (M,).
            positives: The row number of each row's positive in the corpus. Shape (M,).
            epoch: The number of the epoch.
        """
        passages, is_padding, scores = self._choose(generation, owners, positives, epoch)
        texts, size = self.corpus.texts(passages.T.reshape(-1)), len(owners)
        anchor, *others = text_names(self.n)
        columns = {anchor: self._queries[owners.tolist()][QUERY].combine_chunks()}
        columns |= {name: texts.slice(column * size, size) for column, name in enumerate(others)}
        keys = np.where(is_padding, PADDING, self.corpus.copy_codes[passages])
        return columns, pack(keys, self.known_codes(generation, owners), self.max_positives, scores)

    def known_codes(self, generation: Generation, owners: NDArray[np.int64]) -> Ragged[NDArray[np.int64]]:
        """Return the copy codes of all known positives of some rows' questions. Shape (B,) → B lists."""
        if self.questions is None:
            positives = take_lists(generation.positives, owners)
            return Ragged(positives.offsets, self.corpus.copy_codes[positives.values])
        return take_lists(self._known_lists(generation), self.questions.codes[owners])

    def _known_lists(self, generation: Generation) -> Ragged[NDArray[np.int64]]:
        """Return the known positives of each row; if rows share questions, of each question at its first row."""
        if self.questions is None:
            return generation.positives
        if self._pooled is None or self._pooled[0] is not generation:
            self._pooled = (generation, self.questions.pooled(generation.positives, self.corpus.copy_codes))
        return self._pooled[1]

    def _choose(
        self, generation: Generation, owners: NDArray[np.int64], positives: NDArray[np.int64], epoch: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float32] | None]:
        """Draw the negatives of each row.

        Returns:
            The corpus rows of each row's passages, the positive first, shape (M, 1 + n); a mask of the padding; and the
            teacher's scores, if there is a teacher.
        """
        size, n = len(owners), self.n
        # Each row of a query and each epoch has its own draw.
        keys = self.keys[owners] ^ (positives.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        seed = self.seed + 1_000_003 * epoch
        offsets = offsets_of(generation.negatives.lengths[owners]) if size else np.zeros(1, dtype=np.int64)
        positions = first_positions(generation.negatives.offsets[owners], np.diff(offsets))
        if self.quota:
            assert generation.negative_sources is not None
            wanted = self.quota[min(epoch, len(self.quota) - 1)]
            bits = generation.negative_sources[positions]
            keep = draw_by_source(offsets, bits, [wanted.get(name, 0) for name in self.sources], keys, seed)
        else:
            keep = draw(offsets, n, keys, seed)
        rows = np.repeat(np.arange(size), np.diff(offsets))[keep]
        found = np.bincount(rows, minlength=size)
        columns = positions_within(offsets_of(found))
        passages = np.empty((size, 1 + n), dtype=np.int64)
        is_padding = np.zeros((size, 1 + n), dtype=bool)
        passages[:, 0] = positives
        is_padding[:, 1:] = np.arange(n) >= found[:, None]
        passages[rows, 1 + columns] = generation.negatives.values[positions[keep]]
        short = np.flatnonzero(found < n)
        if len(short):
            fillers = self._fillers(generation, owners[short], keys[short], seed)
            passages[short] = np.where(is_padding[short], fillers, passages[short])
        if self.teacher is None:
            return passages, is_padding, None
        assert generation.positive_scores is not None
        assert generation.negative_scores is not None
        scores = np.zeros(passages.shape, dtype=np.float32)
        scores[rows, 1 + columns] = generation.negative_scores[positions[keep]]
        known = take_lists(generation.positives, owners)
        own = np.flatnonzero(known.values == positives[known.owners])
        first = own[np.unique(known.owners[own], return_index=True)[1]]
        scores[:, 0] = take_lists(Ragged(generation.positives.offsets, generation.positive_scores), owners).values[
            first
        ]
        return passages, is_padding, scores

    def _fillers(
        self, generation: Generation, owners: NDArray[np.int64], keys: NDArray[np.uint64], seed: int
    ) -> NDArray[np.int64]:
        """Return random passages to fill up short rows, without known positives. Shape (S, 1 + n)."""
        codes, positives = self.corpus.copy_codes, self.known_codes(generation, owners)
        # An upper bound of the number of passages that are copies of a positive.
        copies = np.bincount(positives.owners, self._copies[positives.values], len(owners))
        drawn = np.empty((len(owners), 1 + self.n + int(copies.max(initial=0))), dtype=np.int64)
        permuted_rows(keys, seed, len(self.corpus), drawn)
        size = len(codes)
        rows = np.arange(len(owners))[:, None]
        known = np.isin(rows * size + codes[drawn], positives.owners * size + positives.values)
        # In a corpus with too few passages, the first passage fills the gaps: the loss ignores padding.
        known |= drawn < 0
        order = np.argsort(known, axis=1, kind="stable")[:, : 1 + self.n]
        # Column 0 belongs to the positive and is never filled. If at most n passages can be used, shift them to the
        # columns of the negatives.
        scarce = (~known).sum(axis=1) <= self.n
        order[scarce] = np.roll(order[scarce], 1, axis=1)
        return np.maximum(np.take_along_axis(drawn, order, axis=1), 0)

    @cached_property
    def _copies(self) -> NDArray[np.int64]:
        """The number of passages with each copy code. Shape (N,)."""
        codes = self.corpus.copy_codes
        return np.bincount(codes, minlength=len(codes))
