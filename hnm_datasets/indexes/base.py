"""What an index answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged


class Hits(NamedTuple):
    """The best passages of B queries, K places each, best first.

    Attributes:
        rows: Row numbers in the corpus, -1 where there is no further passage. Shape (B, K), int64.
        scores: Higher is better, -inf where there is no further passage. Shape (B, K), float32.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


class Index(Protocol):
    """Searches a corpus. A deeper search begins with the answer of a shallower one."""

    def search(self, queries: Sequence[str], k: int) -> Hits:
        """Return the k best passages of each query."""

    def score(self, queries: Sequence[str], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the score that `search` gives to certain passages of each query. Shape (C,), aligned with `rows`."""
