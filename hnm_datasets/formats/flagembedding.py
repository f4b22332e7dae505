"""`flagembedding`: one row per query with lists of texts, and a teacher's scores to distill."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyarrow as pa

from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.batch import Batch
from hnm_datasets.columns import QUERY_ID
from hnm_datasets.formats.base import Format, Layout, QueryRows, Side, Written, teacher_first
from hnm_datasets.formats.fields import (
    aligned_ids,
    aligned_numbers,
    id_array,
    is_unknown,
    number_array,
    query_columns,
    text_array,
)
from hnm_datasets.formats.names import fixed_layout

_POSITIVES, _NEGATIVES = "pos", "neg"


class FlagEmbedding(Format):
    """Rows of texts, with ids and a teacher's scores."""

    name: ClassVar[str] = "flagembedding"
    columns: ClassVar[str] = "query, pos, neg"
    title: ClassVar[str] = "FlagEmbedding"
    precedence: ClassVar[int] = 30

    def recognize(self, names: tuple[str, ...], owner: str) -> Layout | None:
        """Find the column of negatives."""
        return fixed_layout(self, names, owner, _POSITIVES, _NEGATIVES) if _NEGATIVES in names else None

    def read(self, layout: Layout, batch: Batch) -> tuple[Side, Side]:
        """Read texts, ids and a teacher's scores."""
        return _read_side(batch, _POSITIVES), _read_side(batch, _NEGATIVES)

    def write(self, rows: QueryRows, width: int | None) -> Written:
        """Write texts, ids and the scores of one scorer."""
        sides = {_POSITIVES: rows.positives, _NEGATIVES: rows.negatives}
        by = self.written_scorer(rows)
        columns = query_columns(rows, QUERY_ID)
        columns |= {name: list_array(side.offsets, text_array(side)) for name, side in sides.items()}
        columns |= {
            f"{name}_id": list_array(side.offsets, id_array(side))
            for name, side in sides.items()
            if side.ids is not None
        }
        columns |= {
            # float64, as read from JSON, so that both kinds of datasets can be concatenated.
            f"{name}_scores": list_array(side.offsets, number_array(side.scores[by], pa.float64()))
            for name, side in sides.items()
            if by in side.scores
        }
        return Written(np.arange(len(rows.queries)), columns)

    def id_columns(self, layout: Layout) -> set[str]:
        """Return the columns of ids."""
        return {"pos_id", "neg_id"}

    def score_columns(self, layout: Layout, by: str = "score") -> set[str]:
        """Return the columns of scores."""
        return {"pos_scores", "neg_scores"}

    def written_scorer(self, rows: QueryRows) -> str | None:
        """Return a teacher, because students are trained on these scores, or else the retriever."""
        return teacher_first(rows)


def _read_side(batch: Batch, column: str) -> Side:
    texts = batch.string_lists(column)
    ids = aligned_ids(batch, f"{column}_id", column, texts)
    name = f"{column}_scores"
    scores = {} if is_unknown(batch, name) else {"teacher": aligned_numbers(batch, name, column, texts)}
    return Side(texts.offsets, ids=ids, texts=texts.values, scores=scores)


FLAGEMBEDDING = FlagEmbedding()
