"""Pooling the known positives of rows with the same question."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import is_string, list_array
from hnm_datasets.arrays.ragged import Ragged, first_positions, kept_offsets, offsets_of
from hnm_datasets.batch import Batch
from hnm_datasets.columns import KNOWN_POSITIVE_IDS, POSITIVE_IDS, QUERY
from hnm_datasets.corpus.questions import question_codes, rows_without_all_positives
from hnm_datasets.loaders.columns import with_column, with_ids_as_texts
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.storage.kept_rows import kept_rows

logger = logging.getLogger(__name__)

_NAME = "pool_positives"
#: The maximum number of ids in the new column, including each row's own positives.
_MAX_IDS = 1 << 28
#: Rows read at a time.
_ROWS = 1 << 16


def pool_positives(rows: Rows) -> Dataset:
    """Add the positives of other rows with the same question to each row.

    A step processes each row independently. If several rows have the same question, such as the same text under two
    query ids, a miner would return the positives of one row as negatives of another. Call this function before you map
    a miner; `attach_positives`, `load_beir`, `from_pairs`, `mine` and `pilot` already do so. Two questions are the same
    if their texts differ only in Unicode form, case and whitespace.

    Miners, `DropNearDuplicates` and the labels of `live_negatives` treat these passages as known positives. Shapes and
    scorers only read `positive_ids`, so the number of training examples per row does not change.

    Args:
        rows: All rows of a training set: a `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists.
            Ids may be whole numbers, which become strings. To pool over several datasets, concatenate them first.

    Columns read:
        `query`, `positive_ids`; `known_positive_ids`, if it exists: its ids stay known positives.

    Columns written:
        `known_positive_ids`: the positives of the question that are not in the row's own `positive_ids`, in order of
        first appearance in `rows`.

    Returns:
        The same rows in the same order. If all questions differ, no column is added. In-memory rows are written to a
        file in the cache directory, so that `map` can cache its results.

    Raises:
        KeyError: A column is missing.
        TypeError: `rows` or a column has an unsupported type.
        ValueError: So many rows have the same question that the new column would exceed 268 million ids.

    Example:
        >>> rows = {"query": ["What is a plate?", "what is a plate?"], "positive_ids": [["p0"], ["p1"]]}
        >>> pool_positives(Dataset.from_dict(rows))["known_positive_ids"][:]
        [['p1'], ['p0']]
    """
    rows = dataset_of(rows, _NAME)
    for name in (QUERY, POSITIVE_IDS):
        if name not in rows.column_names:
            raise KeyError(f"{_NAME} needs the column {name!r}, but the rows have only {rows.column_names}.")
    if not len(rows):
        return rows
    rows = with_ids_as_texts(rows, _NAME)
    names = [name for name in (QUERY, POSITIVE_IDS, KNOWN_POSITIVE_IDS) if name in rows.column_names]
    batch = Batch(rows.select_columns(names).with_format("arrow")[:], step=_NAME)
    questions = question_codes([batch.strings(QUERY)])
    positives = batch.id_lists(POSITIVE_IDS)
    if not batch.has(KNOWN_POSITIVE_IDS):
        if np.array_equal(questions, np.arange(len(questions))):
            return kept_rows(rows)
        return kept_rows(with_column(rows, KNOWN_POSITIVE_IDS, _pooled(batch, questions, positives, None)))
    known = batch.id_lists(KNOWN_POSITIVE_IDS)
    rows = rows.remove_columns(KNOWN_POSITIVE_IDS)
    return kept_rows(with_column(rows, KNOWN_POSITIVE_IDS, _pooled(batch, questions, positives, known)))


def pool_missing_positives(rows: Dataset, owner: str) -> Dataset:
    """Call `pool_positives` if a row lacks a positive of another row with the same question, and log the number.

    Args:
        rows: All rows of a training set.
        owner: The calling function, for messages.

    Returns:
        The same object if no row lacks a positive, or if a column is missing or has an unsupported type, which the
        steps report.
    """
    if not {QUERY, POSITIVE_IDS} <= set(rows.column_names):
        return rows
    queries = []
    for table in rows.select_columns(QUERY).with_format("arrow").iter(_ROWS):
        part = Batch(table, step=owner).column(QUERY)
        if not is_string(part.type) or part.null_count:
            return rows
        queries.append(part)
    questions = question_codes(queries)
    repeat = np.flatnonzero(np.bincount(questions, minlength=len(questions))[questions] > 1)
    if not len(repeat):
        return rows
    names = [name for name in (QUERY, POSITIVE_IDS, KNOWN_POSITIVE_IDS) if name in rows.column_names]
    batch = Batch(rows.select_columns(names).with_format("arrow").select(repeat)[:], step=owner)
    lists = [batch.id_lists(name) for name in names[1:]]
    ids = pa.concat_arrays([part.values.cast(pa.large_string()) for part in lists]).dictionary_encode()
    owners = np.concatenate([part.owners for part in lists])
    lacking = rows_without_all_positives(
        np.searchsorted(repeat, questions[repeat]), owners, ids.indices.to_numpy().astype(np.int64)
    )
    if not lacking.any():
        return rows
    logger.warning(
        "%s: %d of %d rows have the same question as other rows, but not all of their positives. These positives are "
        "now in the column %r, so they are not mined; pool_positives(rows) does the same.",
        owner,
        int(lacking.sum()),
        len(rows),
        KNOWN_POSITIVE_IDS,
    )
    return pool_positives(rows)


def _pooled(
    batch: Batch, questions: NDArray[np.int64], positives: Ragged[pa.Array], known: Ragged[pa.Array] | None
) -> pa.ListArray:
    """Return the known positives of each row's question that are not in its own `positive_ids`.

    Args:
        batch: B rows, for the error message.
        questions: The first row with the same question. Shape (B,).
        positives: The `positive_ids` of the rows.
        known: The `known_positive_ids` of the rows.
    """
    lists = [positives] if known is None else [positives, known]
    ids = pa.concat_arrays([part.values.cast(pa.large_string()) for part in lists]).dictionary_encode()
    codes = ids.indices.to_numpy().astype(np.int64)
    owners = np.concatenate([part.owners for part in lists])
    size = max(len(ids.dictionary), 1)
    # The distinct known positives of each question, in order of first appearance.
    order = np.argsort(questions[owners], kind="stable")
    pairs = pd.unique(questions[owners[order]] * size + codes[order])
    passages = pairs % size
    counts = np.bincount(pairs // size, minlength=len(questions))
    own_pairs = pd.unique(positives.owners * size + codes[: len(positives.values)])
    own_counts = np.bincount(own_pairs // size, minlength=len(questions))
    lengths = np.where(counts[questions] > own_counts, counts[questions], 0)
    if lengths.sum() > _MAX_IDS:
        row = int(np.argmax(lengths * np.bincount(questions)[questions]))
        raise ValueError(
            f"{_NAME}: {np.sum(questions == questions[row]):,} rows have the same question as {batch.describe(row)}, "
            f"which has {lengths[row]:,} positives. The new column would have {lengths.sum():,} ids. Merge the rows of "
            f"each question into one row first."
        )
    at = first_positions(offsets_of(counts)[questions], lengths)
    rows = np.repeat(np.arange(len(questions)), lengths)
    keep = ~pd.Series(rows * size + passages[at]).isin(own_pairs).to_numpy()
    values = ids.dictionary.take(pa.array(passages[at[keep]])).cast(pa.string())
    return list_array(kept_offsets(offsets_of(lengths), keep), values)
