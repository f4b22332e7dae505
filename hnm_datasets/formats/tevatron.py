"""`tevatron`: one row per query, each passage a struct of id, title and text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features

from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.batch import Batch
from hnm_datasets.columns import QUERY_ID
from hnm_datasets.corpus.text import passage_texts
from hnm_datasets.formats.base import Format, Layout, QueryRows, Side, Written
from hnm_datasets.formats.fields import id_array, query_columns, text_ids
from hnm_datasets.formats.names import fixed_layout

_POSITIVES, _NEGATIVES = "positive_passages", "negative_passages"
#: The id, the title and the text of a passage.
_FIELDS = ("docid", "title", "text")


class Tevatron(Format):
    """Rows of passages with ids and titles; the format has no scores."""

    name: ClassVar[str] = "tevatron"
    columns: ClassVar[str] = "query, positive_passages, negative_passages"
    title: ClassVar[str] = "Tevatron"
    precedence: ClassVar[int] = 10
    keeps_titles: ClassVar[bool] = True

    def recognize(self, names: tuple[str, ...], owner: str) -> Layout | None:
        """Find one of the columns of passages."""
        if _POSITIVES not in names and _NEGATIVES not in names:
            return None
        return fixed_layout(self, names, owner, _POSITIVES, _NEGATIVES)

    def read(self, layout: Layout, batch: Batch) -> tuple[Side, Side]:
        """Read ids, titles and texts."""
        return _read_passages(batch, _POSITIVES), _read_passages(batch, _NEGATIVES)

    def write(self, rows: QueryRows, width: int | None) -> Written:
        """Write passages with ids; where there are none, hashes of the texts."""
        if rows.query_ids is None:
            rows = replace(rows, query_ids=text_ids(rows.queries))
        columns = query_columns(rows, QUERY_ID)
        for name, side in ((_POSITIVES, rows.positives), (_NEGATIVES, rows.negatives)):
            titles = pa.repeat("", len(side)) if side.titles is None else side.titles.cast(pa.string())
            assert side.texts is not None  # `convert` looks them up
            passages = pa.StructArray.from_arrays([id_array(side), titles, side.texts.cast(pa.string())], _FIELDS)
            columns[name] = list_array(side.offsets, passages)
        return Written(np.arange(len(rows.queries)), columns)

    def unread_fields(self, layout: Layout, features: Features) -> list[str]:
        """Return the other fields of passages."""
        inner = {name: getattr(features[name], "feature", None) for name in (_POSITIVES, _NEGATIVES)}
        return [
            f"{name}.{field}"
            for name, fields in inner.items()
            if isinstance(fields, dict)
            for field in fields
            if field not in _FIELDS
        ]

    def written_scorer(self, rows: QueryRows) -> str | None:
        """Return None: there is no room for scores."""
        return None

    def _passages(self, value: Any) -> list[str]:
        return [f"{passage.get('title') or ''} {passage['text']}" for passage in value or ()]


def _read_passages(batch: Batch, column: str) -> Side:
    passages = batch.lists(column)
    names = {field.name for field in passages.values.type} if pa.types.is_struct(passages.values.type) else set()
    if "text" not in names and len(passages.values):
        raise TypeError(
            f"{batch.step}: the column {column!r} must hold lists of passages with 'docid', 'title' and 'text', got "
            f"{passages.values.type}."
        )
    if passages.values.null_count:
        row = int(passages.owners[np.flatnonzero(passages.values.is_null().to_numpy(zero_copy_only=False))[0]])
        raise ValueError(f"{batch.step}: the column {column!r} holds a null in {batch.describe(row)}.")

    def field(name: str) -> pa.Array | None:
        return pc.fill_null(passages.values.field(name).cast(pa.string()), "") if name in names else None

    texts = field("text") if "text" in names else pa.array([], pa.string())
    ids, titles = field("docid"), field("title")
    nameless = pc.equal(ids, "") if ids is not None else None
    if nameless is not None and nameless.true_count:
        # Without this all passages that have no id would be one and the same.
        full = passage_texts(titles, texts)
        ids = pc.replace_with_mask(ids, nameless, text_ids(full.filter(nameless)))
    return Side(passages.offsets, ids=ids, texts=texts, titles=titles)


TEVATRON = Tevatron()
