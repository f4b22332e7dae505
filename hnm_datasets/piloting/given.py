"""Checks of the models and judgments passed to a pilot."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc
from datasets import Dataset

from hnm_datasets.audit.judgments import read_judgments
from hnm_datasets.columns import QUERY, QUERY_ID
from hnm_datasets.models.handles import kind_of, load_model
from hnm_datasets.piloting.student import is_static
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.transforms.scorers.base import Scorer

_NAME = "pilot"


def checked_model(model: Any) -> Any:
    """Return the mining model, loaded if it is a path; None for None."""
    if model is None:
        return None
    if not isinstance(model, str) and callable(model) and kind_of(model) is None:
        raise TypeError(
            f"{_NAME}: model must be a SentenceTransformer, or its path or Hub id, got {type(model).__name__}. To mine "
            f"with a function, pass strategies=: "
            f"strategies={{'dense': [DenseNegatives(corpus, function, fingerprint='...')]}}."
        )
    try:
        return load_model(model, None, owner=_NAME).model
    except TypeError as error:
        raise TypeError(f"{_NAME}: {error}") from None


def model_to_train(student: Any, model: Any) -> Any:
    """Return the model to train; None: the student is made from the corpus.

    Args:
        student: The model to train; None: the mining model if it has static embeddings, else None.
        model: The mining model, if there is one.
    """
    if student is None:
        return model if is_static(model) else None
    from sentence_transformers import SentenceTransformer

    way_out = "Leave student= out to train static embeddings made from the words of the corpus."
    if not isinstance(student, SentenceTransformer):
        raise TypeError(
            f"{_NAME}: student must be a SentenceTransformer, which can be trained, got {type(student).__name__}. "
            f"{way_out}"
        )
    if not is_static(student) and not any(parameter.requires_grad for parameter in student.parameters()):
        raise ValueError(f"{_NAME}: student has no weights that require a gradient, so it cannot be trained. {way_out}")
    return student


def check_teacher(teacher: Any) -> None:
    """Raise unless the teacher is a scorer or None."""
    if teacher is not None and not isinstance(teacher, Scorer):
        raise TypeError(
            f"{_NAME}: teacher must be a step that scores, such as CrossEncoderScores(corpus, model), got "
            f"{type(teacher).__name__}."
        )


def checked_judgments(judgments: Rows | None, sample: Dataset) -> Dataset | None:
    """Return judgments as a `Dataset`.

    Args:
        judgments: In a format that `audit_negatives` accepts.
        sample: The rows to mine. At least one of their queries must be judged.
    """
    if judgments is None:
        return None
    judgments = dataset_of(judgments, _NAME, "judgments")
    key = QUERY_ID if QUERY_ID in sample.column_names else QUERY
    asked = read_judgments(judgments, key == QUERY_ID, _NAME).judged_queries
    queries = sample.select_columns([key]).with_format("arrow")[:][key].cast(asked.type)
    if not pc.any(pc.is_in(queries, asked)).as_py():
        raise ValueError(
            f"{_NAME}: none of the {len(sample):,} queries of the sample is in the judgments. Check that both use the "
            f"same {key} values; that of the first query of the sample is {queries[0].as_py()!r}. Pass judgments of "
            f"more queries or a larger sample=, or leave judgments= out."
        )
    return judgments
