"""A filter by the similarity of candidates to the positives."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
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
from hnm_datasets.models.embeddings import Embeddings
from hnm_datasets.transforms.base import CandidateFilter
from hnm_datasets.transforms.filters.limits import span, within
from hnm_datasets.transforms.filters.reasons import outside
from hnm_datasets.transforms.kernels import nearest_positive
from hnm_datasets.transforms.similarity import check_embeddings, compared_by, in_parts


@dataclass(frozen=True)
class PositiveSimilarity(CandidateFilter):
    """Keep the candidates with a similarity to the positive in a band.

    A candidate that is very similar to a positive is probably relevant too. A similar candidate that is not relevant is
    a hard negative, even if the retriever scores it low: negatives near both the query and the positive are the most
    informative (TriSampler, Yang et al. 2024, https://arxiv.org/abs/2402.11855). With several positives, the most
    similar positive counts. A row without positives keeps all its candidates.

    Args:
        corpus: The passages.
        min: The lowest similarity to keep; None for no lower limit.
        max: The highest similarity to keep; None for no upper limit.
        embeddings: Compare by the cosine of these vectors, from -1 to 1: `corpus.embed(model)`. None compares by the
            word trigrams that two texts share, from 0 to 1 (see `DropNearDuplicates`).

    Columns read:
        `negative_ids`, `positive_ids`; `known_positive_ids`, if present.

    Columns written:
        All aligned `negative_*` columns.

    Raises:
        KeyError: An id is not in the corpus.
        ValueError: Neither limit is given, `max` is less than `min`, or the embeddings belong to another corpus.

    Example:
        >>> from datasets import Dataset
        >>> texts = ["the plate moves to the north", "the plate moves to the south", "waves roll to the shore"]
        >>> corpus = Corpus.from_dataset(Dataset.from_dict({"id": ["a", "b", "c"], "text": texts}))
        >>> batch = {"positive_ids": [["a"]], "negative_ids": [["b", "c"]]}
        >>> PositiveSimilarity(corpus, min=0.3)(batch), PositiveSimilarity(corpus, max=0.3)(batch)
        ({'negative_ids': [['b']]}, {'negative_ids': [['c']]})
    """

    input_columns: ClassVar[tuple[str, ...]] = (NEGATIVE_IDS, POSITIVE_IDS)

    corpus: Corpus
    min: float | None = None
    max: float | None = None
    _: KW_ONLY
    embeddings: Embeddings | None = None

    def __post_init__(self) -> None:
        name = "PositiveSimilarity"
        check_corpus(name, self.corpus)
        if self.min is None and self.max is None:
            raise ValueError(f"{name}: pass min, max or both; without a limit, all candidates would be kept.")
        if self.min is not None:
            self._set(min=checks.real_number(name, "min", self.min))
        if self.max is not None:
            self._set(max=checks.real_number(name, "max", self.max))
        if self.min is not None and self.max is not None and self.max < self.min:
            raise ValueError(f"{name}: the band from {self.min:g} to {self.max:g} is empty; max must be at least min.")
        if self.embeddings is not None:
            check_embeddings(name, self.corpus, self.embeddings)

    def prepare(self) -> None:
        """Hash the word trigrams of the corpus, unless they are cached or vectors are compared."""
        if self.embeddings is None:
            open_shingles(self.corpus)

    def _similarities(self, batch: Batch) -> NDArray[np.float32]:
        """Return the similarity of each candidate to the most similar positive, NaN without positives. Shape (C,)."""
        positives, negatives = batch.known_positives_in(self.corpus), batch.rows_in(NEGATIVE_IDS, self.corpus)
        both = np.concatenate([positives.values, negatives.values])
        numbers, compared = compared_by(self.corpus, self.embeddings, both)
        own, others = np.split(numbers, [len(positives.values)])
        found = np.empty(len(others), dtype=np.float32)

        def compare(rows: slice) -> None:
            ends = slice(rows.start, rows.stop + 1)
            nearest_positive(positives.offsets[ends], own, negatives.offsets[ends], others, *compared, found)

        in_parts(compare, len(negatives))
        return found

    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        similarities = self._similarities(batch)
        return within(similarities, self.min, self.max) | np.isnan(similarities)

    def _why_dropped(self, batch: Batch, candidates: Ragged[pa.Array], dropped: NDArray[np.int64]) -> list[str]:
        return outside(self._similarities(batch)[dropped], self.min, self.max)

    def _limits_met(self, batch: Batch, candidates: Ragged[pa.Array], emptied: NDArray[np.bool_]) -> str:
        ends = [f"{word} {end:g}" for word, end in (("from", self.min), ("to", self.max)) if end is not None]
        return (
            f"the similarities of their candidates to a positive range "
            f"{span(self._similarities(batch)[emptied[candidates.owners]])}, but the band is {' '.join(ends)}. Set the "
            f"band to fit the similarities of your rows, or mine more candidates with a larger k=."
        )
