"""Scores by a model that reads query and passage together."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.models.rerankers import Reranker
from hnm_datasets.transforms.scorers.base import Scorer


@dataclass(frozen=True)
class CrossEncoderScores(Scorer):
    """Score the candidates of any source, and the positives, with a teacher that reads query and passage together.

    Each distinct pair of a batch of rows is scored once, longest first over all rows, in full batches. Scores are kept
    on disk by pair, so another k or filter scores nothing again, and an interrupted run resumes.

    Args:
        corpus: The passages.
        model: A `CrossEncoder`, its path or Hub id, or a function from a list of (query, passage) pairs to as many
            scores, see `fingerprint`.
        name: Goes into the names of the columns.
        batch_size: Pairs per forward pass.
        activation: `"model"`: scores as the model gives them, which is a sigmoid for most rerankers and the raw logit
            for some; `"sigmoid"`: from 0 to 1; `"none"`: the raw logit. For a function only `"model"`.
        dtype: Compute in `"bfloat16"` or `"float16"`; None: as the weights are.
        fingerprint: For a function: a name that changes whenever its scores do.

    Columns read:
        `query`, `positive_ids`, `negative_ids`.

    Columns written:
        `positive_<name>_scores` and `negative_<name>_scores`, aligned with the ids.

    Raises:
        KeyError: An id is not in the corpus.
        TypeError: `corpus` or `model` is something else.
        ValueError: `name` is no word, the model has several outputs per pair, or a score is NaN.

    Example:
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=3), batched=True)
        >>> def count_shared_words(pairs):
        ...     return [len(set(query.split()) & set(passage.split())) for query, passage in pairs]
        >>> scored = mined.map(CrossEncoderScores(corpus, count_shared_words, fingerprint="shared-1"), batched=True)
        >>> [len(scored[0][name]) for name in ("positive_teacher_scores", "negative_teacher_scores")]
        [1, 3]
    """

    name: str = "teacher"
    _: KW_ONLY
    batch_size: int = 32
    activation: str = "model"
    dtype: str | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(batch_size=checks.whole_number("CrossEncoderScores", "batch_size", self.batch_size, low=1))
        # From here on the reranker stands for the model: it pickles to its fingerprint.
        self._set(
            model=Reranker(
                self.model,
                batch_size=self.batch_size,
                activation=self.activation,
                dtype=self.dtype,
                fingerprint=self.fingerprint,
            )
        )

    def _scores_of(self, queries: list[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        used, places = np.unique(rows.values, return_inverse=True)
        reranker: Reranker = self.model
        return reranker.scores(queries, self.corpus.texts(used), Ragged(rows.offsets, places))
