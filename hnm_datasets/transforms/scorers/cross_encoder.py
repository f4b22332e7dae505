"""Scores from a cross-encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.batch import Batch
from hnm_datasets.models.rerankers import Reranker
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.transforms.scorers.base import Scorer

#: Rows per look-up of pairs.
_ROWS = 1000


@dataclass(frozen=True)
class CrossEncoderScores(Scorer):
    """Score the positives and the candidates of any source with a teacher that reads query and passage together.

    Each distinct pair in a batch of rows is scored once. Pairs are sorted by length, longest first, and scored in full
    batches. Scores are cached on disk by pair, so a different k or filter does not score pairs again, and an
    interrupted run resumes.

    Args:
        corpus: The passages.
        model: A `CrossEncoder`, its path or Hub id, or a function from a list of (query, passage) pairs to one score
            per pair, see `fingerprint`.
        name: Part of the names of the columns.
        batch_size: Pairs per forward pass.
        activation: `"model"` uses the model's activation function, which is a sigmoid for most rerankers and none for
            some; `"sigmoid"` gives scores from 0 to 1; `"none"` gives raw logits. A function supports only `"model"`.
        dtype: Compute in `"bfloat16"` or `"float16"`; None uses the data type of the weights.
        fingerprint: For a function: a name that changes whenever the function's scores change.

    Columns read:
        `query`, `positive_ids`, `negative_ids`.

    Columns written:
        `positive_<name>_scores` and `negative_<name>_scores`, aligned with the ids.

    Raises:
        KeyError: An id is not in the corpus.
        TypeError: `corpus` or `model` is of the wrong type.
        ValueError: `name` is not a word, the model has several outputs per pair, or a score is NaN.

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
        # The reranker replaces the model, because it pickles to its fingerprint.
        self._set(
            model=Reranker(
                self.model,
                batch_size=self.batch_size,
                activation=self.activation,
                dtype=self.dtype,
                fingerprint=self.fingerprint,
            )
        )

    def missing_pairs(self, rows: Rows) -> Iterator[tuple[str, str]]:
        """Yield the (query, passage) pairs that have no cached score: those that `map` will score with the model.

        Use it to estimate the cost of an expensive teacher in advance. Each distinct pair within 1,000 rows is yielded
        once.

        Args:
            rows: Mined rows: a `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists.

        Raises:
            KeyError: A column is missing, or an id is not in the corpus.

        Example:
            >>> from hnm_datasets import BM25Negatives, load_sample
            >>> corpus, queries = load_sample("earthquakes")
            >>> mined = queries.map(BM25Negatives(corpus, k=3), batched=True)
            >>> teacher = CrossEncoderScores(corpus, lambda pairs: [0] * len(pairs), fingerprint="none-1")
            >>> before = len(list(teacher.missing_pairs(mined)))
            >>> scored = mined.map(teacher, batched=True)
            >>> before, len(list(teacher.missing_pairs(mined)))
            (4, 0)
        """
        name = "CrossEncoderScores.missing_pairs"
        for table in dataset_of(rows, name).with_format("arrow").iter(_ROWS):
            queries, lists = self._pairs_of(Batch(table, step=name))
            used, numbers = np.unique(lists.values, return_inverse=True)
            texts = self.corpus.texts(used)
            missing = self.model.missing(queries, texts, Ragged(lists.offsets, numbers))
            passages = texts.take(pa.array(numbers[missing])).to_pylist()
            yield from zip((queries[row] for row in lists.owners[missing]), passages, strict=True)

    def _scores_of(self, queries: list[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        used, numbers = np.unique(rows.values, return_inverse=True)
        reranker: Reranker = self.model
        return reranker.scores(queries, self.corpus.texts(used), Ragged(rows.offsets, numbers))
