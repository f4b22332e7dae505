"""`dpr`: the JSON that DPR is trained on, one row per question, each passage a struct of title, text, score and id."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from datasets import Features

from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.arrays.ragged import Ragged, interleave_lists
from hnm_datasets.batch import Batch
from hnm_datasets.columns import QUERY_ID
from hnm_datasets.formats.base import Format, Layout, QueryRows, Side, Written
from hnm_datasets.formats.fields import id_array, number_array
from hnm_datasets.formats.names import fixed_layout
from hnm_datasets.formats.passages import other_fields, read_passages

_QUERY, _POSITIVES = "question", "positive_ctxs"
#: Hard negatives of a retriever, and other negatives: positives of other questions, or random passages.
_NEGATIVES = ("hard_negative_ctxs", "negative_ctxs")
#: The published files use either name.
_IDS = ("passage_id", "psg_id")
_READ = {"title", "text", "score", *_IDS}


class Dpr(Format):
    """Rows of passages with titles, ids and the scores of one scorer."""

    name: ClassVar[str] = "dpr"
    columns: ClassVar[str] = "question, positive_ctxs, hard_negative_ctxs"
    title: ClassVar[str] = "DPR"
    precedence: ClassVar[int] = 15
    keeps_titles: ClassVar[bool] = True

    def recognize(self, names: tuple[str, ...], owner: str) -> Layout | None:
        """Find one of the columns of passages."""
        if not {_POSITIVES, *_NEGATIVES} & set(names):
            return None
        there = tuple(name for name in _NEGATIVES if name in names) or _NEGATIVES[:1]
        return fixed_layout(self, names, owner, _POSITIVES, *there, query=_QUERY)

    def read(self, layout: Layout, batch: Batch) -> tuple[Side, Side]:
        """Read texts, titles, ids and scores."""
        positives, *negatives = (read_passages(batch, name, _IDS, "score") for name in (_POSITIVES, *layout.negatives))
        return positives, negatives[0] if len(negatives) == 1 else _joined(*negatives)

    def write(self, rows: QueryRows, width: int | None) -> Written:
        """Write passages with titles, and with ids and the scores of one scorer if they are known."""
        columns = {} if rows.query_ids is None else {QUERY_ID: rows.query_ids.cast(pa.string())}
        columns[_QUERY] = rows.queries.cast(pa.string())
        by = self.written_scorer(rows)
        columns[_POSITIVES] = _passages(rows.positives, by)
        columns[_NEGATIVES[0]] = _passages(rows.negatives, by)
        return Written(np.arange(len(rows.queries)), columns)

    def unread_fields(self, layout: Layout, features: Features) -> list[str]:
        """Return the other fields of passages, such as `title_score`."""
        return other_fields(features, (_POSITIVES, *layout.negatives), _READ)

    def _passages(self, value: Any) -> list[str]:
        return [f"{passage.get('title') or ''} {passage['text']}" for passage in value or ()]


def _joined(first: Side, second: Side) -> Side:
    """Join the passages of two columns, row by row. Ids are hashes of texts, and scores NaN, if a column has none."""
    offsets, order = interleave_lists(*(Ragged(side.offsets, side.texts) for side in (first, second)))
    at = pa.array(order)
    both = (first, second)
    ids = None
    if any(side.ids is not None for side in both):
        ids = pa.concat_arrays([id_array(side) for side in both]).take(at)
    titles = pa.concat_arrays(
        [pa.repeat("", len(side)).cast(pa.string()) if side.titles is None else side.titles for side in both]
    ).take(at)
    names = dict.fromkeys(name for side in both for name in side.scores)
    scores = {
        name: np.concatenate([side.scores.get(name, np.full(len(side), np.nan)) for side in both])[order]
        for name in names
    }
    texts = pa.concat_arrays([side.texts for side in both]).take(at)
    return Side(offsets, ids=ids, texts=texts, titles=titles, scores=scores)


def _passages(side: Side, by: str | None) -> pa.ListArray:
    assert side.texts is not None  # `convert` has looked them up
    fields = {
        "title": pa.repeat("", len(side)) if side.titles is None else side.titles.cast(pa.string()),
        "text": side.texts.cast(pa.string()),
    }
    if by in side.scores:
        fields["score"] = number_array(side.scores[by])
    if side.ids is not None:
        fields["passage_id"] = id_array(side)
    return list_array(side.offsets, pa.StructArray.from_arrays(list(fields.values()), list(fields)))


DPR = Dpr()
