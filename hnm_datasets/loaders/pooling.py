"""What is known of a question, pooled over the rows that ask it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.arrays.ragged import Ragged, first_positions, kept_offsets, offsets_of
from hnm_datasets.batch import Batch
from hnm_datasets.columns import KNOWN_POSITIVE_IDS, POSITIVE_IDS, QUERY
from hnm_datasets.corpus.questions import question_codes
from hnm_datasets.loaders.columns import with_column, with_ids_as_texts
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.storage.kept_rows import kept_rows

_NAME = "pool_positives"
#: The ids that the new column may hold, before a row's own are taken out.
_MOST_IDS = 1 << 28


def pool_positives(rows: Rows) -> Dataset:
    """Add to each row the positives of other rows with the same question.

    A step sees one row at a time. Where a question is in several rows, such as the same text under two query ids, each
    row's miner would find the positives of the others. Call this before mining; `attach_positives`, `load_beir` and
    `from_pairs` do it themselves. Questions are the same if their texts differ in nothing but Unicode form, case and
    white space.

    Miners, `DropNearDuplicates` and the labels of `live_negatives` treat these passages as known positives. Shapes and
    scorers read `positive_ids` alone, so each row gives as many training examples as before.

    Args:
        rows: All rows of a training set: a `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists.
            Ids may be whole numbers, which become strings. To pool over several datasets, concatenate them first.

    Columns read:
        `query`, `positive_ids`; `known_positive_ids`, if there: what is known already stays known.

    Columns written:
        `known_positive_ids`: the positives of the row's question that are not in its own `positive_ids`, in the order
        in which they first come in `rows`.

    Returns:
        The same rows in the same order. Where no two rows ask the same question, no column is added.
        Rows that were in memory are now in a file of the cache directory, so that `map` caches what it makes of them.

    Raises:
        KeyError: A column is missing.
        TypeError: `rows` is something else, or a column holds something else than the contract says.
        ValueError: One question is in so many rows that the new column would hold more than 268 million ids.

    Example:
        >>> rows = {"query": ["What is a plate?", "what is a plate?"], "positive_ids": [["p0"], ["p1"]]}
        >>> pool_positives(Dataset.from_dict(rows))["known_positive_ids"][:]
        [['p1'], ['p0']]
    """
    rows = dataset_of(rows, _NAME)
    for name in (QUERY, POSITIVE_IDS):
        if name not in rows.column_names:
            raise KeyError(f"{_NAME} needs the column {name!r}, and there are only {rows.column_names}.")
    if not len(rows):
        return rows
    rows = with_ids_as_texts(rows, _NAME)
    names = [name for name in (QUERY, POSITIVE_IDS, KNOWN_POSITIVE_IDS) if name in rows.column_names]
    batch = Batch(rows.select_columns(names).with_format("arrow")[:], step=_NAME)
    questions = question_codes([batch.strings(QUERY)])
    own = batch.id_lists(POSITIVE_IDS)
    if not batch.has(KNOWN_POSITIVE_IDS):
        if np.array_equal(questions, np.arange(len(questions))):
            return kept_rows(rows)
        return kept_rows(with_column(rows, KNOWN_POSITIVE_IDS, _known_elsewhere(batch, questions, own, None)))
    known = batch.id_lists(KNOWN_POSITIVE_IDS)
    rows = rows.remove_columns(KNOWN_POSITIVE_IDS)
    return kept_rows(with_column(rows, KNOWN_POSITIVE_IDS, _known_elsewhere(batch, questions, own, known)))


def _known_elsewhere(
    batch: Batch, questions: NDArray[np.int64], own: Ragged[pa.Array], known: Ragged[pa.Array] | None
) -> pa.ListArray:
    """Return the positives of each row's question that are not its own.

    Args:
        batch: B rows, for the error.
        questions: The first row that asks the same question. Shape (B,).
        own: Each row's positives.
        known: What each row has in `known_positive_ids`.
    """
    lists = [own] if known is None else [own, known]
    ids = pa.concat_arrays([one.values.cast(pa.large_string()) for one in lists]).dictionary_encode()
    codes = ids.indices.to_numpy().astype(np.int64)
    owners = np.concatenate([one.owners for one in lists])
    size = max(len(ids.dictionary), 1)
    # What is known of each question, each passage once, in the order in which it comes.
    order = np.argsort(questions[owners], kind="stable")
    pairs = pd.unique(questions[owners[order]] * size + codes[order])
    passages = pairs % size
    counts = np.bincount(pairs // size, minlength=len(questions))
    of_own = pd.unique(own.owners * size + codes[: len(own.values)])
    own_counts = np.bincount(of_own // size, minlength=len(questions))
    lengths = np.where(counts[questions] > own_counts, counts[questions], 0)
    if lengths.sum() > _MOST_IDS:
        row = int(np.argmax(lengths * np.bincount(questions)[questions]))
        raise ValueError(
            f"{_NAME}: {np.sum(questions == questions[row]):,} rows ask the question of {batch.describe(row)}, which "
            f"has {lengths[row]:,} positives; the column would hold {lengths.sum():,} ids in all. Merge the rows of a "
            f"question into one first."
        )
    at = first_positions(offsets_of(counts)[questions], lengths)
    rows = np.repeat(np.arange(len(questions)), lengths)
    keep = ~pd.Series(rows * size + passages[at]).isin(of_own).to_numpy()
    values = ids.dictionary.take(pa.array(passages[at[keep]])).cast(pa.string())
    return list_array(kept_offsets(offsets_of(lengths), keep), values)
