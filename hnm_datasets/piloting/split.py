"""Split the rows of a pilot into a sample to mine, rows to train on, and held-out queries."""

from __future__ import annotations

import logging
import re
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS, QUERY, QUERY_ID
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.corpus.text import normalized_digests
from hnm_datasets.loaders.columns import with_ids_as_texts
from hnm_datasets.loaders.hiding import hide_positives
from hnm_datasets.loaders.pooling import pool_positives
from hnm_datasets.storage.digests import digest_strings

logger = logging.getLogger(__name__)

_NAME = "pilot"
#: The minimum number of queries to mine, and to measure with.
FEWEST = 20
#: The maximum number of passages that a student is measured on, not counting the relevant ones.
_SEARCHED = 20_000


class Split(NamedTuple):
    """The rows of a pilot. No held-out question is in the rows to train on.

    Attributes:
        rows: All rows with a positive.
        sample: The rows to mine and count.
        trained: The rows to train on: the sample, and more rows if training uses more.
        held_out: The rows to measure with.
        hidden: Rows that keep one of several positives, for the rate of false negatives; None if too few rows have
            several.
        judgments: All positives of the `hidden` rows.
    """

    rows: Dataset
    sample: Dataset
    trained: Dataset
    held_out: Dataset
    hidden: Dataset | None
    judgments: Dataset | None


def split_rows(rows: Dataset, corpus: Corpus, sample: int, trained: int, held_out: int, seed: int) -> Split:
    """Draw the rows of a pilot by their questions, so that the draw does not depend on row order or the process.

    Args:
        rows: Queries with positives.
        corpus: The passages.
        sample: Maximum number of rows to mine and count.
        trained: Maximum number of rows to train on, with at most half of the questions. 0: no rows to train on or
            measure with.
        held_out: Maximum number of rows to measure with.
        seed: Seed of the draw.

    Raises:
        KeyError: A column is missing, or a positive is not in the corpus.
        ValueError: Too few questions have a positive.
    """
    rows = _unmined(with_ids_as_texts(rows, _NAME))
    for column in (QUERY, POSITIVE_IDS):
        Batch(rows.with_format("arrow")[:1], _NAME).require(column)
    read = [name for name in (QUERY_ID, QUERY, POSITIVE_IDS) if name in rows.column_names]
    batch = Batch(rows.select_columns(read).with_format("arrow")[:], step=_NAME)
    lengths = batch.rows_in(POSITIVE_IDS, corpus).lengths
    answered = np.flatnonzero(lengths)
    order, starts = _shuffled(batch, answered, seed)
    wanted = (2 if trained else 1) * FEWEST
    if len(starts) < wanted:
        raise ValueError(
            f"{_NAME}: {len(answered):,} of {len(rows):,} rows have a positive, with {len(starts):,} different "
            f"questions, but a pilot needs at least {wanted}: {FEWEST} to mine"
            + (f" and {FEWEST} to measure with" if trained else "")
            + ". Add positives with attach_positives, or add queries."
        )
    rows, lengths = pool_positives(rows.select(order)), lengths[order]
    hidden, judgments = _hidden(rows, lengths, sample)
    if not trained:
        to_mine = rows.select(range(min(sample, len(rows))))
        return Split(rows, to_mine, to_mine, rows.select([]), hidden, judgments)
    # Rows of the same question are adjacent, so no question is both trained on and held out.
    size = min(max(sample, trained), int(starts[len(starts) // 2]))
    later = starts[starts >= size][:held_out]
    to_mine, to_train = rows.select(range(min(sample, size))), rows.select(range(size))
    return Split(rows, to_mine, to_train, rows.select(later), hidden, judgments)


def _unmined(rows: Dataset) -> Dataset:
    """Remove the columns that earlier mining wrote."""
    if NEGATIVE_IDS not in rows.column_names:
        return rows
    logger.warning("%s: the rows were mined before; the pilot ignores their negatives and scores.", _NAME)
    mined = [name for name in rows.column_names if re.fullmatch("negative_.*|positive_(.*_)?scores", name)]
    return rows.remove_columns(mined)


def _shuffled(batch: Batch, answered: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Shuffle rows by their questions and the seed, independent of their present order.

    Args:
        batch: All rows.
        answered: The numbers of the rows to shuffle.
        seed: Seed of the shuffle.

    Returns:
        The row numbers in the new order, and the positions in it at which each question begins.
    """
    queries = batch.strings(QUERY).take(answered)
    names = (f"{seed} {first} {second}" for first, second in normalized_digests(queries).tolist())
    keys = digest_strings(names)[:, 0]
    # Rows of the same question are ordered by their content.
    ids = batch.ids(QUERY_ID).take(answered).to_pylist() if batch.has(QUERY_ID) else [""] * len(answered)
    positives = batch.column(POSITIVE_IDS).take(answered).to_pylist()
    contents = digest_strings(map(repr, zip(ids, queries.to_pylist(), positives, strict=True)))[:, 0]
    order = np.lexsort((contents, keys))
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = np.diff(keys[order]) != 0
    return answered[order], np.flatnonzero(is_first)


def _hidden(rows: Dataset, lengths: NDArray[np.int64], sample: int) -> tuple[Dataset | None, Dataset | None]:
    """Hide all but one positive of rows with several; return these rows and their judgments."""
    several = np.flatnonzero(lengths > 1)[:sample]
    if len(several) < FEWEST:
        return None, None
    return hide_positives(rows.select(several))


def searched_passages(split: Split, corpus: Corpus, seed: int) -> NDArray[np.int64]:
    """Return the corpus rows of the passages to measure a student on.

    These are all passages, or for a large corpus the known positives of the held-out queries and random passages.

    Args:
        split: The rows of a pilot.
        corpus: The passages.
        seed: Seed of the random passages.
    """
    if len(corpus) <= _SEARCHED or not len(split.held_out):
        return np.arange(len(corpus))
    wanted = Batch(split.held_out.with_format("arrow")[:], step=_NAME).known_positives_in(corpus).values
    others = np.random.default_rng(seed).choice(len(corpus), _SEARCHED, replace=False)
    return np.union1d(wanted, others)
