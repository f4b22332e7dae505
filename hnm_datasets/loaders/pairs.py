"""Loading text pairs as a corpus and rows of queries."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hnm_datasets.arrays.arrow import as_plain, is_string, list_array, type_name
from hnm_datasets.arrays.ragged import offsets_of
from hnm_datasets.columns import POSITIVE_IDS, QUERY
from hnm_datasets.corpus.passages import Corpus, corpus_of
from hnm_datasets.corpus.source import Source, name_of
from hnm_datasets.corpus.text import is_blank
from hnm_datasets.loaders.columns import check_new, with_column, with_ids_as_texts
from hnm_datasets.loaders.pooling import pool_positives
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.runtime.notices import tell_once
from hnm_datasets.storage.digests import digest_strings, hexadecimals
from hnm_datasets.terminal import printable

logger = logging.getLogger(__name__)

#: The kind of warning about merged pairs, for `one_call`.
MERGED = "merged pairs"


def from_pairs(
    dataset: Rows,
    query_column: str = "query",
    positive_column: str = "answer",
    *,
    passages: Sequence[str] | None = None,
) -> tuple[Corpus, Dataset]:
    """Convert text pairs, the usual format of sentence-transformers, into a corpus and rows of queries to mine for.

    The corpus consists of the distinct texts in `passages` and of the positives. The id of a passage is a hash of its
    text. All pairs of a query become one row with several positives. Queries that differ only in Unicode form, case or
    whitespace stay separate rows; `pool_positives` adds the positives of the other rows to each. A warning reports the
    numbers of merged pairs and passages.

    Args:
        dataset: One (query, relevant text) pair per row: a `Dataset`, a data frame, an Arrow table, a list of dicts or
            a dict of lists.
        query_column: The column of queries.
        positive_column: The column of relevant texts.
        passages: Additional texts to mine from.

    Returns:
        The corpus, and one row per distinct query with `query`, `positive_ids`, and the other columns of the dataset
        from the first pair of the query; and `known_positive_ids`, if several rows have the same question.

    Raises:
        KeyError: A column does not exist.
        TypeError: The dataset has an unsupported type, or a column does not hold strings.
        ValueError: The dataset is empty, a text is null or empty, or another column is named `query` or
            `positive_ids`.

    Example:
        >>> pairs = Dataset.from_dict({"query": ["a?", "b?", "a?"], "answer": ["A.", "B.", "Also A."]})
        >>> corpus, rows = from_pairs(pairs)
        >>> len(corpus), rows["query"][:], [len(ids) for ids in rows["positive_ids"]]
        (3, ['a?', 'b?'], [2, 1])
    """
    dataset = dataset_of(dataset, "from_pairs", "dataset")
    if not len(dataset):
        raise ValueError("from_pairs: the dataset is empty: it needs at least one pair.")
    table = dataset.with_format("arrow")[:]
    texts = {}
    for name in (query_column, positive_column):
        if name not in dataset.column_names:
            raise KeyError(
                f"from_pairs: the dataset has no column {name!r}, only {dataset.column_names}. Pass the names of both "
                f"columns: from_pairs(dataset, query_column, positive_column)."
            )
        column = as_plain(table[name].combine_chunks())
        if pa.types.is_null(column.type):
            column = column.cast(pa.string())
        if not is_string(column.type):
            raise TypeError(f"from_pairs: the column {name!r} must hold strings, got {type_name(column.type)}.")
        blank = pc.fill_null(is_blank(column), True).to_numpy(zero_copy_only=False)
        if blank.any():
            raise ValueError(
                f"from_pairs: the column {name!r} is null or empty in row {int(np.flatnonzero(blank)[0])}. Remove such "
                f"pairs: dataset.filter(lambda row: row[{name!r}] and row[{name!r}].strip())."
            )
        texts[name] = column
    others = dataset.remove_columns(list({query_column, positive_column}))
    check_new(others, (QUERY, POSITIVE_IDS), "from_pairs")
    positives = texts[positive_column].cast(pa.string())
    further = pa.array([], pa.string()) if passages is None else _further_passages(passages)
    all_texts = pa.concat_arrays([further, positives]).dictionary_encode()
    ids = hexadecimals(digest_strings(all_texts.dictionary.to_pylist())[:, 0])
    passages_of = Source(pa.table({"id": ids, "text": all_texts.dictionary}))
    corpus = corpus_of(passages_of, "from_pairs", name_of(dataset))
    queries = texts[query_column].dictionary_encode()
    codes = pd.DataFrame(
        {
            "query": queries.indices.to_numpy(),
            "passage": all_texts.indices[len(further) :].to_numpy(),
        }
    )
    first = np.flatnonzero(~codes["query"].duplicated().to_numpy())
    distinct = codes.drop_duplicates().sort_values("query", kind="stable")
    lists = list_array(
        offsets_of(np.bincount(distinct["query"], minlength=len(queries.dictionary))),
        ids.take(pa.array(distinct["passage"].to_numpy())),
    )
    _report(len(dataset), len(first), len(all_texts) - len(all_texts.dictionary), others.column_names)
    rows = with_ids_as_texts(dataset.select(first).remove_columns(positive_column), "from_pairs")
    if query_column != QUERY:
        rows = rows.rename_column(query_column, QUERY)
    return corpus, pool_positives(with_column(rows, POSITIVE_IDS, lists))


def _report(pairs: int, rows: int, repeats: int, others: Sequence[str]) -> None:
    """Log how many pairs and passages were merged, if any."""
    parts = []
    if rows < pairs:
        queries = "1 query" if rows == 1 else f"{rows:,} queries"
        of_first = f"; the columns {list(others)} are those of the first pair" if others else ""
        parts.append(f"{pairs:,} pairs became {queries}: pairs with the same query were merged{of_first}.")
    if repeats:
        count = "1 repeated passage was" if repeats == 1 else f"{repeats:,} repeated passages were"
        parts.append(f"{count} merged.")
    if parts:
        tell_once(logger, MERGED, "from_pairs: %s", " ".join(parts))


def _further_passages(passages: Sequence[str]) -> pa.Array:
    if isinstance(passages, str):
        raise TypeError("from_pairs: passages must be a list of texts, got one text.")
    try:
        texts = pa.array(passages, type=pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TypeError(f"from_pairs: passages must be texts: {printable(str(error))}") from None
    blank = pc.fill_null(is_blank(texts), True).to_numpy(zero_copy_only=False)
    if blank.any():
        raise ValueError(
            f"from_pairs: the passage {int(np.flatnonzero(blank)[0])} is null or empty. Remove such passages."
        )
    return texts
