"""What every scorer does: score positives and candidates together, in bounded memory."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, list_array, offsets_of, part_of, turns
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS, QUERY, score_column
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.transforms.base import Transform

#: Bytes of texts that are scored at once.
_TEXT_BYTES = 1 << 28


@dataclass(frozen=True)
class Scorer(Transform):
    """A step that scores each row's positives and candidates. Subclasses fill in `_pair_scores`."""

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
                f"{step}: name goes into the names of two columns and must be a word such as 'teacher', got "
                f"{self.name!r}. ('score' stands for the retriever's own scores.)"
            )

    @abstractmethod
    def _scores_of_turn(self, queries: list[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the score of certain passages of each query. Shape (C,), aligned with `rows`."""

    def _pair_scores(self, queries: list[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Score in turns whose texts are not too much for the memory, usually a single one."""
        sizes = np.bincount(rows.owners, weights=self.corpus.text_sizes(rows.values), minlength=len(rows))
        parts = turns(sizes.astype(np.int64), _TEXT_BYTES)
        found = [self._scores_of_turn(queries[part], part_of(rows, part)) for part in parts]
        return np.concatenate([*found, np.empty(0, dtype=np.float32)])

    def _apply(self, batch: Batch) -> Mapping[str, pa.Array]:
        queries = batch.strings(QUERY).to_pylist()
        lists = [
            self.corpus.rows_of_lists(name, batch.string_lists(name), batch.step, batch.describe)
            for name in (POSITIVE_IDS, NEGATIVE_IDS)
        ]
        # One list per query, so that its positives and candidates are scored in the same batches.
        owners = np.concatenate([one.owners for one in lists])
        order = np.argsort(owners, kind="stable")
        offsets = offsets_of(lists[0].lengths + lists[1].lengths)
        together = Ragged(offsets, np.concatenate([one.values for one in lists])[order])
        scores = np.empty(len(order), dtype=np.float32)
        scores[order] = self._pair_scores(queries, together)
        split = len(lists[0].values)
        return {
            name: list_array(one.offsets, pa.array(part))
            for name, one, part in zip(self.output_columns, lists, (scores[:split], scores[split:]), strict=True)
        }
