"""What a pilot mines, trains on and measures with: a sample of the rows, and others that are kept from it."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS, QUERY
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.corpus.text import normalized_digests
from hnm_datasets.loaders.columns import with_ids_as_texts
from hnm_datasets.loaders.hiding import hide_positives
from hnm_datasets.loaders.pooling import pool_positives
from hnm_datasets.missing_columns import check_column
from hnm_datasets.storage.digests import digest_strings

logger = logging.getLogger(__name__)

_NAME = "pilot"
#: Fewer queries tell nothing, whatever the strategy.
FEWEST = 20


class Split(NamedTuple):
    """The rows of a pilot, none of which has a question of another part.

    Attributes:
        rows: All rows with a positive, which the sample stands for.
        sample: Those to mine and to train on.
        held_out: Those to measure with.
        hidden: Rows that keep one of several positives, to mine for false negatives; None where too few have several.
        judgments: All positives of these.
    """

    rows: Dataset
    sample: Dataset
    held_out: Dataset
    hidden: Dataset | None
    judgments: Dataset | None


def split_rows(rows: Dataset, corpus: Corpus, sample: int, held_out: int, seed: int, *, train: bool) -> Split:
    """Draw the rows of a pilot, by their questions alone, so that neither order nor process changes the draw.

    Args:
        rows: Queries with positives.
        corpus: Where the positives are.
        sample: How many rows to mine, at most; half of the rows where there are fewer than that and `held_out`.
        held_out: How many to measure with, at most.
        seed: Another seed draws others.
        train: Whether any are held out.

    Raises:
        KeyError: A column is missing, or a positive is not in the corpus.
        ValueError: Too few rows have a positive.
    """
    rows = with_ids_as_texts(rows, _NAME)
    for column in (QUERY, POSITIVE_IDS):
        check_column(_NAME, column, rows.column_names)
    if NEGATIVE_IDS in rows.column_names:
        logger.warning("%s: the rows were mined before; their columns 'negative_*' are left out and mined anew.", _NAME)
        rows = rows.remove_columns([name for name in rows.column_names if name.startswith("negative_")])
    batch = Batch(rows.with_format("arrow")[:], step=_NAME)
    positives = batch.rows_in(POSITIVE_IDS, corpus)
    answered = np.flatnonzero(positives.lengths)
    wanted = (2 if train else 1) * FEWEST
    if len(answered) < wanted:
        raise ValueError(
            f"{_NAME}: {len(answered)} of {len(rows)} rows have a positive, and it takes at least {wanted} to tell "
            f"anything: {FEWEST} to mine"
            + (f" and {FEWEST} to measure with" if train else "")
            + ". Add positives with attach_positives, or more queries."
        )
    rows = pool_positives(rows.select(answered))
    queries = batch.strings(QUERY).take(answered)
    order, starts = _shuffled(queries, seed)
    rows, lengths = rows.select(order), positives.lengths[answered][order]
    hidden, judgments = _hidden(rows, lengths, sample)
    if not train:
        return Split(rows, rows.select(range(min(sample, len(rows)))), rows.select([]), hidden, judgments)
    # Rows of one question follow each other, and all of them are on one side.
    later = starts[starts >= min(sample, len(rows) // 2)]
    if len(later) < FEWEST:
        raise ValueError(
            f"{_NAME}: only {len(later)} questions would be left to measure with, because many rows have the same "
            f"question. Add queries, or take a smaller sample."
        )
    return Split(rows, rows.select(range(int(later[0]))), rows.select(later[:held_out]), hidden, judgments)


def _shuffled(queries: pa.Array, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows in an order that their questions and the seed determine, and where each question begins in it."""
    names = (f"{seed} {first} {second}" for first, second in normalized_digests(queries).tolist())
    places = digest_strings(names)[:, 0]
    order = np.argsort(places, kind="stable")
    starts = np.flatnonzero(np.diff(places[order], prepend=places[order[0]] + np.uint64(1)))
    return order, starts


def _hidden(rows: Dataset, lengths: NDArray[np.int64], sample: int) -> tuple[Dataset | None, Dataset | None]:
    """Hide all but one positive of rows that have several."""
    several = np.flatnonzero(lengths > 1)[:sample]
    if len(several) < FEWEST:
        return None, None
    return hide_positives(rows.select(several))
