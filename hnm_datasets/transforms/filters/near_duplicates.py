"""A filter for near duplicates of positives and of other candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.corpus.shingles import open_shingles
from hnm_datasets.transforms.base import CandidateFilter
from hnm_datasets.transforms.filters.kernels import drop_near_duplicates
from hnm_datasets.transforms.filters.reasons import compared
from hnm_datasets.transforms.similarity import in_parts


@dataclass(frozen=True)
class DropNearDuplicates(CandidateFilter):
    """Drop each candidate that is a near duplicate of a positive, or of a harder candidate that is kept.

    A passage that repeats a positive with one word changed is a false negative. A passage that repeats another negative
    adds no information. Two texts are compared by the Jaccard similarity of their word trigrams: the number of trigrams
    that both contain, divided by the number that either contains. Case, Unicode form, punctuation and white space are
    ignored. In scripts without spaces, pairs of neighboring characters serve as words (see `BM25Index`). Each passage
    is compared both with and without its title. No model is needed. The trigrams of the whole corpus are hashed once,
    on first use, and cached.

    Args:
        corpus: The passages.
        threshold: The lowest similarity of near duplicates, at most 1 (identical trigrams). Changing one word of a
            50-word text gives 0.88, changing three scattered words 0.67.

    Columns read:
        `negative_ids`, `positive_ids`; `known_positive_ids`, if present.

    Columns written:
        All aligned `negative_*` columns.

    Raises:
        KeyError: An id is not in the corpus.
        ValueError: The threshold is not above 0 and at most 1.

    Example:
        >>> from datasets import Dataset
        >>> texts = ["the plate moves to the north", "The plate moves to the  north.", "waves roll to the shore"]
        >>> corpus = Corpus.from_dataset(Dataset.from_dict({"id": ["a", "b", "c"], "text": texts}))
        >>> DropNearDuplicates(corpus, 0.5)({"positive_ids": [["a"]], "negative_ids": [["b", "c"]]})
        {'negative_ids': [['c']]}
    """

    version: ClassVar[int] = 3
    input_columns: ClassVar[tuple[str, ...]] = (NEGATIVE_IDS, POSITIVE_IDS)

    corpus: Corpus
    threshold: float = 0.8

    def __post_init__(self) -> None:
        name = "DropNearDuplicates"
        check_corpus(name, self.corpus)
        self._set(threshold=checks.real_number(name, "threshold", self.threshold, above=0))
        if self.threshold > 1:
            raise ValueError(
                f"{name}: threshold is the share of common word trigrams, at most 1, got {self.threshold:g}."
            )

    def prepare(self) -> None:
        """Hash the word trigrams of the corpus, unless they are cached."""
        open_shingles(self.corpus)

    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        positives, negatives = batch.known_positives_in(self.corpus), batch.rows_in(NEGATIVE_IDS, self.corpus)
        # Open the shingles here: new threads do not inherit this thread's cache folder.
        shingles, passages = open_shingles(self.corpus), len(self.corpus)
        keep = np.empty(len(negatives.values), dtype=bool)

        def compare(rows: slice) -> None:
            ends = slice(rows.start, rows.stop + 1)
            drop_near_duplicates(
                shingles.offsets,
                shingles.values,
                passages,
                positives.offsets[ends],
                positives.values,
                negatives.offsets[ends],
                negatives.values,
                self.threshold,
                keep,
            )

        in_parts(compare, len(negatives))
        return keep

    def _why_dropped(self, batch: Batch, candidates: Ragged[pa.Array], dropped: NDArray[np.int64]) -> list[str]:
        positives, negatives = batch.known_positives_in(self.corpus), batch.rows_in(NEGATIVE_IDS, self.corpus)
        gone = set(dropped.tolist())
        reasons = []
        for at in dropped.tolist():
            owner = int(candidates.owners[at])
            own = positives.values[positives.offsets[owner] : positives.offsets[owner + 1]].tolist()
            harder = [position for position in range(int(negatives.offsets[owner]), at) if position not in gone]
            others = [*own, *(int(negatives.values[position]) for position in harder)]
            nearest, row = max((self._similarity(int(negatives.values[at]), other), -other) for other in others)
            name = self.corpus.ids(np.array([-row]))[0].as_py()
            reasons.append(f"{compared(nearest, '>=', 'threshold', self.threshold)}, as {name!r}")
        return reasons

    def _similarity(self, first: int, second: int) -> float:
        """Return the highest similarity between the forms of two passages."""
        shingles, size = open_shingles(self.corpus), len(self.corpus)
        forms = range(0, len(shingles.offsets) - 1, size)
        sets = [
            [shingles.values[shingles.offsets[row + form] : shingles.offsets[row + form + 1]] for form in forms]
            for row in (first, second)
        ]
        shared = [(len(np.intersect1d(a, b)), len(a) + len(b)) for a in sets[0] for b in sets[1]]
        return max(common / max(both - common, 1) for common, both in shared)

    def _limits_met(self, batch: Batch, candidates: Ragged[pa.Array], emptied: NDArray[np.bool_]) -> str:
        return (
            f"each of their candidates has a trigram similarity of at least threshold={self.threshold:g} to a positive "
            f"or to a harder candidate. Raise the threshold, at most to 1, or mine more candidates with a larger k=."
        )
