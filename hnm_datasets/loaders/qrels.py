"""Judgments (qrels) as columns of positives and judged negatives."""

from __future__ import annotations

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.arrays.ragged import offsets_of
from hnm_datasets.columns import JUDGED_NEGATIVE_IDS, POSITIVE_IDS, QUERY_ID

_QUERY_ID_NAMES = ("query-id", "query_id")


_CORPUS_ID_NAMES = ("corpus-id", "corpus_id")


def attach_positives(queries: Dataset, qrels: Dataset, min_score: int = 1) -> Dataset:
    """Add the judged passages of each query to rows of queries.

    Args:
        queries: Rows with `query_id` (strings), each id once.
        qrels: Judgments with `query_id`, `corpus_id` (or BEIR's `query-id`, `corpus-id`) and `score`; without a score
            every judged passage is relevant.
        min_score: A passage judged at least so is a positive; one judged less is a judged negative.

    Returns:
        The rows with two more columns: `positive_ids`, and `judged_negative_ids`: what a person looked at and found not
        relevant is the best negative there is. In both the passages come in the order of the judgments.

    Raises:
        KeyError: A column is missing.
        ValueError: A query id comes twice, or a judged query is not among the rows.

    Example:
        >>> queries = Dataset.from_dict({"query_id": ["q1"], "query": ["what causes earthquakes?"]})
        >>> qrels = Dataset.from_dict({"query_id": ["q1", "q1"], "corpus_id": ["p1", "p2"], "score": [1, 0]})
        >>> attach_positives(queries, qrels)[0]
        {'query_id': 'q1', 'query': 'what causes earthquakes?', 'positive_ids': ['p1'], 'judged_negative_ids': ['p2']}
    """
    if QUERY_ID not in queries.column_names:
        raise KeyError(f"attach_positives: the queries have no column 'query_id', only {queries.column_names}.")
    table = qrels_table(qrels.with_format("arrow")[:])
    ids = queries.with_format("arrow")[:][QUERY_ID].combine_chunks().cast(pa.string())
    if pc.count_distinct(ids).as_py() < len(ids):
        counts = pc.value_counts(ids)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))[0].as_py()
        raise ValueError(f"attach_positives: the query_id {twice!r} comes more than once; each query needs one row.")
    owner = pc.index_in(table["query_id"], value_set=ids).combine_chunks()
    if owner.null_count:
        unknown = table["query_id"].filter(owner.is_null())[0].as_py()
        raise ValueError(
            f"attach_positives: the qrels judge the query {unknown!r}, which is not among the {len(ids)} queries. Add "
            f"it, or filter its judgments out."
        )
    rows = owner.to_numpy(zero_copy_only=False)
    positive = pc.greater_equal(table["score"], min_score).to_numpy()
    result = queries
    for name, which in ((POSITIVE_IDS, positive), (JUDGED_NEGATIVE_IDS, ~positive)):
        order = np.argsort(rows[which], kind="stable")
        values = table["corpus_id"].combine_chunks().filter(pa.array(which)).take(pa.array(order))
        lists = list_array(offsets_of(np.bincount(rows[which], minlength=len(ids))), values)
        result = with_column(result, name, lists)
    return result


def qrels_table(table: pa.Table) -> pa.Table:
    """Return judgments as `query_id`, `corpus_id` and `score`."""
    columns = {}
    for name, names in (("query_id", _QUERY_ID_NAMES), ("corpus_id", _CORPUS_ID_NAMES)):
        found = [other for other in names if other in table.column_names]
        if not found:
            raise KeyError(f"The qrels have no column {names[0]!r} or {names[1]!r}, only {table.column_names}.")
        columns[name] = table[found[0]].cast(pa.string())
    scores = table["score"].cast(pa.float64()) if "score" in table.column_names else pa.repeat(1.0, len(table))
    return pa.table(columns | {"score": scores})


def with_column(dataset: Dataset, name: str, lists: pa.Array) -> Dataset:
    """Return the dataset with one more column."""
    return datasets.concatenate_datasets([dataset, Dataset(pa.table({name: lists}))], axis=1)
