"""`tevatron`: one row per query, each passage a struct of id, title and text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from datasets import Features

from hnm_datasets.arrays.arrow import is_string, list_array
from hnm_datasets.batch import Batch
from hnm_datasets.columns import QUERY_ID
from hnm_datasets.formats.base import Format, Layout, QueryRows, Side, Written
from hnm_datasets.formats.fields import id_array, query_columns, text_ids
from hnm_datasets.formats.names import fixed_layout
from hnm_datasets.formats.passages import other_fields, read_passages

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
        return read_passages(batch, _POSITIVES, ids=("docid",)), read_passages(batch, _NEGATIVES, ids=("docid",))

    def write(self, rows: QueryRows, width: int | None) -> Written:
        """Write passages with ids, or with hashes of the texts if there are no ids."""
        if rows.query_ids is None:
            rows = replace(rows, query_ids=text_ids(rows.queries))
        columns = query_columns(rows, QUERY_ID)
        for name, side in ((_POSITIVES, rows.positives), (_NEGATIVES, rows.negatives)):
            titles = pa.repeat("", len(side)) if side.titles is None else side.titles.cast(pa.string())
            assert side.texts is not None  # `convert` has looked them up
            passages = pa.StructArray.from_arrays([id_array(side), titles, side.texts.cast(pa.string())], _FIELDS)
            columns[name] = list_array(side.offsets, passages)
        return Written(np.arange(len(rows.queries)), columns)

    def fits(self, layout: Layout, batch: Batch, rows: QueryRows) -> bool:
        """Return whether passages have all three fields, as strings."""
        return all(
            {field.name for field in passages.type if is_string(field.type)} >= set(_FIELDS)
            for passages in (batch.lists(name).values for name in (_POSITIVES, _NEGATIVES))
            if len(passages)
        )

    def unread_fields(self, layout: Layout, features: Features) -> list[str]:
        """Return the other fields of passages."""
        return other_fields(features, (_POSITIVES, _NEGATIVES), _FIELDS)

    def written_scorer(self, rows: QueryRows) -> str | None:
        """Return None, because the format has no scores."""
        return None

    def _passages(self, value: Any) -> list[str]:
        return [f"{passage.get('title') or ''} {passage['text']}" for passage in value or ()]


TEVATRON = Tevatron()
