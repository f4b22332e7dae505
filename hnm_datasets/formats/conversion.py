"""Convert mined data between formats."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.arrays.ragged import offsets_of
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS, QUERY
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.corpus.text import passage_texts
from hnm_datasets.formats import msmarco
from hnm_datasets.formats.base import Format, Layout, QueryRows, Side
from hnm_datasets.formats.fields import id_array, text_array
from hnm_datasets.formats.mined import MINED
from hnm_datasets.formats.registry import FORMATS, recognize
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.runtime.bars import iter_with_bar
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.tables import KeyTable

logger = logging.getLogger(__name__)

_STEP = "convert"
#: Maximum number of rows and bytes to read at a time.
_ROWS, _BYTES = 1_000, 16 << 20
_KEY_ROWS = 10_000
#: Approximate bytes of an id.
_ID_SIZE = 16


def convert(dataset: Rows, to: str, corpus: Corpus | None = None) -> Dataset:
    """Convert mined data from one format to another, with ids and scores if both formats have them.

    The format of the dataset is recognized by its column names. Rows with the same query id, or the same query text if
    there are no ids, are merged into one query, with each of its positives and negatives once. Queries and passages
    keep the order of first appearance. There is one exception: with `to="triplets"`, each row is converted separately,
    except for labeled pairs. The new columns have the same names as those of the shape steps. Other columns are kept,
    with the values of the query's first row.

    | `to` | rows | keeps |
    |---|---|---|
    | `"mined"` | one per query, passages by id | query ids, ids, scores |
    | `"triplets"` | one per positive and negative | texts, query ids, ids, scores |
    | `"n-tuples"` | one per positive, with all negatives | texts, query ids, ids, scores |
    | `"labeled-pairs"` | one per passage, positives first | texts, query ids, ids, scores |
    | `"labeled-lists"` | one per query, positives first | texts, query ids, ids, scores |
    | `"tevatron"` | one per query | titles, texts, query ids, ids; hashes of the texts if there are no ids |
    | `"flagembedding"` | one per query | texts, query ids, ids, scores |
    | `"dpr"` | one per query | titles, texts, query ids, ids, scores |

    Only `mined` stores several scorers, ranks, sources and judged negatives. `tevatron` stores no scores. The other
    formats store one scorer: the retriever, or else a teacher. `flagembedding` prefers a teacher, because students are
    trained on its scores, and its scores are read as `teacher`. Only `tevatron` and `dpr` store titles separately; the
    other formats join them to the texts. With a corpus and ids, joined titles are separated again. A warning names the
    columns that the new format cannot store. A query without positives or without negatives has no triplets, and a
    query without positives has no n-tuples; a warning counts them.

    Two more layouts can be read: triplets with lists of texts in `positive` or `negative`, and rows like those of
    `sentence-transformers/msmarco-hard-negatives` (`qid`, `pos`, and `neg` by system). The latter have no query texts:
    they become `"mined"` without the column `query`, which you add by `query_id`.

    The trainers of sentence-transformers read every column as a text. Select the columns to train on, for example with
    `.select_columns(["anchor", "positive", "negative"])`.

    Args:
        dataset: Mined data in one of the formats: a `Dataset`, a data frame, an Arrow table, a list of dicts or a dict
            of lists. The columns have the names above, or those of sentence-transformers, Tevatron, FlagEmbedding and
            DPR.
        to: The name of the new format. A dataset that already has this format is checked and returned unchanged, unless
            its trainers cannot read it, such as triplets with lists of texts, or with null for a missing passage.
        corpus: The passages. Required to convert from `mined`, to look up texts, and to `mined`, to look up ids. A
            passage is found by its id, or else by its text.

    Returns:
        The rows in the new format, written to the cache directory of `datasets` as by `Dataset.map`.

    Raises:
        KeyError: The columns match no format, a column is missing, or a passage is not in the corpus.
        TypeError: An argument or a column has the wrong type.
        ValueError: `to` is not a format, the corpus is missing, labels are a teacher's scores, queries have different
            numbers of negatives (to n-tuples), or another column has the name of a column of the new format.

    Example:
        >>> triplets = Dataset.from_dict({
        ...     "anchor": ["what causes earthquakes?"] * 2,
        ...     "positive": ["Plates move."] * 2,
        ...     "negative": ["Bread rises.", "Waves roll."],
        ... })
        >>> convert(triplets, "flagembedding")[0]
        {'query': 'what causes earthquakes?', 'pos': ['Plates move.'], 'neg': ['Bread rises.', 'Waves roll.']}
    """
    checks.one_of(_STEP, "to", to, list(FORMATS))
    dataset = dataset_of(dataset, _STEP, "dataset")
    if corpus is not None:
        check_corpus(_STEP, corpus)
    if msmarco.is_by_system(dataset):
        return _from_systems(dataset, to, corpus)
    layout = recognize(dataset.column_names, _STEP)
    source, target = layout.format, FORMATS[to]
    if source is target and _fits(dataset, layout, corpus):
        return dataset
    if corpus is None and (source.needs_corpus or target.needs_corpus):
        what = "texts" if source.needs_corpus else "ids"
        raise ValueError(
            f"{_STEP}: from {source.name!r} to {to!r} a corpus is needed to look up the {what} of the passages: "
            f"convert(dataset, {to!r}, corpus). Make one with Corpus.from_dataset or from_pairs."
        )
    return _Conversion(dataset, layout, target, corpus).run()


def _from_systems(dataset: Dataset, to: str, corpus: Corpus | None) -> Dataset:
    """Convert rows of ids with the negatives of each system."""
    if to != MINED.name and QUERY not in dataset.column_names:
        raise ValueError(
            f"{_STEP}: rows with 'qid', 'pos' and 'neg' have no query texts. Use rows = convert(dataset, 'mined'), add "
            f"the texts as the column 'query', and use convert(rows, {to!r}, corpus)."
        )
    rows = msmarco.mined_rows(dataset, _STEP)
    if corpus is not None:
        for table in iter_with_bar(rows.with_format("arrow"), _KEY_ROWS, "Checking ids"):
            _check_ids(Batch(table, _STEP), corpus)
    return rows if to == MINED.name else convert(rows, to, corpus)


def _check_ids(batch: Batch, corpus: Corpus) -> None:
    for name in (POSITIVE_IDS, NEGATIVE_IDS):
        batch.rows_in(name, corpus)


def _fits(dataset: Dataset, layout: Layout, corpus: Corpus | None) -> bool:
    """Read all rows, which raises an error for invalid rows; return whether they can stay unchanged."""
    fits = True
    for table in iter_with_bar(dataset.with_format("arrow"), _ROWS, "Checking rows"):
        batch = Batch(table, _STEP)
        rows = layout.read(batch)
        if layout.format.needs_corpus and corpus is not None:
            _check_ids(batch, corpus)
        fits = fits and layout.format.fits(layout, batch, rows)
    return fits


def pool(side: Side, groups: NDArray[np.int64], count: int) -> Side:
    """Merge the passages of the rows of each query, each passage once, in order of first appearance.

    Args:
        side: The passages of B rows.
        groups: The query of each row, ascending. Shape (B,).
        count: The number of queries.
    """
    owners = groups[side.owners]
    coded = (text_array(side) if side.ids is None else side.ids).dictionary_encode()
    pairs = owners * max(len(coded.dictionary), 1) + coded.indices.to_numpy()
    first = np.sort(np.unique(pairs, return_index=True)[1])
    offsets = offsets_of(np.bincount(owners[first], minlength=count))
    if len(first) == len(side):
        return replace(side, offsets=offsets, ranks=None, sources=None)
    columns = (side.ids, side.texts, side.titles)
    ids, texts, titles = (None if column is None else column.take(pa.array(first)) for column in columns)
    return Side(offsets, ids, texts, titles, {name: values[first] for name, values in side.scores.items()})


class _Conversion:
    """The function for `map`: converts queries, given by their first rows, to rows of the new format.

    Attributes:
        firsts: The first row of each query, in order of appearance.
        source: The columns of the old format, of all rows.
        order: The row numbers in `source`, grouped by query. Shape (B,). None if each row is a query of its own.
        offsets: The offsets of each query's rows in `order`.
        width: The number of negatives per row, if the new format has a column for each.
        without_row: The number of queries without a row in the new format.
    """

    def __init__(self, dataset: Dataset, layout: Layout, target: Format, corpus: Corpus | None) -> None:
        self.layout, self.target, self.corpus = layout, target, corpus
        own = layout.format.own_columns(layout)
        self.others = [name for name in layout.names if name not in own]
        self.source = dataset.select_columns([name for name in layout.names if name in own]).with_format("arrow")
        self.firsts, self.offsets = dataset, np.empty(0, dtype=np.int64)
        self.order: NDArray[np.int64] | None = None
        self.width: int | None = None
        self.without_row = 0
        if target.merges_rows or layout.format.one_passage:
            self._group()

    def __getstate__(self) -> dict[str, Any]:
        # The state decides the fingerprint of the result, together with the fingerprint of the mapped dataset.
        names, to = (self.layout.format.name, *self.layout.names), self.target.name
        return {"version": 2, "from": names, "to": to, "corpus": self.corpus, "width": self.width}

    def _group(self) -> None:
        """Find the rows of each query."""
        if not len(self.source):
            return
        name = self.layout.query_id or self.layout.query
        keys = self.source.select_columns([name])
        read = Batch.ids if self.layout.query_id else Batch.strings
        parts = iter_with_bar(keys, _KEY_ROWS, "Grouping rows by query")
        digests = [digest_strings(read(Batch(part, _STEP), name).to_pylist()) for part in parts]
        table = np.concatenate(digests)
        first = KeyTable.from_digests(table).find(table)
        starts = np.flatnonzero(first == np.arange(len(first)))
        if len(starts) == len(first):
            return
        self.order = np.argsort(first, kind="stable")
        self.offsets = np.append(np.searchsorted(first[self.order], starts), len(first))
        self.firsts = self.firsts.select(starts)

    def run(self) -> Dataset:
        """Convert everything."""
        # The first query determines the columns of the result and their types.
        head = self.firsts.with_format("arrow")[:1]
        rows = self._rows(head, list(range(len(head))))
        probe = self._table(rows, head)
        self.without_row = 0
        self.width = self.target.width(rows)
        self._warn_of_lost_columns(rows)
        features = self._features(probe.schema)
        if not len(head):
            return Dataset.from_dict({name: [] for name in features}, features=features)
        result = self.firsts.with_format("arrow").map(
            self,
            with_indices=True,
            batched=True,
            batch_size=self._batch_size(),
            remove_columns=self.firsts.column_names,
            features=features,
            desc=f"To {self.target.name}",
        )
        if self.without_row:
            logger.warning(
                "%s: %d of %d queries or rows have no row in %r, because they have no positive or no negative.",
                _STEP,
                self.without_row,
                len(self.firsts),
                self.target.name,
            )
        return result.with_format(None)

    def _features(self, schema: pa.Schema) -> Features:
        """Return the features of the result: new columns by their types, other columns unchanged."""
        made = [name for name in schema.names if name not in self.others]
        features = Features.from_arrow_schema(pa.schema([(name, schema.field(name).type) for name in made]))
        return Features(features | {name: self.firsts.features[name] for name in self.others})

    def _batch_size(self) -> int:
        """Return the number of queries per batch for bounded memory, based on the mean size of a query."""
        table = self.firsts.data
        size = table.nbytes / len(table) * len(self.source) / len(self.firsts)
        if self.layout.format.needs_corpus:
            # Each id becomes a text.
            texts = _given(self.corpus).columns["text"]
            size *= 1 + texts.nbytes / len(texts) / _ID_SIZE
        return int(np.clip(_BYTES / max(size, 1), 1, _ROWS))

    def __call__(self, firsts: pa.Table, numbers: list[int]) -> pa.Table:
        """Convert some queries.

        Args:
            firsts: The first row of each query.
            numbers: The positions of these queries among all, consecutive.
        """
        return self._table(self._rows(firsts, numbers), firsts)

    def _table(self, rows: QueryRows, firsts: pa.Table) -> pa.Table:
        owners, columns = self.target.write(rows, self.width)
        taken = [name for name in columns if name in self.others]
        if taken:
            raise ValueError(
                f"{_STEP}: the format {self.target.name!r} has the columns {list(columns)}, but the dataset has other "
                f"columns with the names {taken}. Rename or remove them first."
            )
        self.without_row += len(firsts) - len(np.unique(owners))
        kept = firsts.select(self.others)
        if not np.array_equal(owners, np.arange(len(firsts))):
            kept = kept.take(pa.array(owners))
        return pa.table(columns | {name: kept[name] for name in self.others})

    def _rows(self, firsts: pa.Table, numbers: list[int]) -> QueryRows:
        """Read some queries with all their passages, and with the texts and ids that the new format needs."""
        if self.order is None:
            batch, groups = Batch(firsts, _STEP), np.arange(len(firsts))
        else:
            offsets = self.offsets[numbers[0] : numbers[-1] + 2]
            batch = Batch(self._slice(self.order[offsets[0] : offsets[-1]]), _STEP)
            groups = np.repeat(np.arange(len(firsts)), np.diff(offsets))
        rows = self.layout.read(batch)
        starts = pa.array(np.searchsorted(groups, np.arange(len(firsts))))
        queries = rows.queries.take(starts)
        query_ids = None if rows.query_ids is None else rows.query_ids.take(starts)
        sides = []
        for part, side in (("positive", rows.positives), ("negative", rows.negatives)):
            pooled = pool(side, groups, len(firsts))
            if self.target.needs_corpus:
                # Two spellings of a text may be the same passage in the corpus.
                pooled = self._with_ids(part, pooled, queries)
                pooled = pool(pooled, np.arange(len(firsts)), len(firsts))
            sides.append(self._with_texts(part, pooled, queries))
        return QueryRows(queries, query_ids, *sides)

    def _slice(self, positions: NDArray[np.int64]) -> pa.Table:
        if (np.diff(positions) == 1).all():
            return self.source[int(positions[0]) : int(positions[-1]) + 1]
        return self.source[positions]

    # ---- the corpus ----------------------------------------------------------------------------------------------

    def _with_ids(self, part: str, side: Side, queries: pa.Array) -> Side:
        """Return the passages with the ids of the corpus."""
        corpus, texts = _given(self.corpus), text_array(side)
        # Passages without ids are first looked up by the hash of `from_pairs`, which distinguishes two spellings.
        found = corpus.find(id_array(side))
        unknown = np.flatnonzero(found < 0)
        found[unknown] = corpus.find_texts(texts.take(pa.array(unknown)).to_pylist())
        if (found < 0).any():
            at = int(np.flatnonzero(found < 0)[0])
            named = "" if side.ids is None else f" with the id {side.ids[at].as_py()!r}"
            raise KeyError(
                f"{_STEP}: the {part} {_shown(texts[at])}{named} of the query {_shown(queries[side.owners[at]])} is "
                f"not among the {len(corpus)} passages of the corpus. Make a corpus of all passages, with "
                f"from_pairs(..., passages=...) or Corpus.from_dataset."
            )
        return replace(side, ids=corpus.ids(found), texts=None, titles=None)

    def _with_texts(self, part: str, side: Side, queries: pa.Array) -> Side:
        """Look up texts if the old format has none, and titles if the new format stores them."""
        if self.layout.format.needs_corpus:
            name = f"{part}_ids"
            lists = pa.table({QUERY: queries, name: list_array(side.offsets, side.ids)})
            found = Batch(lists, _STEP).rows_in(name, _given(self.corpus)).values
            titles, texts = _titles_and_texts(_given(self.corpus), found)
            return replace(side, titles=titles, texts=texts)
        if not self.target.keeps_titles or self.corpus is None or side.ids is None or side.texts is None:
            return side
        if side.titles is not None:
            # Already separate.
            return side
        found = self.corpus.find(side.ids)
        titles, texts = _titles_and_texts(self.corpus, np.maximum(found, 0))
        if titles is None:
            return side
        own = side.texts.cast(pa.large_string())
        # The same id may be another passage in this corpus.
        same = pc.and_(pa.array(found >= 0), pc.equal(passage_texts(titles, texts), own))
        return replace(side, titles=pc.if_else(same, titles, ""), texts=pc.if_else(same, texts, own))

    # ---- columns that get lost -----------------------------------------------------------------------------------

    def _warn_of_lost_columns(self, rows: QueryRows) -> None:
        layout, source = self.layout, self.layout.format
        kept = {layout.query, layout.query_id, layout.label, *layout.positives, *layout.negatives}
        sides = (rows.positives, rows.negatives)
        # A labeled format stores ids only if both sides have them.
        if not self.target.labeled or all(side.ids is not None for side in sides):
            kept |= source.id_columns(layout)
        by = self.target.written_scorer(rows)
        if by is not None:
            kept |= source.score_columns(layout, by)
        lost = [name for name in self.source.column_names if name not in kept]
        lost += source.unread_fields(layout, self.source.features)
        if lost:
            logger.warning("%s: the format %r cannot store the columns %s; dropped.", _STEP, self.target.name, lost)


def _given(corpus: Corpus | None) -> Corpus:
    assert corpus is not None  # `convert` has checked it
    return corpus


def _titles_and_texts(corpus: Corpus, rows: NDArray[np.int64]) -> tuple[pa.Array | None, pa.Array]:
    columns, at = corpus.columns, pa.array(rows)
    return columns["title"].take(at) if "title" in columns else None, columns["text"].take(at)


def _shown(text: pa.Scalar) -> str:
    shown = repr(text.as_py())
    return shown if len(shown) <= 80 else shown[:77] + "..."
