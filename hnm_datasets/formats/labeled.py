"""`labeled-pairs` and `labeled-lists`: passages with a label, 1 for positives and 0 for negatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import is_list, list_array
from hnm_datasets.arrays.ragged import Ragged, interleave_lists, offsets_of
from hnm_datasets.batch import Batch
from hnm_datasets.formats.base import Format, Layout, QueryRows, Side, Written
from hnm_datasets.formats.fields import (
    aligned_ids,
    aligned_numbers,
    as_floats,
    id_array,
    is_unknown,
    number_array,
    text_array,
)
from hnm_datasets.formats.names import ordered_layout

_LABELS_AT_ONCE = 100_000


class _Labeled(Format):
    """The base class of labeled pairs and lists.

    Attributes:
        plural: The ending of column names: `"s"` for lists.
    """

    tasks: ClassVar[tuple[str, ...]] = ("text-ranking",)
    labeled: ClassVar[bool] = True
    trainable: ClassVar[bool] = True
    plural: ClassVar[str]

    def recognize(self, names: tuple[str, ...], owner: str) -> Layout | None:
        """Find the column of labels."""
        label = f"label{self.plural}"
        return ordered_layout(self, names, owner, label=label) if label in names else None

    def id_columns(self, layout: Layout) -> set[str]:
        """Return the column of ids."""
        return {f"passage_id{self.plural}"}

    def score_columns(self, layout: Layout, by: str = "score") -> set[str]:
        """Return the column of scores."""
        return {f"passage_score{self.plural}"}

    def is_graded(self, layout: Layout, dataset: Dataset) -> bool:
        """Look for a label that is neither 0 nor 1."""
        column = _label_of(layout)
        for table in dataset.select_columns(column).with_format("arrow").iter(_LABELS_AT_ONCE):
            labels = table[column].combine_chunks()
            labels = labels.flatten() if is_list(labels.type) else labels
            known = pc.or_(pc.equal(labels, 0), pc.equal(labels, 1))
            if not pc.all(known, min_count=0).as_py():
                return True
        return False


class LabeledPairs(_Labeled):
    """One row per query and passage."""

    name: ClassVar[str] = "labeled-pairs"
    columns: ClassVar[str] = "anchor, passage, label"
    title: ClassVar[str] = "labeled pairs"
    precedence: ClassVar[int] = 70
    plural: ClassVar[str] = ""
    one_negative: ClassVar[bool] = True
    one_passage: ClassVar[bool] = True
    loss: ClassVar[str] = "BinaryCrossEntropyLoss"
    teacher_loss: ClassVar[str] = "MSELoss"

    def read(self, layout: Layout, batch: Batch) -> tuple[Side, Side]:
        """Read texts, ids and scores."""
        texts = batch.strings(layout.positives[0])
        positive = _is_positive(layout, batch.column(_label_of(layout)), batch)
        ids = batch.ids("passage_id") if batch.has("passage_id") else None
        name = "passage_score"
        scores = None if is_unknown(batch, name) else as_floats(batch.column(name), name, batch.step)
        return _split(positive, Ragged(np.arange(len(texts) + 1), texts), ids, scores)

    def write(self, rows: QueryRows, width: int | None) -> Written:
        """Write the passages of each query, positives first."""
        offsets, flat = _joined(self, rows)
        owners = np.repeat(np.arange(len(rows.queries)), np.diff(offsets))
        columns = {"anchor": rows.queries.take(pa.array(owners)).cast(pa.string())}
        columns |= {"passage": flat.pop("text"), "label": flat.pop("label")}
        if rows.query_ids is not None:
            columns["anchor_id"] = rows.query_ids.take(pa.array(owners)).cast(pa.string())
        return Written(owners, columns | {f"passage_{name}": values for name, values in flat.items()})

    def shown(self, layout: Layout, row: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the passage with its label."""
        return [(f"label {row[_label_of(layout)]:g}", row[layout.positives[0]])]


class LabeledLists(_Labeled):
    """One row per query with the list of its passages."""

    name: ClassVar[str] = "labeled-lists"
    columns: ClassVar[str] = "anchor, passages, labels"
    title: ClassVar[str] = "labeled lists"
    precedence: ClassVar[int] = 60
    plural: ClassVar[str] = "s"
    loss: ClassVar[str] = "LambdaLoss"
    teacher_loss: ClassVar[str] = "ListNetLoss"

    def read(self, layout: Layout, batch: Batch) -> tuple[Side, Side]:
        """Read texts, ids and scores."""
        column, label = layout.positives[0], _label_of(layout)
        texts = batch.string_lists(column)
        labels = batch.number_lists(label)
        batch.check_aligned(column, texts, label, labels)
        positive = _is_positive(layout, pa.array(labels.values), batch)
        name = "passage_scores"
        scores = None if is_unknown(batch, name) else aligned_numbers(batch, name, column, texts)
        return _split(positive, texts, aligned_ids(batch, "passage_ids", column, texts), scores)

    def write(self, rows: QueryRows, width: int | None) -> Written:
        """Write the passages of each query, positives first."""
        offsets, joined = _joined(self, rows)
        lists = {name: list_array(offsets, values) for name, values in joined.items()}
        columns = {"anchor": rows.queries.cast(pa.string())}
        columns |= {"passages": lists.pop("text"), "labels": lists.pop("label")}
        if rows.query_ids is not None:
            columns["anchor_id"] = rows.query_ids.cast(pa.string())
        columns |= {f"passage_{name}s": values for name, values in lists.items()}
        return Written(np.arange(len(rows.queries)), columns)

    def shown(self, layout: Layout, row: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the passages with their labels."""
        labels, passages = row[_label_of(layout)], row[layout.positives[0]]
        return [(f"label {label:g}", passage) for passage, label in zip(passages, labels, strict=True)]


def _label_of(layout: Layout) -> str:
    assert layout.label is not None  # `recognize` found it
    return layout.label


def _is_positive(layout: Layout, labels: pa.Array, batch: Batch) -> NDArray[np.bool_]:
    values = as_floats(labels, _label_of(layout), batch.step)
    strange = values[~np.isin(values, (0.0, 1.0))]
    if len(strange):
        raise ValueError(
            f"{batch.step}: the format {layout.format.name!r} was recognized, and its labels must be 1 for positives "
            f"and 0 for negatives, but {layout.label!r} holds {strange[0]:g}. A teacher's scores do not distinguish "
            f"positives from negatives."
        )
    return np.asarray(values == 1.0)


def _split(
    positive: NDArray[np.bool_], texts: Ragged[pa.Array], ids: pa.Array | None, scores: NDArray[np.float64] | None
) -> tuple[Side, Side]:
    """Split the passages of each row into positives and negatives."""
    sides = [
        Side(
            offsets_of(np.bincount(texts.owners[of_side], minlength=len(texts))),
            ids=None if ids is None else ids.filter(pa.array(of_side)),
            texts=texts.values.filter(pa.array(of_side)),
            scores={} if scores is None else {"score": scores[of_side]},
        )
        for of_side in (positive, ~positive)
    ]
    return sides[0], sides[1]


def _joined(format: Format, rows: QueryRows) -> tuple[NDArray[np.int64], dict[str, pa.Array]]:
    """Join the passages of each query, positives first.

    Returns:
        The offsets of the lists, and their flat columns: `text`, `label` and, if known, `id` and `score`.
    """
    sides = (rows.positives, rows.negatives)
    offsets, order = interleave_lists(*(Ragged(side.offsets, text_array(side)) for side in sides))
    flat = {
        "text": pa.concat_arrays([text_array(side) for side in sides]).take(pa.array(order)),
        "label": pa.array((order < len(rows.positives)).astype(np.float32)),
    }
    # The column of ids needs the ids of both sides.
    if all(side.ids is not None for side in sides):
        flat["id"] = pa.concat_arrays([id_array(side) for side in sides]).take(pa.array(order))
    by = format.written_scorer(rows)
    if by is not None:
        known = [side.scores.get(by, np.full(len(side), np.nan)) for side in sides]
        flat["score"] = number_array(np.concatenate(known)[order])
    return offsets, flat


LABELED_PAIRS, LABELED_LISTS = LabeledPairs(), LabeledLists()
