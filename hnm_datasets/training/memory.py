"""Memory: mix candidates of earlier generations into a new one (Sun et al. 2022, ANCE-Tele)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.arrays.draws import sample_mask
from hnm_datasets.arrays.ragged import Ragged, interleave_lists, kept_offsets, offsets_of
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS
from hnm_datasets.corpus.passages import Corpus

_NAME = "RefreshNegatives"


def with_earlier(
    mined: pa.Table, earlier: pa.Table, share: float, least: int, corpus: Corpus, keys: NDArray[np.uint64], seed: int
) -> pa.Table:
    """Append randomly drawn earlier candidates to new ones, without duplicates.

    The draw depends only on the keys and the seed.

    Args:
        mined: Rows with `negative_ids` and lists aligned with them.
        earlier: The same rows and lists, with earlier candidates.
        share: The share of each row's candidates to take from earlier ones, below 1; rows may have fewer.
        least: The minimum number of candidates of a row: it is filled up with earlier ones, as far as possible.
        corpus: The passages; earlier candidates that are copies of new ones are skipped.
        keys: 64 bits that identify each row. Shape (B,).
        seed: Seed for the draw.

    Example:
        >>> passages = {"id": ["a", "b", "c", "d"], "text": ["w", "x", "y", "z"]}
        >>> new, old = (pa.table({"negative_ids": [ids]}) for ids in (["a", "b"], ["b", "c", "d"]))
        >>> keys = np.zeros(1, dtype=np.uint64)
        >>> with_earlier(new, old, 0.5, 1, Corpus.from_dataset(passages), keys, 0)["negative_ids"].to_pylist()
        [['a', 'b', 'c', 'd']]
    """
    new, old = (Batch(table, step=_NAME).rows_in(NEGATIVE_IDS, corpus) for table in (mined, earlier))
    codes, size = corpus.copy_codes, len(corpus)
    is_new = np.isin(old.owners * size + codes[old.values], new.owners * size + codes[new.values])
    left = Ragged(kept_offsets(old.offsets, ~is_new), np.flatnonzero(~is_new))
    wanted = np.maximum(np.round(share / (1 - share) * new.lengths).astype(np.int64), least - new.lengths)
    drawn = np.zeros(len(left.values), dtype=bool)
    # Draw together for all rows that need the same number.
    for count in np.unique(wanted[(wanted > 0) & (left.lengths > 0)]).tolist():
        rows = np.flatnonzero((wanted == count) & (left.lengths > 0))
        own = np.isin(left.owners, rows)
        keep = np.empty(own.sum(), dtype=bool)
        offsets, strata = offsets_of(left.lengths[rows]), np.ones((1, len(keep)), dtype=bool)
        sample_mask(offsets, np.zeros(len(keep)), keys[rows], seed, strata, np.array([count]), keep)
        drawn[own] = keep
    kept = Ragged(kept_offsets(left.offsets, drawn), left.values[drawn])
    # New candidates first, then earlier ones in their old order.
    offsets, order = interleave_lists(new, kept)
    columns = {}
    for name in mined.column_names:
        if not name.startswith("negative_"):
            columns[name] = mined[name]
            continue
        ours, theirs = (Batch(table, step=_NAME).lists(name).values for table in (mined, earlier))
        joined = pa.concat_arrays([ours, theirs.take(pa.array(kept.values)).cast(ours.type)])
        columns[name] = list_array(offsets, joined.take(pa.array(order)))
    return pa.table(columns)
