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
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.training.generations import Generation, write_generation
from hnm_datasets.training.labels import PADDING, pack
from hnm_datasets.training.live_table import POSITIVE_ROW, QUERY_ROW, text_names
from hnm_datasets.training.progress import Progress
from hnm_datasets.training.questions import Questions
from hnm_datasets.training.quota import draw, draw_by_source
from hnm_datasets.transforms.known import sorted_lists

_NAME = "live_negatives"
#: Raise it when other candidates are kept of the same rows.
_VERSION = 2
#: How many rows of the training are still to come from the generation before.
_HELD = {"rows": 0}


@dataclass(eq=False)
class LiveTexts:
    """The transform of a `LiveNegatives`: from row numbers to texts and labels.

    Attributes:
        corpus: The passages.
        n: Negatives per row.
        teacher: Whose scores the label carries, if anyone's.
        most: How many positives a label has room for.
        seed: For the draw.
        keys: 64 bits that identify each query. Shape (Q,).
        rows: The queries, for mining.
        questions: What rows know of each other; None where each asks another question.
        quota: How many negatives of each source a row has, in each epoch; the last holds for all after it.
        progress: The epoch and the generation.
        root: Where the generations after the first are.
    """

    corpus: Corpus
    n: int
    teacher: str | None
    most: int
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
        # Copies of a dataset share the epoch and generation of their training.
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_copies"} | {
            "_opened": None,
            "_pooled": None,
        }

    @property
    def name(self) -> str:
        """What names the queries, corpus and options: 32 hexadecimal digits."""
        options: list[Any] = [self.n, self.seed, self.most]
        # Generations of rows without a quota keep their name.
        options += [[list(one.items()) for one in self.quota]] if self.quota else []
        return fingerprint({"kind": "draw", "of": self.rows_name, "options": options})

    @property
    def sources(self) -> list[str]:
        """The sources that a quota names in any epoch."""
        return list(dict.fromkeys(name for one in self.quota for name in one))

    @property
    def rows_name(self) -> str:
        """What names the queries and the corpus: 32 hexadecimal digits."""
        options = {"corpus": self.corpus.fingerprint, "rows": self.rows._fingerprint, "teacher": self.teacher}
        options |= {"version": _VERSION} | ({"sources": self.sources} if self.quota else {})
        return fingerprint({"kind": "live", "options": options})

    def write(self, number: int, tables: Any, folder: Path) -> None:
        """Write a generation of these queries into a folder of generations, without known positives."""
        path = write_generation(folder, number, tables, self.corpus, self.teacher, _NAME, self._known_of, self.sources)
        longest = int(self._known_lists(Generation.open(path)).lengths.max(initial=0))
        if longest > self.most:
            raise ValueError(
                f"{_NAME}: a question has {longest} positives now, and the labels have room for {self.most}. Give room "
                f"for those that are promoted: live_negatives(..., max_positives={2 * longest})."
            )
        if number == 0:
            self._first = path
        else:
            self.root = folder

    def _known_of(self, positives: Ragged[NDArray[np.int64]]) -> tuple[Ragged[NDArray[np.int64]], NDArray[np.int64]]:
        """Return the copy codes that are known of each question, ascending, and the question of each row."""
        codes = self.corpus.copy_codes
        if self.questions is None:
            return sorted_lists(Ragged(positives.offsets, codes[positives.values])), np.arange(len(positives))
        return self.questions.pooled(positives, codes), self.questions.codes

    def folder_of(self, number: int) -> Path:
        """Return where a generation is."""
        if number == 0:
            assert self._first is not None
            return self._first
        if self.root is None:
            raise RuntimeError(f"{_NAME}: there is no generation {number}.")
        return self.root / f"{number:06d}"

    def generation(self) -> Generation:
        """Open the generation in use."""
        number = self.progress.generation if not self._holds() else self._held
        assert number is not None
        if self._opened is None or self._opened[0] != number:
            self._opened = (number, Generation.open(self.folder_of(number)))
        return self._opened[1]

    def hold(self, number: int | None, rows: int) -> None:
        """Take the next rows of the training, of this and all other sets together, from another generation."""
        self._held = number
        _HELD["rows"] = rows

    def forget(self) -> None:
        """Forget what a training that was interrupted held and opened: its generations may be written again."""
        self._held = self._opened = self._pooled = None

    def _holds(self) -> bool:
        worker = get_worker_info()
        # The first batch is the first worker's.
        return self._held is not None and _HELD["rows"] > 0 and (worker is None or worker.id == 0)

    def ids_of(self, lists: Ragged[NDArray[np.int64]], rows: NDArray[np.int64]) -> pa.ListArray:
        """Return some of a generation's lists as ids."""
        taken = take_lists(lists, rows)
        return list_array(taken.offsets, self.corpus.ids(taken.values))

    def table_of(self, generation: Generation, rows: NDArray[np.int64]) -> pa.Table:
        """Return some queries' lists of a generation as columns."""
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
        """Name the sources of candidates, of those that the quota names, joined by `+`."""
        used, places = np.unique(bits, return_inverse=True)
        named = ["+".join(name for place, name in enumerate(self.sources) if one >> place & 1) for one in used.tolist()]
        return pa.array(named, pa.string()).take(pa.array(places))

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
            generation: What to draw the negatives from.
            owners: The queries of the rows. Shape (M,).
            positives: The rows of their positives in the corpus. Shape (M,).
            epoch: The number of the epoch.
        """
        passages, is_padding, scores = self._choose(generation, owners, positives, epoch)
        texts, size = self.corpus.texts(passages.T.reshape(-1)), len(owners)
        anchor, *others = text_names(self.n)
        columns = {anchor: self._queries[owners.tolist()][QUERY].combine_chunks()}
        columns |= {name: texts.slice(column * size, size) for column, name in enumerate(others)}
        keys = np.where(is_padding, PADDING, self.corpus.copy_codes[passages])
        return columns, pack(keys, self.known_codes(generation, owners), self.most, scores)

    def known_codes(self, generation: Generation, owners: NDArray[np.int64]) -> Ragged[NDArray[np.int64]]:
        """Return the copy codes of all known positives of some rows' questions. Shape (B,) → B lists."""
        if self.questions is None:
            positives = take_lists(generation.positives, owners)
            return Ragged(positives.offsets, self.corpus.copy_codes[positives.values])
        return take_lists(self._known_lists(generation), self.questions.codes[owners])

    def _known_lists(self, generation: Generation) -> Ragged[NDArray[np.int64]]:
        """Return what is known of each row, or of each question at the place of its first row."""
        if self.questions is None:
            return generation.positives
        if self._pooled is None or self._pooled[0] is not generation:
            self._pooled = (generation, self.questions.pooled(generation.positives, self.corpus.copy_codes))
        return self._pooled[1]

    def _choose(
        self, generation: Generation, owners: NDArray[np.int64], positives: NDArray[np.int64], epoch: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float32] | None]:
        """Draw each row's negatives.

        Returns:
            The corpus rows of each row's passages, the positive first, shape (M, 1 + n); which are padding; and their
            scores by the teacher, if wanted.
        """
        size, n = len(owners), self.n
        # Each row of a query has its own draw, and so has each epoch.
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
        """Return random passages that are no positives, for what is missing. Shape (S, 1 + n)."""
        codes, positives = self.corpus.copy_codes, self.known_codes(generation, owners)
        # So many passages at most are copies of a positive.
        copies = np.bincount(positives.owners, self._copies[positives.values], len(owners))
        drawn = np.empty((len(owners), 1 + self.n + int(copies.max(initial=0))), dtype=np.int64)
        permuted_rows(keys, seed, len(self.corpus), drawn)
        size = len(codes)
        rows = np.arange(len(owners))[:, None]
        known = np.isin(rows * size + codes[drawn], positives.owners * size + positives.values)
        # A corpus with too few passages fills up with the first: padding is left out by the loss.
        known |= drawn < 0
        order = np.argsort(known, axis=1, kind="stable")[:, : 1 + self.n]
        # The place of the positive is never filled, so where few passages are unknown, they go to the others.
        few = (~known).sum(axis=1) <= self.n
        order[few] = np.roll(order[few], 1, axis=1)
        return np.maximum(np.take_along_axis(drawn, order, axis=1), 0)

    @cached_property
    def _copies(self) -> NDArray[np.int64]:
        """How many passages have each copy code. Shape (N,)."""
        codes = self.corpus.copy_codes
        return np.bincount(codes, minlength=len(codes))
