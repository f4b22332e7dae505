"""A filter of candidates that are known to be relevant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.transforms.base import CandidateFilter
from hnm_datasets.transforms.known import are_known, sorted_lists


@dataclass(frozen=True)
class DropKnownPositives(CandidateFilter):
    """Drop each candidate that is a known positive of its question, or a copy of one.

    Miners never return such candidates. Candidates from elsewhere may hold them: from another tool, from a file, or
    from rows that were mined before positives were added. Shapes and `live_negatives` leave them out as well; this step
    does it ahead of filters and samplers, so that other candidates take their place.

    Copies have the same text but for Unicode form, case and white space, with their titles or without. Rows with the
    same question know each other's positives after `pool_positives`.

    Args:
        corpus: The passages.

    Columns read:
        `negative_ids`, `positive_ids`; `known_positive_ids`, if there.

    Columns written:
        All aligned `negative_*` columns.

    Raises:
        KeyError: An id is not in the corpus.
        TypeError: `corpus` is something else.

    Example:
        >>> from datasets import Dataset
        >>> texts = ["Plates move.", "plates  move.", "Waves roll."]
        >>> corpus = Corpus.from_dataset(Dataset.from_dict({"id": ["a", "b", "c"], "text": texts}))
        >>> DropKnownPositives(corpus)({"positive_ids": [["a"]], "negative_ids": [["a", "b", "c"]]})
        {'negative_ids': [['c']]}
    """

    input_columns: ClassVar[tuple[str, ...]] = (NEGATIVE_IDS, POSITIVE_IDS)

    corpus: Corpus

    def __post_init__(self) -> None:
        check_corpus("DropKnownPositives", self.corpus)

    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        known, found = batch.known_positives_in(self.corpus), batch.rows_in(NEGATIVE_IDS, self.corpus)
        codes = self.corpus.copy_codes
        known_codes = sorted_lists(Ragged(known.offsets, codes[known.values]))
        return ~are_known(known_codes, found.owners, codes[found.values])

    def _why_dropped(self, batch: Batch, candidates: Ragged[pa.Array], dropped: NDArray[np.int64]) -> list[str]:
        known, found = batch.known_positives_in(self.corpus), batch.rows_in(NEGATIVE_IDS, self.corpus)
        codes, reasons = self.corpus.copy_codes, []
        for at in dropped.tolist():
            owner, row = int(candidates.owners[at]), int(found.values[at])
            own = known.values[known.offsets[owner] : known.offsets[owner + 1]]
            copy = int(own[codes[own] == codes[row]][0])
            reasons.append(
                "a known positive" if row in own else f"a copy of {self.corpus.ids(np.array([copy]))[0].as_py()!r}"
            )
        return reasons

    def _limits_met(self, batch: Batch, candidates: Ragged[pa.Array], emptied: NDArray[np.bool_]) -> str:
        return (
            "each of their candidates is a known positive of its question or a copy of one. Mine with a step of this "
            "library, which finds others, or with a larger k=."
        )
