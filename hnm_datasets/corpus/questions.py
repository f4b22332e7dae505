"""Which rows ask the same question."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.corpus.text import is_blank, normalized_digests
from hnm_datasets.storage.tables import KeyTable


def question_codes(queries: pa.Array) -> NDArray[np.int64]:
    """Return the first row with the same query but for Unicode form, case and white space.

    A blank query is a question of its own.

    Args:
        queries: B texts.

    Returns:
        Shape (B,).

    Example:
        >>> question_codes(pa.array(["What is a plate?", "why?", "what is  a plate?"])).tolist()
        [0, 1, 0]
    """
    digests = normalized_digests(queries)
    blank = is_blank(queries).to_numpy(zero_copy_only=False)
    return np.where(blank, np.arange(len(digests)), KeyTable.from_digests(digests).find(digests))
