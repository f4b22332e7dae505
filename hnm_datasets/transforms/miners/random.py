"""Random negatives."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.draws import permuted_rows
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.indexes.base import Hits
from hnm_datasets.transforms.miners.base import Miner


@dataclass(frozen=True)
class RandomNegatives(Miner):
    """Sample random passages, without known positives: the baseline that mining has to beat.

    The sample depends only on the seed and the row's `query_id` (or its `query`), not on the position of the row.

    Args:
        corpus: The passages.
        k: Passages per query.
        exclude_group: Also exclude all passages from the source documents of the positives. Requires a corpus with
            groups.
        seed: The random seed.

    Columns read:
        `query`, `positive_ids`; `query_id` as the row's key, if present.

    Columns written:
        The same as `BM25Negatives`, with `negative_source` `"random"`, scores of 0, and ranks in the random order.

    Raises:
        TypeError: `corpus` or another option is of the wrong type.
        ValueError: `k` is less than 1, or `exclude_group` is set without groups.

    Example:
        >>> from hnm_datasets import load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(RandomNegatives(corpus, k=2, seed=7), batched=True)
        >>> len(mined[0]["negative_ids"]), mined[0]["negative_source"]
        (2, ['random', 'random'])
    """

    source: ClassVar[str] = "random"

    _: KW_ONLY
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(seed=checks.whole_number("RandomNegatives", "seed", self.seed, low=0))

    def _encode(self, queries: list[str], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return keys

    def _search(self, encoded: NDArray[np.uint64], which: NDArray[np.int64], depth: int) -> Hits:
        rows = np.empty((len(which), depth), dtype=np.int64)
        permuted_rows(encoded[which], self.seed, len(self.corpus), rows)
        return Hits(rows, np.where(rows < 0, -np.inf, 0).astype(np.float32))

    def _score(self, encoded: NDArray[np.uint64], rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        return np.zeros(len(rows.values), dtype=np.float32)
