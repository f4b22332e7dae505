"""The questions of training rows: rows with the same question share their known positives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.batch import Batch
from hnm_datasets.columns import KNOWN_POSITIVE_IDS, QUERY
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.corpus.questions import question_codes


@dataclass(frozen=True)
class Questions:
    """The questions of Q rows.

    Attributes:
        codes: The first row with the same question. Shape (Q,).
        known: The row numbers of each row's `known_positive_ids`.
    """

    codes: NDArray[np.int64]
    known: Ragged[NDArray[np.int64]]

    @classmethod
    def read(cls, rows: Dataset, corpus: Corpus, step: str, size: int) -> Questions | None:
        """Read the questions, `size` rows at a time.

        Returns:
            The questions; None if all of them differ and no row has `known_positive_ids`.

        Raises:
            KeyError: A known positive is not in the corpus.
        """
        names = [name for name in (QUERY, KNOWN_POSITIVE_IDS) if name in rows.column_names]
        queries, lengths, found = [], [], []
        for table in rows.select_columns(names).with_format("arrow").iter(size):
            batch = Batch(table, step=step)
            queries.append(batch.strings(QUERY))
            if batch.has(KNOWN_POSITIVE_IDS):
                known = batch.rows_in(KNOWN_POSITIVE_IDS, corpus)
                lengths.append(known.lengths)
                found.append(known.values)
        codes = question_codes(queries)
        if not any(map(len, found)):
            return cls(codes, _no_lists(len(codes))) if len(np.unique(codes)) < len(codes) else None
        return cls(codes, Ragged(offsets_of(np.concatenate(lengths)), np.concatenate(found)))

    def pooled(self, positives: Ragged[NDArray[np.int64]], copy_codes: NDArray[np.int64]) -> Ragged[NDArray[np.int64]]:
        """Return the copy codes of all known positives of each question, at the position of its first row.

        Args:
            positives: The row numbers of each row's own positives, Q lists.
            copy_codes: The copy codes of the corpus. Shape (N,).

        Returns:
            Q lists of distinct codes, ascending; empty for rows that repeat the question of an earlier row.
        """
        size = len(copy_codes)
        pairs = np.unique(
            np.concatenate(
                [self.codes[lists.owners] * size + copy_codes[lists.values] for lists in (positives, self.known)]
            )
        )
        return Ragged(offsets_of(np.bincount(pairs // size, minlength=len(self.codes))), pairs % size)


def _no_lists(count: int) -> Ragged[NDArray[np.int64]]:
    return Ragged(np.zeros(count + 1, dtype=np.int64), np.empty(0, dtype=np.int64))
