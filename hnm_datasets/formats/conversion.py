"""From any form of mined data to any other."""

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
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.batch import Batch
from hnm_datasets.columns import JUDGED_NEGATIVE_IDS, QUERY_ID, score_column
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.corpus.text import passage_texts
from hnm_datasets.formats.reading import (
    FLAGEMBEDDING,
    FORMS,
    LABELED_LISTS,
    LABELED_PAIRS,
    MINED,
    N_TUPLES,
    TEVATRON,
    TRIPLETS,
    Form,
    Rows,
    Side,
    read_rows,
    recognize,
)
from hnm_datasets.formats.writing import pool, score_name, write_rows
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.tables import KeyTable

logger = logging.getLogger(__name__)

_STEP = "convert"
#: How much of the dataset is read at a time.
_ROWS, _BYTES = 1_000, 16 << 20
_KEY_ROWS = 10_000


def convert(dataset: Dataset, to: str, corpus: Corpus | None = None) -> Dataset:
    """Convert mined data from whatever form it is in to another, with ids and scores where both forms have them.

    The form is recognised by the names of the columns. The rows of one query (of the same id, or the same text where
    there are no ids) become one query wherever they stand, with each of its positives and negatives once; queries and
    passages come in order of first appearance. Only to triplets each row is converted by itself, unless it is a
    labelled pair. Columns have the names that the shape steps give them. Other columns are kept, as they are in a
    query's first row.

    | `to` | rows | keeps |
    |---|---|---|
    | `"mined"` | one per query, passages by id | query ids, ids, scores |
    | `"triplets"` | one per positive and negative | texts, query ids, ids, scores |
    | `"n-tuples"` | one per positive, with all negatives | texts, query ids, ids, scores |
    | `"labeled-pairs"` | one per passage, positives first | texts, query ids, ids, scores |
    | `"labeled-lists"` | one per query, positives first | texts, query ids, ids, scores |
    | `"tevatron"` | one per query | titles apart from texts, query ids, ids; without ids hashes of the texts |
    | `"flagembedding"` | one per query | texts, query ids, ids, scores |

    All forms but `mined` have one place for scores, or none: the retriever's go there, or else a teacher's; in
    FlagEmbedding's form, where a student learns from them, a teacher's go first, and what is read from there is named
    `teacher`. Ranks, sources and judged negatives have a place in `mined` alone. Titles are joined to the texts but in
    Tevatron's form; given the corpus and ids, they come apart again. What is left out is logged as a warning. A query
    without a positive or a negative has no place in triplets, one without a positive none in n-tuples.

    The trainers of sentence-transformers take each column for a text: select those that are to be trained on, for
    example with `.select_columns(["anchor", "positive", "negative"])`.

    Args:
        dataset: Mined data in one of the forms. Columns: see `to`, and the names that sentence-transformers,
            Tevatron and FlagEmbedding give them.
        to: The name of the form. A dataset that is in it already is returned as it is.
        corpus: The passages. Needed from `mined`, for the texts, and to `mined`, for the ids: a passage is looked up by
            its id, or else by its text.

    Returns:
        The rows in the other form, written to the cache directory of `datasets` as by `Dataset.map`.

    Raises:
        KeyError: The dataset is in none of the forms, a column is missing, or the corpus lacks a passage.
        TypeError: The dataset is not a `Dataset`, the corpus not a `Corpus`, or a column holds something else than its
            form says.
        ValueError: Another form is asked for than there are, the corpus is missing, labels are a teacher's scores,
            queries differ in the number of negatives (to n-tuples), or another column has a name of the new form.

    Example:
        >>> triplets = Dataset.from_dict({
        ...     "anchor": ["what causes earthquakes?"] * 2,
        ...     "positive": ["Plates move."] * 2,
        ...     "negative": ["Bread rises.", "Waves roll."],
        ... })
        >>> convert(triplets, "flagembedding")[0]
        {'query': 'what causes earthquakes?', 'pos': ['Plates move.'], 'neg': ['Bread rises.', 'Waves roll.']}
    """
    checks.one_of(_STEP, "to", to, FORMS)
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"{_STEP} takes a datasets.Dataset, got {type(dataset).__name__}. Of a DatasetDict convert each split; "
            f"write an IterableDataset to Parquet first, with write_stream."
        )
    if corpus is not None:
        check_corpus(_STEP, corpus)
    form = recognize(dataset.column_names, _STEP)
    if form.name == to:
        return dataset
    if corpus is None and MINED in (form.name, to):
        what = "the texts of the passages" if form.name == MINED else "the ids of the passages"
        raise ValueError(
            f"{_STEP}: from {form.name!r} to {to!r} {what} are looked up in the corpus: convert(dataset, {to!r}, "
            f"corpus). Make one with Corpus.from_dataset or from_pairs."
        )
    return _Conversion(dataset, form, to, corpus).run()


class _Conversion:
    """What is passed to `map`: takes some queries, by their first rows, and answers with their rows in the new form.

    Attributes:
        firsts: The first row of each query, in order of appearance.
        source: The columns of the form, of all rows.
        order: The rows of the source, query by query. Shape (B,). None if each row is a query of its own.
        offsets: Where each query's rows begin and end in `order`.
        width: How many negatives there are per row of n-tuples.
        without_row: How many queries had no place in the new form.
    """

    def __init__(self, dataset: Dataset, form: Form, to: str, corpus: Corpus | None) -> None:
        self.form, self.to, self.corpus = form, to, corpus
        own = _own_columns(form)
        self.others = [name for name in form.names if name not in own]
        self.source = dataset.select_columns([name for name in form.names if name in own]).with_format("arrow")
        self.firsts, self.offsets = dataset, np.empty(0, dtype=np.int64)
        self.order: NDArray[np.int64] | None = None
        self.width: int | None = None
        self.without_row = 0
        if to != TRIPLETS or form.name == LABELED_PAIRS:
            self._group()

    def __getstate__(self) -> dict[str, Any]:
        # The rows are those of the dataset that is mapped, which has a fingerprint of its own.
        return {"version": 1, "form": self.form, "to": self.to, "corpus": self.corpus, "width": self.width}

    def _group(self) -> None:
        """Find the rows of each query."""
        if not len(self.source):
            return
        name = self.form.query_id or self.form.query
        keys = self.source.select_columns([name])
        digests = [digest_strings(Batch(part, _STEP).strings(name).to_pylist()) for part in keys.iter(_KEY_ROWS)]
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
        head = self.firsts.with_format("arrow")[:1]
        rows = self._rows(head, list(range(len(head))))
        probe = self._table(rows, head)
        self.without_row = 0
        if self.to == N_TUPLES:
            self.width = int(rows.negatives.lengths[0]) if len(head) else 1
        self._report_left_out(rows)
        made = [name for name in probe.column_names if name not in self.others]
        features = Features.from_arrow_schema(pa.schema([(name, probe.schema.field(name).type) for name in made]))
        features |= {name: self.firsts.features[name] for name in self.others}
        features = Features(features)
        if not len(head):
            return Dataset.from_dict({name: [] for name in features}, features=features)
        result = self.firsts.with_format("arrow").map(
            self,
            with_indices=True,
            batched=True,
            batch_size=self._batch_size(),
            remove_columns=self.firsts.column_names,
            features=features,
            desc=f"To {self.to}",
        )
        if self.without_row:
            logger.warning(
                "%s: %d of %d queries or rows have no place in %s: they lack a positive or a negative.",
                _STEP,
                self.without_row,
                len(self.firsts),
                self.to,
            )
        return result.with_format(None)

    def _batch_size(self) -> int:
        """Say how many queries take a bounded part of memory, with texts as long as the mean."""
        table = self.firsts.data
        size = table.nbytes / len(table) * len(self.source) / len(self.firsts)
        if self.form.name == MINED:
            # Each id, of some 16 bytes, becomes a text.
            texts = _given(self.corpus).columns["text"]
            size *= 1 + texts.nbytes / len(texts) / 16
        return int(np.clip(_BYTES / max(size, 1), 1, _ROWS))

    def __call__(self, firsts: pa.Table, numbers: list[int]) -> pa.Table:
        """Convert some queries.

        Args:
            firsts: The first row of each.
            numbers: Their places among all queries, one after another.
        """
        return self._table(self._rows(firsts, numbers), firsts)

    def _table(self, rows: Rows, firsts: pa.Table) -> pa.Table:
        owners, columns = write_rows(self.to, rows, self.width)
        taken = [name for name in columns if name in self.others]
        if taken:
            raise ValueError(
                f"{_STEP}: the form {self.to!r} has the columns {list(columns)}, and the dataset has others of "
                f"the names {taken}. Rename or remove them first."
            )
        self.without_row += len(firsts) - len(np.unique(owners))
        kept = firsts.select(self.others)
        if not np.array_equal(owners, np.arange(len(firsts))):
            kept = kept.take(pa.array(owners))
        return pa.table(columns | {name: kept[name] for name in self.others})

    def _rows(self, firsts: pa.Table, numbers: list[int]) -> Rows:
        """Read some queries with all of their passages, texts and ids as the new form needs them."""
        if self.order is None:
            batch, groups = Batch(firsts, _STEP), np.arange(len(firsts))
        else:
            offsets = self.offsets[numbers[0] : numbers[-1] + 2]
            batch = Batch(self._slice(self.order[offsets[0] : offsets[-1]]), _STEP)
            groups = np.repeat(np.arange(len(firsts)), np.diff(offsets))
        rows = read_rows(self.form, batch)
        starts = pa.array(np.searchsorted(groups, np.arange(len(firsts))))
        queries = rows.queries.take(starts)
        query_ids = None if rows.query_ids is None else rows.query_ids.take(starts)
        sides = []
        for part, side in (("positive", rows.positives), ("negative", rows.negatives)):
            pooled = pool(side, groups, len(firsts))
            if self.to == MINED:
                # What the corpus has once may have been there in two spellings.
                pooled = self._with_ids(part, pooled, queries)
                pooled = pool(pooled, np.arange(len(firsts)), len(firsts))
            sides.append(self._with_texts(part, pooled, queries))
        return Rows(queries, query_ids, *sides)

    def _slice(self, places: NDArray[np.int64]) -> pa.Table:
        if (np.diff(places) == 1).all():
            return self.source[int(places[0]) : int(places[-1]) + 1]
        return self.source[places]

    # ---- the corpus ----------------------------------------------------------------------------------------------

    def _with_ids(self, part: str, side: Side, queries: pa.Array) -> Side:
        """Name passages by the corpus's ids."""
        corpus = _given(self.corpus)
        texts = side.full_texts
        assert texts is not None  # only `mined` has none
        found = np.full(len(side), -1, dtype=np.int64) if side.ids is None else corpus.find(side.ids)
        unknown = np.flatnonzero(found < 0)
        found[unknown] = corpus.find_texts(texts.take(pa.array(unknown)).to_pylist())
        if (found < 0).any():
            place = int(np.flatnonzero(found < 0)[0])
            query, named = queries[side.owners[place]], ""
            if side.ids is not None:
                named = f" with the id {side.ids[place].as_py()!r}"
            raise KeyError(
                f"{_STEP}: the {part} {_shown(texts[place])}{named} of the query {_shown(query)} is not among the "
                f"{len(corpus)} passages of the corpus. Make a corpus of all passages, with from_pairs(..., "
                f"passages=...) or Corpus.from_dataset."
            )
        return replace(side, ids=corpus.ids(found), texts=None, titles=None)

    def _with_texts(self, part: str, side: Side, queries: pa.Array) -> Side:
        """Look texts up where the form has none, and titles where the new one has them."""
        if self.form.name == MINED:
            lists = _given(self.corpus).rows_of_lists(
                f"{part}_ids",
                Ragged(side.offsets, side.ids),
                _STEP,
                lambda row: f"the query {_shown(queries[row])}",
            )
            titles, texts = _titles_and_texts(_given(self.corpus), lists.values)
            return replace(side, titles=titles, texts=texts)
        if self.to != TEVATRON or self.corpus is None or side.ids is None or side.texts is None:
            return side
        found = self.corpus.find(side.ids)
        titles, texts = _titles_and_texts(self.corpus, np.maximum(found, 0))
        if titles is None:
            return side
        own = side.texts.cast(pa.large_string())
        # An id may mean something else in another corpus.
        same = pc.and_(pa.array(found >= 0), pc.equal(passage_texts(titles, texts), own))
        return replace(side, titles=pc.if_else(same, titles, ""), texts=pc.if_else(same, texts, own))

    # ---- what is left out ----------------------------------------------------------------------------------------

    def _report_left_out(self, rows: Rows) -> None:
        form = self.form
        kept = {form.query, form.query_id, form.label, *form.positives, *form.negatives}
        if self.to not in (LABELED_PAIRS, LABELED_LISTS) or all(
            side.ids is not None for side in (rows.positives, rows.negatives)
        ):
            # One column of ids cannot hold those of one side alone.
            kept |= _id_columns(form)
        by = score_name(self.to, rows)
        if by is not None:
            kept |= {score_column(by, part) for part in ("positive", "negative")} if form.name == MINED else set()
            kept |= _score_columns(form)
        left_out = [name for name in self.source.column_names if name not in kept]
        if form.name == TEVATRON:
            for name in (*form.positives, *form.negatives):
                fields = getattr(self.source.features[name], "feature", None)
                if isinstance(fields, dict):
                    left_out += [f"{name}.{part}" for part in fields if part not in ("docid", "title", "text")]
        if left_out:
            logger.warning("%s: the form %r has no place for the columns %s, left out.", _STEP, self.to, left_out)


def _given(corpus: Corpus | None) -> Corpus:
    assert corpus is not None  # `convert` asks for it
    return corpus


def _titles_and_texts(corpus: Corpus, rows: NDArray[np.int64]) -> tuple[pa.Array | None, pa.Array]:
    columns, at = corpus.columns, pa.array(rows)
    return columns["title"].take(at) if "title" in columns else None, columns["text"].take(at)


def _own_columns(form: Form) -> set[str]:
    """Name the columns that mean something in a form; all others are the user's."""
    own = {form.query, form.query_id, form.label, *form.positives, *form.negatives}
    own |= _id_columns(form) | _score_columns(form)
    if form.name == MINED:
        own |= {name for name in form.names if name.startswith(("positive_", "negative_"))}
        own |= {JUDGED_NEGATIVE_IDS, "promoted_ids"}
    elif form.name not in (TEVATRON, FLAGEMBEDDING):
        # What the trainers of sentence-transformers take for labels.
        own |= {QUERY_ID, "anchor_id", "label", "labels", "score", "scores"}
    return {name for name in own if name is not None}


def _id_columns(form: Form) -> set[str]:
    return {f"{stem}_id{'s' if form.name == LABELED_LISTS else ''}" for stem in _stems(form)}


def _score_columns(form: Form) -> set[str]:
    """Name the columns of scores of a form that has one place for them."""
    if form.name == MINED:
        return set()
    plural = "s" if form.name in (LABELED_LISTS, FLAGEMBEDDING) else ""
    single = {f"{stem}_score{plural}" for stem in _stems(form)}
    return single if single & set(form.names) or form.name not in (TRIPLETS, N_TUPLES) else {"scores"}


def _stems(form: Form) -> tuple[str, ...]:
    if form.name in (LABELED_PAIRS, LABELED_LISTS):
        return ("passage",)
    if form.name in (TRIPLETS, N_TUPLES):
        return ("positive", *form.negatives)
    return ("pos", "neg") if form.name == FLAGEMBEDDING else ()


def _shown(text: pa.Scalar) -> str:
    shown = repr(text.as_py())
    return shown if len(shown) <= 80 else shown[:77] + "..."
