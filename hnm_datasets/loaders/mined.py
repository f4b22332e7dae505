"""Loading data mined by other tools as a corpus and mined rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hnm_datasets.batch import Batch
from hnm_datasets.corpus.passages import Corpus, corpus_of
from hnm_datasets.corpus.source import Source, name_of
from hnm_datasets.corpus.text import is_blank
from hnm_datasets.formats import msmarco
from hnm_datasets.formats.base import QueryRows, Side
from hnm_datasets.formats.conversion import convert
from hnm_datasets.formats.fields import id_array
from hnm_datasets.formats.mined import MINED
from hnm_datasets.formats.registry import recognize
from hnm_datasets.loaders.pooling import pool_positives
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.runtime.bars import iter_with_bar
from hnm_datasets.storage.digests import digest_strings, distinct_digests
from hnm_datasets.terminal import printable

_STEP = "from_mined"
_ROWS = 10_000


def from_mined(dataset: Rows) -> tuple[Corpus, Dataset]:
    """Convert mined data into a corpus and mined rows, so that you can apply teachers and filters.

    The corpus contains only the passages of the dataset, so mining more negatives requires a larger corpus. To convert
    back, use `convert(rows, "triplets", corpus)`, or another format.

    Args:
        dataset: Mined data with texts, in a format that `convert` reads. The format is detected from the columns:
            triplets, n-tuples, labeled pairs or lists, Tevatron's (`query`, `positive_passages`, `negative_passages`),
            FlagEmbedding's (`query`, `pos`, `neg`) or DPR's (`question`, `positive_ctxs`, `hard_negative_ctxs`). A
            `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists. Load JSON files with
            `load_dataset`.

    Returns:
        The corpus and the rows.

        The corpus has each distinct passage, in order of first appearance, with its id in the dataset or a hash of its
        text, and with its title if the format has a separate title.

        The rows, one per query (with the same id, or the same text if there are no ids), have `query`, `positive_ids`
        and `negative_ids`; `query_id`, if it exists; and the scores of the format as `positive_scores` and
        `negative_scores`, except that FlagEmbedding's scores, which are from a teacher, become
        `positive_teacher_scores` and `negative_teacher_scores`. Missing scores are null. Other columns are those of the
        first row of a query. If several rows have the same question, there is also `known_positive_ids`, see
        `pool_positives`. There are no ranks.

    Raises:
        KeyError: The format is not recognized, or a column is missing.
        TypeError: The dataset or a column has an unsupported type.
        ValueError: The dataset is empty or contains only ids of passages, a passage is empty, two texts have the same
            id, or labels are teacher scores.

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
    corpus = corpus_of(Source(passages.table()), _STEP, name_of(dataset))
    return corpus, pool_positives(convert(dataset, MINED.name, corpus))


def _read(dataset: Dataset) -> Iterator[QueryRows]:
    """Read the rows in chunks."""
    if not len(dataset):
        raise ValueError(f"{_STEP}: the dataset is empty: it needs at least one row.")
    layout = None if msmarco.is_by_system(dataset) else recognize(dataset.column_names, _STEP)
    if layout is None or layout.format.needs_corpus:
        raise ValueError(
            f"{_STEP}: the rows contain ids of passages, but not their texts. Create the corpus with load_beir or "
            f"Corpus.from_dataset, then call rows = convert(dataset, 'mined', corpus)."
        )
    used = layout.format.own_columns(layout)
    columns = dataset.select_columns([name for name in layout.names if name in used]).with_format("arrow")
    for table in iter_with_bar(columns, _ROWS, "Reading mined rows"):
        yield layout.read(Batch(table, _STEP))


class _Passages:
    """The distinct passages of many rows, by id, in order of first appearance."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self._size, self._distinct = 0, 0

    def add(self, side: Side, rows: QueryRows) -> None:
        """Add the passages of one side.

        Raises:
            ValueError: A passage is empty.
        """
        texts = side.full_texts
        assert texts is not None  # formats without texts are refused
        if (blank := is_blank(texts)).true_count:
            at = int(np.flatnonzero(blank.to_numpy(zero_copy_only=False))[0])
            query = rows.queries[int(side.owners[at])].as_py()
            raise ValueError(
                f"{_STEP}: a passage of the query {_shown(query)} is empty. Remove such passages from the lists, or "
                f"remove such rows."
            )
        titles = pa.repeat("", len(side)) if side.titles is None else side.titles
        columns = {"id": id_array(side), "title": titles, "text": side.texts}
        self._parts.append(pa.table({name: column.cast(pa.large_string()) for name, column in columns.items()}))
        self._size += len(side)
        # Deduplicate regularly, so that memory holds at most twice the distinct passages.
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
            one, two = (texts[int(row)].as_py() for row in (first[numbers[at]], at))
            raise ValueError(
                f"{_STEP}: two passages with different texts or titles have the id {_shown(ids[at].as_py())}: "
                f"{_shown(one)} and {_shown(two)}. Change one of the ids, or remove all ids to use hashes of the texts."
            )
        self._parts = [table.take(pa.array(first))]
        self._size = self._distinct = len(first)

    def table(self) -> pa.Table:
        """Return the passages in the form of `Corpus.from_dataset`."""
        self._keep_first()
        (table,) = self._parts
        return table if pc.any(pc.invert(is_blank(table["title"].combine_chunks()))).as_py() else table.drop("title")


def _shown(text: str) -> str:
    shown = printable(repr(text))
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
