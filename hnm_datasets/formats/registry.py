"""All formats, and how the format of a dataset is recognized."""

from __future__ import annotations

from collections.abc import Sequence

from hnm_datasets.formats.base import Format, Layout
from hnm_datasets.formats.dpr import DPR
from hnm_datasets.formats.flagembedding import FLAGEMBEDDING
from hnm_datasets.formats.labeled import LABELED_LISTS, LABELED_PAIRS
from hnm_datasets.formats.mined import MINED
from hnm_datasets.formats.names import from_pairs_hint
from hnm_datasets.formats.tevatron import TEVATRON
from hnm_datasets.formats.tuples import N_TUPLES, TRIPLETS

#: The formats by name, in the order of errors and documentation. Add a new format here.
FORMATS: dict[str, Format] = {
    format.name: format
    for format in (MINED, TRIPLETS, N_TUPLES, LABELED_PAIRS, LABELED_LISTS, TEVATRON, FLAGEMBEDDING, DPR)
}


def recognize(names: Sequence[str], owner: str) -> Layout:
    """Find the format of a dataset by its columns.

    Args:
        names: The columns of the dataset, in order.
        owner: The name of the calling function, for error messages.

    Raises:
        KeyError: The columns match no format, or a column of the recognized format is missing.

    Example:
        >>> recognize(["question", "answer", "negative"], "audit").describe()
        'triplets (question, answer, negative)'
    """
    columns = tuple(names)
    for format in sorted(FORMATS.values(), key=lambda one: one.precedence):
        layout = format.recognize(columns, owner)
        if layout is not None:
            return layout
    remedy = f"Rename the columns. {from_pairs_hint(columns)}"
    if {"score", "scores"} & set(columns):
        remedy = "Scores without labels do not distinguish positives from negatives."
    known = ", ".join(f"{format.name} ({format.columns})" for format in FORMATS.values())
    raise KeyError(
        f"{owner}: no format of mined data was recognized in the columns {list(columns)}. Known formats: {known}. "
        f"{remedy}"
    )
