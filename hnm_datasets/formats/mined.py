"""`mined`: the columns that our miners write, one row per query, passages by id."""

from __future__ import annotations

import re
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.batch import Batch
from hnm_datasets.columns import (
    JUDGED_NEGATIVE_IDS,
    KNOWN_POSITIVE_IDS,
    NEGATIVE_IDS,
    NEGATIVE_RANKS,
    NEGATIVE_SOURCE,
    POSITIVE_IDS,
    QUERY_ID,
    score_column,
)
from hnm_datasets.formats.base import Format, Layout, QueryRows, Side, Written
from hnm_datasets.formats.fields import (
    aligned_numbers,
    aligned_strings,
    id_array,
    is_unknown,
    number_array,
    query_columns,
)
from hnm_datasets.formats.names import fixed_layout

_SCORES = re.compile(r"negative_(?:(?P<name>.+)_)?scores")


class Mined(Format):
    """Rows with passage ids, scores of any number of scorers, ranks and sources."""

    name: ClassVar[str] = "mined"
    columns: ClassVar[str] = "query, positive_ids, negative_ids"
    title: ClassVar[str] = "mined rows, passages by id"
    precedence: ClassVar[int] = 20
    needs_corpus: ClassVar[bool] = True

    def recognize(self, names: tuple[str, ...], owner: str) -> Layout | None:
        """Find the column of negatives."""
        return fixed_layout(self, names, owner, POSITIVE_IDS, NEGATIVE_IDS) if NEGATIVE_IDS in names else None

    def read(self, layout: Layout, batch: Batch) -> tuple[Side, Side]:
        """Read ids and all scores, and the ranks and sources of negatives."""
        positive_ids, negative_ids = batch.id_lists(POSITIVE_IDS), batch.id_lists(NEGATIVE_IDS)
        scores: dict[str, dict[str, NDArray[np.float64]]] = {"positive": {}, "negative": {}}
        for name in layout.names:
            found = _SCORES.fullmatch(name)
            if found is None:
                continue
            for part, ids in (("positive", positive_ids), ("negative", negative_ids)):
                column = part + name.removeprefix("negative")
                if not is_unknown(batch, column):
                    scores[part][found["name"] or "score"] = aligned_numbers(batch, column, f"{part}_ids", ids)
        sources = aligned_strings(batch, NEGATIVE_SOURCE, NEGATIVE_IDS, negative_ids)
        ranks = None
        if batch.has(NEGATIVE_RANKS):
            lists = batch.number_lists(NEGATIVE_RANKS)
            batch.check_aligned(NEGATIVE_IDS, negative_ids, NEGATIVE_RANKS, lists)
            ranks = lists.values.astype(np.int64)
        return (
            Side(positive_ids.offsets, ids=positive_ids.values, scores=scores["positive"]),
            Side(
                negative_ids.offsets, ids=negative_ids.values, scores=scores["negative"], ranks=ranks, sources=sources
            ),
        )

    def write(self, rows: QueryRows, width: int | None) -> Written:
        """Write ids and all scores."""
        columns: dict[str, pa.Array] = query_columns(rows, QUERY_ID)
        for part, name, side in (
            ("positive", POSITIVE_IDS, rows.positives),
            ("negative", NEGATIVE_IDS, rows.negatives),
        ):
            columns[name] = list_array(side.offsets, id_array(side))
            columns |= {
                score_column(by, of=part): list_array(side.offsets, number_array(scores))
                for by, scores in side.scores.items()
            }
        return Written(np.arange(len(rows.queries)), columns)

    def score_columns(self, layout: Layout, by: str = "score") -> set[str]:
        """Return the columns of one scorer."""
        return {score_column(by, part) for part in ("positive", "negative")}

    def own_columns(self, layout: Layout) -> set[str]:
        """Return the columns that mining steps write."""
        lists = {name for name in layout.names if name.startswith(("positive_", "negative_"))}
        return super().own_columns(layout) | lists | {JUDGED_NEGATIVE_IDS, KNOWN_POSITIVE_IDS, "promoted_ids"}


MINED = Mined()
