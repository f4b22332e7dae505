"""The passages of a batch, looked up once: the negatives that a shape uses, and their rows in the corpus."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, first_positions, interleave_lists, kept_offsets, offsets_of
from hnm_datasets.batch import Batch
from hnm_datasets.columns import KNOWN_POSITIVE_IDS
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.runtime.notices import tell_of_batch
from hnm_datasets.transforms.known import are_known, sorted_lists

logger = logging.getLogger(__name__)

#: In place of a row number: the corpus has no such passage, or it has not been looked up yet.
_UNKNOWN, _UNSEEN = -1, -2


class ShapedPassages:
    """The positives and candidates of a batch, identified by their flat positions in the id columns.

    Only passages that are used must be in the corpus.

    Args:
        batch: B rows.
        corpus: The passages.
        positives: The ids of the positives.
        negatives: The ids of the candidates.
    """

    def __init__(self, batch: Batch, corpus: Corpus, positives: Ragged[pa.Array], negatives: Ragged[pa.Array]) -> None:
        self._batch, self._corpus = batch, corpus
        self._ids = {"positive": positives, "negative": negatives}
        self._rows = {part: np.full(len(ids.values), _UNSEEN) for part, ids in self._ids.items()}

    def rows(self, part: str, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row numbers of passages in the corpus. Shape (P,).

        Args:
            part: `"positive"` or `"negative"`.
            positions: The flat positions of the passages. Shape (P,).

        Raises:
            KeyError: The corpus has no such passage.
        """
        rows = self._look_up(part, positions)
        if (rows < 0).any():
            self._batch.rows_in(f"{part}_ids", self._corpus, np.unique(positions))
        return rows

    def first_negatives(self, n: int | None, *, drop_known: bool) -> Ragged[NDArray[np.int64]]:
        """Return the flat positions of each row's first candidates.

        Args:
            n: The maximum number per row; None for all.
            drop_known: Replace known positives of the row's question and copies of them with the next candidates.
        """
        lists = self._ids["negative"]
        starts, lengths = lists.offsets[:-1], lists.lengths
        counts = lengths if n is None else np.minimum(lengths, n)
        positions = first_positions(starts, counts)
        if not drop_known:
            return Ragged(offsets_of(counts), positions)
        known_codes = self._known_codes()
        known = self._are_known(known_codes, positions, counts)
        if not known.any():
            return Ragged(offsets_of(counts), positions)
        # In rows that lose candidates, the next candidates replace them.
        fewer = np.unique(np.repeat(np.arange(len(counts)), counts)[known])
        counts = counts.copy()
        counts[fewer] = lengths[fewer]
        positions = first_positions(starts, counts)
        known = self._are_known(known_codes, positions, counts)
        tell_of_batch(
            logger,
            f"{self._batch.step}: known positives",
            "%s: removed %d candidates in %d of the %d rows of this batch, because they are known positives of their "
            "question or copies of them. Map DropKnownPositives(corpus) before filters and samplers, so that other "
            "candidates replace them.",
            self._batch.step,
            int(known.sum()),
            len(fewer),
            len(counts),
        )
        kept = Ragged(kept_offsets(offsets_of(counts), ~known), positions[~known])
        if n is None:
            return kept
        counts = np.minimum(kept.lengths, n)
        return Ragged(offsets_of(counts), kept.values[first_positions(kept.offsets[:-1], counts)])

    def _look_up(self, part: str, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return row numbers, `_UNKNOWN` for passages that are not in the corpus. Shape (P,)."""
        seen, ids = self._rows[part], self._ids[part].values
        rows = seen[positions]
        missing = positions[rows == _UNSEEN]
        if len(missing):
            seen[missing] = self._corpus.find(ids.take(pa.array(missing)))
            rows = seen[positions]
        return rows

    def _codes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return copy codes, `_UNKNOWN` for unknown passages. Shape (P,)."""
        return np.where(rows < 0, _UNKNOWN, self._corpus.copy_codes[np.maximum(rows, 0)])

    def _known_codes(self) -> Ragged[NDArray[np.int64]]:
        """Return the copy codes of all known positives of each row's question, ascending."""
        own = self._ids["positive"]
        self._rows["positive"] = self._corpus.find(own.values)
        codes = self._codes(self._rows["positive"])
        if not self._batch.has(KNOWN_POSITIVE_IDS):
            return sorted_lists(Ragged(own.offsets, codes))
        others = self._batch.id_lists(KNOWN_POSITIVE_IDS)
        offsets, order = interleave_lists(own, others)
        both = np.concatenate([codes, self._codes(self._corpus.find(others.values))])
        return sorted_lists(Ragged(offsets, both[order]))

    def _are_known(
        self, known_codes: Ragged[NDArray[np.int64]], positions: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        rows = self._look_up("negative", positions)
        return are_known(known_codes, np.repeat(np.arange(len(counts)), counts), self._codes(rows)) & (rows >= 0)
