"""A corpus and mined rows from what others have mined."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hnm_datasets.batch import Batch
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.corpus.text import is_blank
from hnm_datasets.formats import msmarco
from hnm_datasets.formats.base import Layout, QueryRows, Side
from hnm_datasets.formats.conversion import convert
from hnm_datasets.formats.fields import id_array
from hnm_datasets.formats.mined import MINED
from hnm_datasets.formats.registry import recognize
from hnm_datasets.loaders.pooling import pool_positives
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.storage.digests import digest_strings, distinct_digests
from hnm_datasets.terminal import printable

_STEP = "from_mined"
_ROWS = 10_000


def from_mined(dataset: Rows) -> tuple[Corpus, Dataset]:
    """Turn rows that somebody has mined into a corpus and mined rows, so that teachers and filters run on them.

    The corpus holds the passages of the dataset, and no others: mining more of them needs a larger corpus. The way back
    is `convert(rows, "triplets", corpus)`, or another format.

    Args:
        dataset: Mined data with texts in one of the formats that `convert` reads, recognized by the columns: triplets,
            n-tuples, labeled pairs or lists, Tevatron's (`query`, `positive_passages`, `negative_passages`),
            FlagEmbedding's (`query`, `pos`, `neg`) or DPR's (`question`, `positive_ctxs`, `hard_negative_ctxs`). A
            `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists; of JSON what `load_dataset`
            makes of it.

    Returns:
        The corpus: each passage once, in order of first appearance, with the dataset's id of it, or else a hash of its
        text, and with its title where the format keeps titles apart.

        The rows, one per query (of the same id, or the same text where there are no ids), with `query`, `positive_ids`
        and `negative_ids`; `query_id`, if there; and the scores of the format as `positive_scores` and
        `negative_scores`, those of FlagEmbedding, which are a teacher's, as `positive_teacher_scores` and
        `negative_teacher_scores`. A score that is not there is null. Other columns are kept, as in a query's first row.
        Where several rows ask the same question, also `known_positive_ids`, see `pool_positives`. There are no ranks.

    Raises:
        KeyError: The dataset is in none of the formats, or a column is missing.
        TypeError: The dataset is something else, or a column holds something else than its format says.
        ValueError: It is empty or names passages by id alone, a passage is empty, two texts have the same id, or labels
            are a teacher's scores.

    Example:
        >>> from hnm_datasets import DropKnownPositives
        >>> triplets = {
        ...     "anchor": ["what causes earthquakes?"] * 2,
        ...     "positive": ["Plates move.", "Plates break."],
        ...     "negative": ["Bread rises.", "plates  move."],
        ... }
        >>> corpus, rows = from_mined(triplets)
        >>> len(corpus), rows.column_names
        (4, ['query', 'positive_ids', 'negative_ids'])
        >>> checked = rows.map(DropKnownPositives(corpus), batched=True)
        >>> corpus.texts(corpus.rows(checked[0]["negative_ids"])).to_pylist()
        ['Bread rises.']
    """
    dataset = dataset_of(dataset, _STEP, "dataset")
    passages = _Passages()
    for rows in _read(dataset):
        for side in (rows.positives, rows.negatives):
            passages.add(side, rows)
    corpus = Corpus.from_dataset(passages.table())
    return corpus, pool_positives(convert(dataset, MINED.name, corpus))


def _read(dataset: Dataset) -> Iterator[QueryRows]:
    """Read the rows, some at a time."""
    if not len(dataset):
        raise ValueError(f"{_STEP}: the dataset is empty: it needs at least one row.")
    layout = None if msmarco.is_by_system(dataset) else _recognized(dataset)
    if layout is None or layout.format.needs_corpus:
        raise ValueError(
            f"{_STEP}: the rows name their passages by id alone, and the texts are elsewhere. Make the corpus of "
            f"those, with load_beir or Corpus.from_dataset; then rows = convert(dataset, 'mined', corpus)."
        )
    own = layout.format.own_columns(layout)
    columns = dataset.select_columns([name for name in layout.names if name in own]).with_format("arrow")
    for table in columns.iter(_ROWS):
        yield layout.read(Batch(table, _STEP))


def _recognized(dataset: Dataset) -> Layout:
    try:
        return recognize(dataset.column_names, _STEP)
    except KeyError as error:
        raise KeyError(f"{error.args[0]} Pairs that nobody has mined for are read by from_pairs.") from None


class _Passages:
    """The distinct passages of many rows, by id, in order of first appearance."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self._size, self._distinct = 0, 0

    def add(self, side: Side, rows: QueryRows) -> None:
        """Add the passages of one side.

        Raises:
            ValueError: One of them is empty.
        """
        texts = side.full_texts
        assert texts is not None  # formats of ids alone are refused
        if (blank := is_blank(texts)).true_count:
            at = int(np.flatnonzero(blank.to_numpy(zero_copy_only=False))[0])
            query = rows.queries[int(side.owners[at])].as_py()
            raise ValueError(
                f"{_STEP}: a passage of the query {_shown(query)} is empty. Take such passages out of the lists, or "
                f"filter such rows out."
            )
        titles = pa.repeat("", len(side)) if side.titles is None else side.titles
        columns = {"id": id_array(side), "title": titles, "text": side.texts}
        self._parts.append(pa.table({name: column.cast(pa.large_string()) for name, column in columns.items()}))
        self._size += len(side)
        # So that no more than twice the distinct ones are held.
        if self._size > 2 * self._distinct + _ROWS:
            self._keep_first()

    def _keep_first(self) -> None:
        table = pa.concat_tables(self._parts).combine_chunks()
        ids, titles, texts = (table[name].combine_chunks() for name in table.column_names)
        first, numbers = distinct_digests(digest_strings(ids.to_pylist()))
        content = digest_strings(
            pc.binary_join_element_wise(titles, texts, pa.scalar("\0", pa.large_string())).to_pylist()
        )
        other = np.flatnonzero((content != content[first][numbers]).any(axis=1))
        if len(other):
            at = int(other[0])
            one, two = (texts[int(place)].as_py() for place in (first[numbers[at]], at))
            raise ValueError(
                f"{_STEP}: two passages have the id {_shown(ids[at].as_py())}: {_shown(one)} and {_shown(two)}, "
                f"perhaps with another title. Give each an id of its own, or remove the ids: hashes of the texts take "
                f"their place."
            )
        self._parts = [table.take(pa.array(first))]
        self._size = self._distinct = len(first)

    def table(self) -> pa.Table:
        """Return the passages as `Corpus.from_dataset` takes them."""
        self._keep_first()
        (table,) = self._parts
        return table if pc.any(pc.invert(is_blank(table["title"].combine_chunks()))).as_py() else table.drop("title")


def _shown(text: str) -> str:
    shown = printable(repr(text))
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
