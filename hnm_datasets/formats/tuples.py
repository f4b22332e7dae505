"""`triplets` and `n-tuples`: a query, a positive and negatives, each in a column of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import is_list, is_string
from hnm_datasets.arrays.ragged import offsets_of, positions_within
from hnm_datasets.batch import Batch
from hnm_datasets.formats.base import TRAINER_LABELS, Format, Layout, QueryRows, Side, Written
from hnm_datasets.formats.fields import (
    aligned_ids,
    aligned_numbers,
    as_floats,
    id_array,
    ids_beside,
    interleaved,
    is_unknown,
    joint_scores,
    nullable_strings,
    number_array,
    text_array,
)
from hnm_datasets.formats.names import ordered_layout

#: The second name is common for columns of lists.
_NEGATIVE_NAMES = ("negative", "negatives")
_NUMBERED = re.compile(r"negative_(\d+)")


class _Tuples(Format):
    """The base class of triplets and n-tuples: one passage per column, null if there is none."""

    tasks: ClassVar[tuple[str, ...]] = ("sentence-similarity", "text-retrieval")
    trainable: ClassVar[bool] = True

    def read(self, layout: Layout, batch: Batch) -> tuple[Side, Side]:
        """Read texts, ids and the scores of one scorer."""
        width = 1 + len(layout.negatives)
        joint = joint_scores(batch, np.full(len(batch), width))
        joint = None if joint is None else joint.reshape(-1, width)
        # The id of a positive is in `positive_id`, even if the column of its text has another name.
        return (
            _read_columns(batch, layout.positives, ("positive",), None if joint is None else joint[:, :1]),
            _read_columns(batch, layout.negatives, layout.negatives, None if joint is None else joint[:, 1:]),
        )

    def id_columns(self, layout: Layout) -> set[str]:
        """Return the columns of ids."""
        return {f"{name}_id" for name in ("positive", *layout.negatives)}

    def score_columns(self, layout: Layout, by: str = "score") -> set[str]:
        """Return one column per passage, or the column in which `mine_hard_negatives` writes all scores of a row."""
        single = {f"{name}_score" for name in ("positive", *layout.negatives)}
        return single if single & set(layout.names) else {"scores"}

    def training_label(self, layout: Layout) -> str | None:
        """Return the column of a teacher's margins or scores."""
        return next((name for name in TRAINER_LABELS if name in layout.names), None)

    def _write_columns(
        self, rows: QueryRows, owners: NDArray[np.int64], passages: Mapping[str, tuple[Side, NDArray[np.int64]]]
    ) -> Written:
        """Write one passage per column.

        Args:
            rows: The queries.
            owners: The query of each row. Shape (M,).
            passages: For each column, the side of its passages and their positions in it. Shape (M,) each.
        """
        columns = {"anchor": rows.queries.take(pa.array(owners)).cast(pa.string())}
        texts = {id(side): text_array(side) for side, _ in passages.values()}
        columns |= {name: texts[id(side)].take(pa.array(at)) for name, (side, at) in passages.items()}
        if rows.query_ids is not None:
            columns["anchor_id"] = rows.query_ids.take(pa.array(owners)).cast(pa.string())
        columns |= {
            f"{name}_id": id_array(side).take(pa.array(at))
            for name, (side, at) in passages.items()
            if side.ids is not None
        }
        by = self.written_scorer(rows)
        columns |= {
            f"{name}_score": number_array(side.scores[by][at])
            for name, (side, at) in passages.items()
            if by in side.scores
        }
        return Written(owners, columns)


class Triplets(_Tuples):
    """One row per positive and negative of a query."""

    name: ClassVar[str] = "triplets"
    columns: ClassVar[str] = "anchor, positive, negative"
    title: ClassVar[str] = "triplets"
    precedence: ClassVar[int] = 40
    merges_rows: ClassVar[bool] = False
    one_negative: ClassVar[bool] = True

    def recognize(self, names: tuple[str, ...], owner: str) -> Layout | None:
        """Find the column of negatives."""
        negative = next((name for name in _NEGATIVE_NAMES if name in names), None)
        return None if negative is None else ordered_layout(self, names, owner, negatives=(negative,))

    def read(self, layout: Layout, batch: Batch) -> tuple[Side, Side]:
        """Read texts, ids and the scores of one scorer; columns may have lists of texts instead of texts."""
        (positive,), (negative,) = layout.positives, layout.negatives
        if not (is_list(batch.column(positive).type) or is_list(batch.column(negative).type)):
            return super().read(layout, batch)
        # The id of a positive is in `positive_id`, even if the column of its text has another name.
        positives, negatives = _read_lists(batch, positive, "positive"), _read_lists(batch, negative, negative)
        joint = joint_scores(batch, positives.lengths + negatives.lengths)
        if joint is None:
            return positives, negatives
        offsets = positives.offsets + negatives.offsets
        owners = np.repeat(np.arange(len(batch)), np.diff(offsets))
        first = positions_within(offsets) < positives.lengths[owners]
        return replace(positives, scores={"score": joint[first]}), replace(negatives, scores={"score": joint[~first]})

    def fits(self, layout: Layout, batch: Batch, rows: QueryRows) -> bool:
        """Return whether every row has one positive and one negative, as texts."""
        texts = all(is_string(batch.column(name).type) for name in (*layout.positives, *layout.negatives))
        lengths = (rows.positives.lengths, rows.negatives.lengths)
        return texts and all(bool((one == 1).all()) for one in lengths)

    def write(self, rows: QueryRows, width: int | None) -> Written:
        """Write every positive with every negative."""
        positives, negatives = rows.positives, rows.negatives
        counts = positives.lengths * negatives.lengths
        owners = np.repeat(np.arange(len(counts)), counts)
        within, n_negatives = positions_within(offsets_of(counts)), negatives.lengths[owners]
        passages = {
            "positive": (positives, positives.offsets[owners] + within // n_negatives),
            "negative": (negatives, negatives.offsets[owners] + within % n_negatives),
        }
        return self._write_columns(rows, owners, passages)


class NTuples(_Tuples):
    """One row per positive of a query, with all negatives."""

    name: ClassVar[str] = "n-tuples"
    columns: ClassVar[str] = "anchor, positive, negative_1, …"
    title: ClassVar[str] = "n-tuples"
    precedence: ClassVar[int] = 50

    def recognize(self, names: tuple[str, ...], owner: str) -> Layout | None:
        """Find the numbered columns of negatives."""
        numbers = {name: int(found[1]) for name in names if (found := _NUMBERED.fullmatch(name))}
        if not numbers:
            return None
        return ordered_layout(self, names, owner, negatives=tuple(sorted(numbers, key=lambda name: numbers[name])))

    def width(self, first: QueryRows) -> int:
        """Return the number of negatives of the first query."""
        return int(first.negatives.lengths[0]) if len(first.queries) else 1

    def write(self, rows: QueryRows, width: int | None) -> Written:
        """Write each positive with all negatives.

        Raises:
            ValueError: A query has no negatives, or not as many as the first query.
        """
        positives, negatives = rows.positives, rows.negatives
        lengths = negatives.lengths
        wanted = self.width(rows) if width is None else width
        short = np.flatnonzero((lengths != wanted) | (lengths == 0))
        if len(short):
            row = int(short[0])
            others = f", and earlier queries have {wanted}" if lengths[row] != wanted else ""
            raise ValueError(
                f"convert: in n-tuples all queries need the same number of negatives, at least 1, but the query "
                f"{rows.queries[row].as_py()!r} has {lengths[row]}{others}. Use TopNegatives(n) and remove the queries "
                f"with fewer than n negatives first, or choose the format 'triplets'."
            )
        owners = positives.owners
        passages = {"positive": (positives, np.arange(len(positives)))}
        for position in range(wanted):
            passages[f"negative_{position + 1}"] = (negatives, negatives.offsets[owners] + position)
        return self._write_columns(rows, owners, passages)


def _read_columns(
    batch: Batch, columns: tuple[str, ...], stems: tuple[str, ...], joint: NDArray[np.float64] | None
) -> Side:
    """Read one passage of each row per column; null means no passage.

    Args:
        batch: B rows.
        columns: The n columns of texts.
        stems: The beginnings of the names of their columns of ids and scores.
        joint: The scores, if one column holds the scores of all passages. Shape (B, n).
    """
    texts = interleaved([nullable_strings(batch, name) for name in columns])
    there = texts.is_valid()
    kept = there.to_numpy(zero_copy_only=False).reshape(-1, len(columns))
    id_names, score_names = ([f"{stem}_{kind}" for stem in stems] for kind in ("id", "score"))
    ids = ids_beside(batch, id_names, columns, there) if all(map(batch.has, id_names)) else None
    scores = joint
    if all(map(batch.has, score_names)):
        scores = np.stack([as_floats(batch.column(name), name, batch.step) for name in score_names], axis=1)
    return Side(
        offsets_of(kept.sum(axis=1)),
        ids=ids,
        texts=texts.filter(there),
        scores={} if scores is None else {"score": scores[kept]},
    )


def _read_lists(batch: Batch, column: str, stem: str) -> Side:
    """Read a column of texts or lists of texts, with ids and scores that are aligned with it."""
    if not is_list(batch.column(column).type):
        return _read_columns(batch, (column,), (stem,), None)
    texts = batch.string_lists(column)
    name = f"{stem}_score"
    scores = {} if is_unknown(batch, name) else {"score": aligned_numbers(batch, name, column, texts)}
    return Side(texts.offsets, aligned_ids(batch, f"{stem}_id", column, texts), texts.values, scores=scores)


TRIPLETS, N_TUPLES = Triplets(), NTuples()
