"""Converting judgments (qrels) to columns of positives and judged negatives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.arrays.ragged import offsets_of
from hnm_datasets.columns import JUDGED_NEGATIVE_IDS, POSITIVE_IDS, QUERY, QUERY_ID
from hnm_datasets.loaders.columns import check_new, id_column, with_column, with_ids_as_texts
from hnm_datasets.loaders.pooling import pool_positives
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.storage.kept_rows import kept_rows

_OWNER = "attach_positives"
#: The accepted column names of judgments.
QUERY_ID_NAMES = ("query_id", "query-id")
CORPUS_ID_NAMES = ("corpus_id", "corpus-id", "passage_id", "docid")


def attach_positives(queries: Rows, qrels: Rows, min_score: int = 1) -> Dataset:
    """Add the judged passages of each query to rows of queries.

    Args:
        queries: Rows with unique `query_id` and `query`: a `Dataset`, a data frame, an Arrow table, a list of dicts or
            a dict of lists. Ids may be whole numbers, which become strings.
        qrels: Judgments, in any of these types, with `query_id`, `corpus_id` (or BEIR's `query-id`, `corpus-id`) and
            `score`; without `score`, all judged passages are relevant. Repeated judgments count once.
        min_score: Passages with at least this score are positives; passages with a lower score are judged negatives.

    Returns:
        The rows with two additional columns: `positive_ids` and `judged_negative_ids`. Passages that a person judged
        not relevant are the most reliable negatives (`JudgedNegatives` mines them). Both lists are in the order of the
        judgments. If several rows have the same question, there is also `known_positive_ids`, see `pool_positives`.

    Raises:
        KeyError: A column is missing.
        TypeError: `queries` or `qrels` has an unsupported type.
        ValueError: The queries already have one of the new columns, a query id is repeated, a judged query is not among
            the rows, a score is null, or a passage is judged both relevant and not relevant to a query (the message
            names both ids).

    Example:
        >>> queries = Dataset.from_dict({"query_id": ["q1"], "query": ["what causes earthquakes?"]})
        >>> qrels = Dataset.from_dict({"query_id": ["q1", "q1"], "corpus_id": ["p1", "p2"], "score": [1, 0]})
        >>> attach_positives(queries, qrels)[0]
        {'query_id': 'q1', 'query': 'what causes earthquakes?', 'positive_ids': ['p1'], 'judged_negative_ids': ['p2']}
    """
    queries, qrels = dataset_of(queries, _OWNER, "queries"), dataset_of(qrels, _OWNER, "qrels")
    if QUERY_ID not in queries.column_names:
        raise KeyError(f"attach_positives: the queries have no column 'query_id', only {queries.column_names}.")
    table = qrels_table(qrels.with_format("arrow")[:])
    check_new(queries, (POSITIVE_IDS, JUDGED_NEGATIVE_IDS), _OWNER)
    queries = with_ids_as_texts(queries, _OWNER)
    ids = queries.with_format("arrow")[:][QUERY_ID].combine_chunks().cast(pa.string())
    if pc.count_distinct(ids).as_py() < len(ids):
        counts = pc.value_counts(ids)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))[0].as_py()
        raise ValueError(f"attach_positives: the query_id {twice!r} is repeated. Each query needs exactly one row.")
    owner = pc.index_in(table["query_id"], value_set=ids).combine_chunks()
    if owner.null_count:
        unknown = table["query_id"].filter(owner.is_null())[0].as_py()
        raise ValueError(
            f"attach_positives: the qrels contain the query {unknown!r}, which is not among the {len(ids)} queries. "
            f"Add the query, or remove its judgments."
        )
    check_contradictions(table, relevant_mask(table, min_score), "attach_positives")
    first = ~pd.DataFrame({"query": owner, "passage": codes_of(table["corpus_id"])}).duplicated().to_numpy()
    table = table.filter(pa.array(first))
    rows = owner.to_numpy(zero_copy_only=False)[first]
    positive = relevant_mask(table, min_score)
    result = queries
    for name, which in ((POSITIVE_IDS, positive), (JUDGED_NEGATIVE_IDS, ~positive)):
        order = np.argsort(rows[which], kind="stable")
        values = table["corpus_id"].combine_chunks().filter(pa.array(which)).take(pa.array(order))
        lists = list_array(offsets_of(np.bincount(rows[which], minlength=len(ids))), values)
        result = with_column(result, name, lists)
    return pool_positives(result) if QUERY in result.column_names else kept_rows(result)


def relevant_mask(qrels: pa.Table, min_score: float) -> NDArray[np.bool_]:
    """Return which judgments are positive. Shape (J,)."""
    return np.asarray(pc.greater_equal(qrels["score"], min_score).to_numpy())


def contradicted_mask(qrels: pa.Table, relevant: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which negative judgments contradict a positive judgment of the same query and passage. Shape (J,).

    Args:
        qrels: J judgments with `query_id` and `corpus_id`.
        relevant: Which judgments are positive. Shape (J,).
    """
    if relevant.all():
        return np.zeros(len(relevant), dtype=bool)
    passages = codes_of(qrels["corpus_id"])
    pairs = codes_of(qrels["query_id"]) * (int(passages.max(initial=0)) + 1) + passages
    return ~relevant & np.isin(pairs, pairs[relevant])


def check_contradictions(qrels: pa.Table, relevant: NDArray[np.bool_], owner: str, way_out: str = "") -> None:
    """Raise an error that names query and passage if a pair is judged both relevant and not relevant."""
    contradicted = np.flatnonzero(contradicted_mask(qrels, relevant))
    if len(contradicted):
        query, passage = (qrels[name][int(contradicted[0])].as_py() for name in ("query_id", "corpus_id"))
        raise ValueError(
            f"{owner}: the passage {passage!r} is judged both relevant and not relevant to the query {query!r} (the "
            f"first of {len(contradicted)} contradictions). Keep one judgment per pair, such as the highest "
            f"score{way_out}."
        )


def codes_of(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Number the distinct values of a column. Shape (J,)."""
    return np.asarray(column.combine_chunks().dictionary_encode().indices.to_numpy(), dtype=np.int64)


def qrels_table(table: pa.Table) -> pa.Table:
    """Return judgments as `query_id`, `corpus_id` and `score`."""
    columns = {}
    for name, names in (("query_id", QUERY_ID_NAMES), ("corpus_id", CORPUS_ID_NAMES)):
        found = [other for other in names if other in table.column_names]
        if not found:
            raise KeyError(f"The qrels have no column {names[0]!r} or {names[1]!r}, only {table.column_names}.")
        columns[name] = id_column(table, found[0], "The qrels")
    scores = table["score"].cast(pa.float64()) if "score" in table.column_names else pa.repeat(1.0, len(table))
    table = pa.table(columns | {"score": scores})
    for name in table.column_names:
        if table[name].null_count:
            row = int(np.flatnonzero(table[name].is_null().to_numpy())[0])
            raise ValueError(f"The qrels have a null {name!r} in row {row}. Fill it in, or remove such judgments.")
    return table
