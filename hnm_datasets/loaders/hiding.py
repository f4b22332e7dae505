"""Rows some of whose relevant passages are hidden, as in data that nobody annotated in full."""

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
    """Hide relevant passages, so that what is mined from the rows shows how many false negatives there are.

    Miners exclude the known positives, so no judged passage is ever a false negative of rows that name all of them.
    Hide some before mining; `calibrate_margin`, `calibrate_threshold` and `audit_negatives` count those that come back.

    Args:
        rows: Rows that were not mined yet, with all their judged positives: a `Dataset`, a data frame, or plain lists.
        keep: Positives that each row keeps, drawn by `seed` and the row's `query_id` (or its `query`). A row that has
            no more keeps all: it cannot show a false negative, and the log says how many such rows there are.
        seed: Another seed keeps others.

    Columns read:
        `positive_ids`, `query_id` or `query`; `known_positive_ids`, if there.

    Returns:
        The rows to mine from, and the judgments to pass as `judgments=`. The rows have shorter lists `positive_ids`
        and `positive_*`. What is hidden from a question is in no `known_positive_ids` of its rows; what one of them
        keeps stays known to the others. The judgments are one row per row: its `query_id` and `query`, in
        `positive_ids` all that was known to be relevant, and `judged_negative_ids`, if there.

    Raises:
        KeyError: A column is missing.
        TypeError: `rows` is something else, or a column holds something else than the contract says.
        ValueError: `keep` is less than 1, or the rows have candidates already.

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
            f"{_NAME}: the rows have {NEGATIVE_IDS!r}, which were mined while all positives were known. Hide positives "
            f"first and mine then, or remove the columns 'negative_*'."
        )
    check_column(_NAME, POSITIVE_IDS, rows.column_names)
    if QUERY in rows.column_names:
        # The judgments must name what other rows know of a question, too.
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
    # Rows of one question share what is known.
    questions = question_codes([batch.strings(QUERY if batch.has(QUERY) else QUERY_ID)])
    relevant = positives
    if batch.has(KNOWN_POSITIVE_IDS):
        known = batch.string_lists(KNOWN_POSITIVE_IDS)
        joined, order = interleave_lists(positives, known)
        both = pa.concat_arrays([one.values.cast(pa.string()) for one in (positives, known)])
        relevant = Ragged(joined, both.take(pa.array(order)))
        shown = ~_are_hidden(known, positives, kept, questions)
        values = known.values.filter(pa.array(shown))
        columns[KNOWN_POSITIVE_IDS] = list_array(kept_offsets(known.offsets, shown), values)
    full = int((positives.lengths <= keep).sum())
    if full:
        logger.warning(
            "%s: %d of %d rows have no more than %d positives, keep all of them and cannot show a false negative.",
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
    """Tell which known passages are positives of their question that none of its rows keeps. Shape (K,).

    Args:
        known: The known positives of B rows, K in all.
        positives: Their own positives, C in all.
        kept: Which of these stay. Shape (C,).
        questions: The question of each row. Shape (B,).
    """
    values = pa.concat_arrays([positives.values.cast(pa.string()), known.values.cast(pa.string())])
    codes = pd.factorize(values.to_numpy(zero_copy_only=False))[0]
    pairs = questions[np.concatenate([positives.owners, known.owners])] * (codes.max(initial=0) + 1) + codes
    own, others = pairs[: len(kept)], pairs[len(kept) :]
    return np.isin(others, own[~kept]) & ~np.isin(others, own[kept])
