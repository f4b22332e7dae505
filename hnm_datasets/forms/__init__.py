"""The forms in which mined data is kept, here and by other tools: recognised, read, written, converted."""

from hnm_datasets.forms.conversion import convert
from hnm_datasets.forms.reading import (
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

__all__ = [
    "FLAGEMBEDDING",
    "FORMS",
    "LABELED_LISTS",
    "LABELED_PAIRS",
    "MINED",
    "N_TUPLES",
    "TEVATRON",
    "TRIPLETS",
    "Form",
    "Rows",
    "Side",
    "convert",
    "read_rows",
    "recognize",
]
