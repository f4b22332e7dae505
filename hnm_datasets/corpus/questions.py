"""Finding rows with the same question."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.corpus.text import is_blank, normalized_digests
from hnm_datasets.storage.digests import distinct_digests


def question_codes(queries: Iterable[pa.Array]) -> NDArray[np.int64]:
    """Return the first row with the same query, ignoring Unicode form, case and whitespace.

    Each blank query is a question of its own.

    Args:
        queries: B texts, in chunks.

    Returns:
        Shape (B,).

    Example:
        >>> question_codes([pa.array(["What is a plate?", "why?"]), pa.array(["what is  a plate?"])]).tolist()
        [0, 1, 0]
    """
    parts = [(normalized_digests(part), is_blank(part).to_numpy(zero_copy_only=False)) for part in queries]
    if not parts:
        return np.empty(0, dtype=np.int64)
    digests, blank = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    first, numbers = distinct_digests(digests)
    return np.where(blank, np.arange(len(digests)), first[numbers])


def rows_without_all_positives(
    questions: NDArray[np.int64], owners: NDArray[np.int64], passages: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which rows lack a known positive that another row with the same question has.

    Args:
        questions: The first row with the same question. Shape (B,).
        owners: The row of each known positive. Shape (P,).
        passages: The number of each known positive's passage, from 0. Shape (P,).

    Returns:
        Shape (B,).

    Example:
        >>> owners, passages = np.array([0, 1, 1, 2]), np.array([5, 5, 7, 8])
        >>> rows_without_all_positives(np.array([0, 0, 2]), owners, passages).tolist()
        [True, False, False]
    """
    size = int(passages.max(initial=0)) + 1

    def counts(groups: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(pd.unique(groups * size + passages) // size, minlength=len(questions))

    return counts(questions[owners])[questions] > counts(owners)
