"""What a pilot mines, trains on and measures with: a sample of the rows, and others that are kept from it."""

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
from hnm_datasets.missing_columns import check_column
from hnm_datasets.storage.digests import digest_strings

logger = logging.getLogger(__name__)

_NAME = "pilot"
#: Fewer queries tell nothing, whatever the strategy.
FEWEST = 20
#: Passages that a student is measured in, at most, besides the relevant ones.
_SEARCHED = 20_000


class Split(NamedTuple):
    """The rows of a pilot, none of which has a question of another part.

    Attributes:
        rows: All rows with a positive, which the sample stands for.
        sample: Those to mine and count.
        trained: Those to train on: the sample, and others where more were asked for.
        held_out: Those to measure with.
        hidden: Rows that keep one of several positives, to mine for false negatives; None where too few have several.
        judgments: All positives of these.
    """

    rows: Dataset
    sample: Dataset
    trained: Dataset
    held_out: Dataset
    hidden: Dataset | None
    judgments: Dataset | None


def split_rows(rows: Dataset, corpus: Corpus, sample: int, trained: int, held_out: int, seed: int) -> Split:
    """Draw the rows of a pilot, by their questions alone, so that neither order nor process changes the draw.

    Args:
        rows: Queries with positives.
        corpus: Where the positives are.
        sample: How many rows to mine and count, at most.
        trained: How many to train on, at most; no more than half of the questions are in them. 0: none, and none are
            held out.
        held_out: How many to measure with, at most.
        seed: Another seed draws others.

    Raises:
        KeyError: A column is missing, or a positive is not in the corpus.
        ValueError: Too few questions have a positive.
    """
    rows = _unmined(with_ids_as_texts(rows, _NAME))
    for column in (QUERY, POSITIVE_IDS):
        check_column(_NAME, column, rows.column_names)
    read = [name for name in (QUERY_ID, QUERY, POSITIVE_IDS) if name in rows.column_names]
    batch = Batch(rows.select_columns(read).with_format("arrow")[:], step=_NAME)
    lengths = batch.rows_in(POSITIVE_IDS, corpus).lengths
    answered = np.flatnonzero(lengths)
    order, starts = _shuffled(batch, answered, seed)
    wanted = (2 if trained else 1) * FEWEST
    if len(starts) < wanted:
        raise ValueError(
            f"{_NAME}: the rows with a positive, {len(answered):,} of {len(rows):,}, have {len(starts):,} different "
            f"questions, and it takes at least {wanted} to tell anything: {FEWEST} to mine"
            + (f" and {FEWEST} to measure with" if trained else "")
            + ". Add positives with attach_positives, or more queries."
        )
    rows, lengths = pool_positives(rows.select(order)), lengths[order]
    hidden, judgments = _hidden(rows, lengths, sample)
    if not trained:
        few = rows.select(range(min(sample, len(rows))))
        return Split(rows, few, few, rows.select([]), hidden, judgments)
    # Rows of one question follow each other. No question to train on is among those to measure with.
    size = min(max(sample, trained), int(starts[len(starts) // 2]))
    later = starts[starts >= size][:held_out]
    few, more = rows.select(range(min(sample, size))), rows.select(range(size))
    return Split(rows, few, more, rows.select(later), hidden, judgments)


def _unmined(rows: Dataset) -> Dataset:
    """Leave out what an earlier mining wrote."""
    if NEGATIVE_IDS not in rows.column_names:
        return rows
    logger.warning("%s: the rows were mined before; their negatives and scores are left out and mined again.", _NAME)
    mined = [name for name in rows.column_names if re.fullmatch("negative_.*|positive_(.*_)?scores", name)]
    return rows.remove_columns(mined)


def _shuffled(batch: Batch, answered: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order rows by their questions and the seed, whatever their order is.

    Args:
        batch: All rows.
        answered: Those to order.
        seed: Another seed makes another order.

    Returns:
        The rows in their new order, and where each question begins in it.
    """
    queries = batch.strings(QUERY).take(answered)
    names = (f"{seed} {first} {second}" for first, second in normalized_digests(queries).tolist())
    places = digest_strings(names)[:, 0]
    # Rows of one question in an order of their own.
    ids = batch.ids(QUERY_ID).take(answered).to_pylist() if batch.has(QUERY_ID) else [""] * len(answered)
    positives = batch.column(POSITIVE_IDS).take(answered).to_pylist()
    contents = digest_strings(map(repr, zip(ids, queries.to_pylist(), positives, strict=True)))[:, 0]
    order = np.lexsort((contents, places))
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = np.diff(places[order]) != 0
    return answered[order], np.flatnonzero(is_first)


def _hidden(rows: Dataset, lengths: NDArray[np.int64], sample: int) -> tuple[Dataset | None, Dataset | None]:
    """Hide all but one positive of rows that have several."""
    several = np.flatnonzero(lengths > 1)[:sample]
    if len(several) < FEWEST:
        return None, None
    return hide_positives(rows.select(several))


def searched_passages(split: Split, corpus: Corpus, seed: int) -> NDArray[np.int64]:
    """Return the rows of the passages to measure a student in: all, or what is known to be relevant and random others.

    Args:
        split: The rows of a pilot.
        corpus: The passages.
        seed: Another seed draws others.
    """
    if len(corpus) <= _SEARCHED or not len(split.held_out):
        return np.arange(len(corpus))
    wanted = Batch(split.held_out.with_format("arrow")[:], step=_NAME).known_positives_in(corpus).values
    others = np.random.default_rng(seed).choice(len(corpus), _SEARCHED, replace=False)
    return np.union1d(wanted, others)
