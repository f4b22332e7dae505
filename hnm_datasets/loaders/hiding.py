"""Hiding some relevant passages, to simulate incompletely annotated data."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.arrays.draws import sample_mask
from hnm_datasets.arrays.ragged import Ragged, interleave_lists, kept_offsets
from hnm_datasets.batch import Batch
from hnm_datasets.columns import (
    JUDGED_NEGATIVE_IDS,
    KNOWN_POSITIVE_IDS,
    NEGATIVE_IDS,
    POSITIVE_IDS,
    QUERY,
    QUERY_ID,
)
from hnm_datasets.corpus.questions import question_codes
from hnm_datasets.loaders.columns import with_column, with_ids_as_texts
from hnm_datasets.loaders.pooling import pool_positives
from hnm_datasets.missing_columns import check_column
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.storage.kept_rows import kept_rows

logger = logging.getLogger(__name__)

_NAME = "hide_positives"


def hide_positives(rows: Rows, keep: int = 1, *, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Hide relevant passages before mining, to measure the share of false negatives among mined negatives.

    Miners exclude known positives, so if rows contain all judged positives, no judged passage can become a false
    negative. Hide some positives before mining; `calibrate_margin`, `calibrate_threshold` and `audit_negatives` count
    how many of them are mined.

    Args:
        rows: Rows before mining, with all judged positives: a `Dataset`, a data frame, or plain lists.
        keep: The number of positives that each row keeps, drawn at random by `seed` and the `query_id` of the row (or
            its `query`). Rows with at most this many positives keep all of them and cannot have a false negative; their
            number is logged.
        seed: The random seed.

    Columns read:
        `positive_ids`, `query_id` or `query`; `known_positive_ids`, if it exists.

    Returns:
        The rows to mine from, and the judgments to pass as `judgments=`. In the rows, `positive_ids` and the lists
        `positive_*` are shorter. The hidden positives of a question are removed from `known_positive_ids` of all rows
        with this question; a positive that one of these rows keeps stays known to the others. The judgments have one
        row per row, with its `query_id` and `query`, all known positives in `positive_ids`, and `judged_negative_ids`,
        if it exists.

    Raises:
        KeyError: A column is missing.
        TypeError: `rows` or a column has an unsupported type.
        ValueError: `keep` is less than 1, or the rows already have candidates.

    Example:
        >>> queries = {"query_id": ["q1", "q2"], "positive_ids": [["a", "b", "c"], ["d"]]}
        >>> rows, judgments = hide_positives(Dataset.from_dict(queries))
        >>> rows["positive_ids"][:], judgments["positive_ids"][:]
        ([['c'], ['d']], [['a', 'b', 'c'], ['d']])
    """
    rows = with_ids_as_texts(dataset_of(rows, _NAME), _NAME)
    keep = checks.whole_number(_NAME, "keep", keep, low=1)
    seed = checks.whole_number(_NAME, "seed", seed, low=0)
    if NEGATIVE_IDS in rows.column_names:
        raise ValueError(
            f"{_NAME}: the rows already have {NEGATIVE_IDS!r}, mined while all positives were known. Hide positives "
            f"before mining, or remove the columns 'negative_*'."
        )
    check_column(_NAME, POSITIVE_IDS, rows.column_names)
    if QUERY in rows.column_names:
        # The judgments must include the positives of other rows with the same question.
        rows = pool_positives(rows)
    keys = (QUERY_ID, QUERY, KNOWN_POSITIVE_IDS)
    read = [name for name in rows.column_names if name in keys or name.startswith("positive_")]
    batch = Batch(rows.select_columns(read).with_format("arrow")[:], step=_NAME)
    positives = batch.string_lists(POSITIVE_IDS)
    kept = np.empty(len(positives.values), dtype=bool)
    weights, strata = np.zeros(len(kept)), np.ones((1, len(kept)), dtype=bool)
    sample_mask(positives.offsets, weights, batch.row_keys(), seed, strata, np.array([keep]), kept)
    offsets, mask = kept_offsets(positives.offsets, kept), pa.array(kept)
    columns: dict[str, pa.Array] = {}
    for name, lists in batch.positives().items():
        batch.check_aligned(POSITIVE_IDS, positives, name, lists)
        columns[name] = list_array(offsets, lists.values.filter(mask))
    # Rows with the same question share their known positives.
    questions = question_codes([batch.strings(QUERY if batch.has(QUERY) else QUERY_ID)])
    relevant = positives
    if batch.has(KNOWN_POSITIVE_IDS):
        known = batch.string_lists(KNOWN_POSITIVE_IDS)
        joined, order = interleave_lists(positives, known)
        both = pa.concat_arrays([lists.values.cast(pa.string()) for lists in (positives, known)])
        relevant = Ragged(joined, both.take(pa.array(order)))
        shown = ~_are_hidden(known, positives, kept, questions)
        values = known.values.filter(pa.array(shown))
        columns[KNOWN_POSITIVE_IDS] = list_array(kept_offsets(known.offsets, shown), values)
    full = int((positives.lengths <= keep).sum())
    if full:
        logger.warning(
            "%s: %d of %d rows have at most %d positives, so nothing is hidden in them and they cannot have a false "
            "negative.",
            _NAME,
            full,
            len(rows),
            keep,
        )
    names = [name for name in (QUERY_ID, QUERY, JUDGED_NEGATIVE_IDS) if name in rows.column_names]
    if not len(rows):
        return rows, rows.select_columns([*names, POSITIVE_IDS])
    judgments = with_column(rows.select_columns(names), POSITIVE_IDS, list_array(relevant.offsets, relevant.values))
    names = rows.column_names
    for name, values in columns.items():
        rows = with_column(rows.remove_columns(name), name, values)
    rows = rows.select_columns(names)
    return kept_rows(pool_positives(rows) if batch.has(QUERY) else rows), judgments


def _are_hidden(
    known: Ragged[pa.Array], positives: Ragged[pa.Array], kept: NDArray[np.bool_], questions: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which known positives are hidden, that is, no row with the same question keeps them. Shape (K,).

    Args:
        known: The `known_positive_ids` of B rows, K in total.
        positives: The `positive_ids` of these rows, C in total.
        kept: Which of the `positive_ids` are kept. Shape (C,).
        questions: The question of each row. Shape (B,).
    """
    values = pa.concat_arrays([positives.values.cast(pa.string()), known.values.cast(pa.string())])
    codes = pd.factorize(values.to_numpy(zero_copy_only=False))[0]
    pairs = questions[np.concatenate([positives.owners, known.owners])] * (codes.max(initial=0) + 1) + codes
    own, others = pairs[: len(kept)], pairs[len(kept) :]
    return np.isin(others, own[~kept]) & ~np.isin(others, own[kept])
