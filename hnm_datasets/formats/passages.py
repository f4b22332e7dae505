"""Passages as structs of title, text and id, as in the formats of Tevatron and DPR."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import from_json, is_json, is_string, type_name
from hnm_datasets.arrays.ids import as_ids
from hnm_datasets.batch import Batch
from hnm_datasets.corpus.text import passage_texts
from hnm_datasets.formats.base import Side
from hnm_datasets.formats.fields import as_floats, text_ids
from hnm_datasets.terminal import printable


def read_passages(batch: Batch, column: str, ids: Sequence[str], score: str | None = None) -> Side:
    """Read a column of lists of passages. A null title or text becomes an empty string, and a null score NaN.

    Args:
        batch: B rows.
        column: The column.
        ids: Possible names of the id field. Ids may be numbers.
        score: The field of scores, which may be numbers or strings of numbers.

    Returns:
        The passages. A passage without an id gets a hash of its text.

    Raises:
        TypeError: The column does not hold lists of structs with a string field `text`.
        ValueError: A passage is null.
    """
    lists = batch.lists(column)
    # `datasets` loads files as JSON if their passages differ in their fields.
    passages = from_json(lists.values, column, batch.step) if is_json(lists.values.type) else lists.values
    names = {field.name for field in passages.type} if pa.types.is_struct(passages.type) else set()
    if "text" not in names and len(passages):
        raise TypeError(
            f"{batch.step}: the column {column!r} must hold lists of passages with {ids[0]!r}, 'title' and 'text', got "
            f"{type_name(passages.type)}."
        )
    if passages.null_count:
        row = int(lists.owners[np.flatnonzero(passages.is_null().to_numpy(zero_copy_only=False))[0]])
        raise ValueError(f"{batch.step}: the column {column!r} holds a null in {batch.describe(row)}.")

    def field(name: str, numbers: bool = False) -> pa.Array | None:
        return _texts(passages.field(name), f"{column}.{name}", batch.step, numbers) if name in names else None

    texts = field("text") if "text" in names else pa.array([], pa.string())
    titles = field("title")
    named = next((field(name, numbers=True) for name in ids if name in names), None)
    nameless = pc.equal(named, "") if named is not None else None
    if nameless is not None and nameless.true_count:
        # Otherwise all passages without an id would count as the same passage.
        full = passage_texts(titles, texts)
        named = pc.replace_with_mask(named, nameless, text_ids(full.filter(nameless)))
    scores = {}
    if score in names and not pa.types.is_null(passages.field(score).type):
        scores = {"score": _numbers(passages.field(score), f"{column}.{score}", batch.step)}
    return Side(lists.offsets, ids=named, texts=texts, titles=titles, scores=scores)


def other_fields(features: Features, columns: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the fields of passages that are not known, such as `positive_ctxs.title_score`."""
    inner = {name: getattr(features[name], "feature", None) for name in columns}
    return [
        f"{name}.{field}"
        for name, fields in inner.items()
        if isinstance(fields, dict)
        for field in fields
        if field not in known
    ]


def _texts(values: pa.Array, name: str, step: str, numbers: bool) -> pa.Array:
    """Return a field of strings, with empty strings for null; `numbers` also allows whole numbers, as ids."""
    values = from_json(values, name, step) if is_json(values.type) else values
    if numbers:
        values = as_ids(values, f"the field {name!r}", step, "passage {}".format)
    if not (is_string(values.type) or pa.types.is_null(values.type)):
        raise TypeError(f"{step}: the field {name!r} must hold strings, got {type_name(values.type)}.")
    return pc.fill_null(values.cast(pa.string()), "")


def _numbers(scores: pa.Array, name: str, step: str) -> NDArray[np.float64]:
    scores = from_json(scores, name, step) if is_json(scores.type) else scores
    if not is_string(scores.type):
        return as_floats(scores, name, step)
    try:
        return as_floats(scores.cast(pa.float64()), name, step)
    except pa.ArrowInvalid as error:
        raise TypeError(f"{step}: the field {name!r} must hold numbers: {printable(str(error))}.") from None
