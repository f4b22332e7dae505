"""The base of all scorers: score positives and candidates together, in bounded memory."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.arrays.ragged import Ragged, interleave_lists, runs_within, slice_lists
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS, QUERY, score_column
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.transforms.base import Transform

#: Bytes of text that are scored at once.
_TEXT_BYTES = 1 << 28


@dataclass(frozen=True)
class Scorer(Transform):
    """A step that scores each row's positives and candidates. Subclasses implement `_scores_of`."""

    input_columns: ClassVar[tuple[str, ...]] = (QUERY, POSITIVE_IDS, NEGATIVE_IDS)

    corpus: Corpus
    model: Any
    name: str

    @property
    def output_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step writes."""
        return (score_column(self.name, of="positive"), score_column(self.name))

    def __post_init__(self) -> None:
        step = type(self).__name__
        check_corpus(step, self.corpus)
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z]\w*", self.name) or self.name == "score":
            raise ValueError(
                f"{step}: name becomes part of two column names and must be a word such as 'teacher', got "
                f"{self.name!r}. ('score' is reserved for the retriever's scores.)"
            )

    @abstractmethod
    def _scores_of(self, queries: list[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the scores of the given passages of each query. Shape (C,), aligned with `rows`."""

    def _apply(self, batch: Batch) -> Mapping[str, pa.Array]:
        queries = batch.queries().to_pylist()
        positives, negatives = (batch.rows_in(name, self.corpus) for name in (POSITIVE_IDS, NEGATIVE_IDS))
        together, order = _joined(positives, negatives)
        scores = np.empty(len(order), dtype=np.float32)
        scores[order] = self._scores_in_parts(queries, together)
        split = len(positives.values)
        return {
            name: list_array(lists.offsets, pa.array(own))
            for name, lists, own in zip(
                self.output_columns, (positives, negatives), (scores[:split], scores[split:]), strict=True
            )
        }

    def _pairs_of(self, batch: Batch) -> tuple[list[str], Ragged[NDArray[np.int64]]]:
        """Return the queries, and for each query the corpus rows of its positives and candidates."""
        positives, negatives = (batch.rows_in(name, self.corpus) for name in (POSITIVE_IDS, NEGATIVE_IDS))
        return batch.queries().to_pylist(), _joined(positives, negatives)[0]

    def _scores_in_parts(self, queries: list[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Score in parts with texts that fit into memory, usually in a single part."""
        sizes = np.bincount(rows.owners, weights=self.corpus.text_sizes(rows.values), minlength=len(rows))
        parts = runs_within(sizes.astype(np.int64), _TEXT_BYTES)
        found = [self._scores_of(queries[part], slice_lists(rows, part)) for part in parts]
        return np.concatenate([*found, np.empty(0, dtype=np.float32)])


def _joined(
    positives: Ragged[NDArray[np.int64]], negatives: Ragged[NDArray[np.int64]]
) -> tuple[Ragged[NDArray[np.int64]], NDArray[np.int64]]:
    """Join the positives and candidates of each query in one list, so that they are scored in the same batches.

    Returns:
        The lists, and the position of each of their values in the concatenation of all positives and all candidates.
    """
    offsets, order = interleave_lists(positives, negatives)
    return Ragged(offsets, np.concatenate([positives.values, negatives.values])[order]), order
