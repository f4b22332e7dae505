"""A filter for candidates that are known to be relevant."""

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
    """Drop each candidate that is a known positive of its question, or a copy of a known positive.

    Miners never return such candidates. Candidates from another tool, from a file, or mined before positives were added
    may contain them. Shapes and `live_negatives` skip them as well, but this step removes them before filters and
    samplers choose, so that other candidates can be chosen instead.

    Two passages are copies if their texts, with or without titles, differ only in Unicode form, case and white space.
    After `pool_positives`, rows with the same question share their positives.

    Args:
        corpus: The passages.

    Columns read:
        `negative_ids`, `positive_ids`; `known_positive_ids`, if present.

    Columns written:
        All aligned `negative_*` columns.

    Raises:
        KeyError: An id is not in the corpus.
        TypeError: `corpus` is not a `Corpus`.

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
            "all their candidates are known positives of the question or copies of one. Mine other candidates with a "
            "miner of this library, which excludes known positives, or mine more with a larger k=."
        )
