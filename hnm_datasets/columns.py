"""The names of the columns that the steps read and write."""

from __future__ import annotations

from collections.abc import Collection

QUERY_ID = "query_id"


QUERY = "query"


POSITIVE_IDS = "positive_ids"


#: Positives of other rows with the same question: never negatives of this row, but not its training examples either.
KNOWN_POSITIVE_IDS = "known_positive_ids"


JUDGED_NEGATIVE_IDS = "judged_negative_ids"


NEGATIVE_IDS = "negative_ids"


NEGATIVE_SCORES = "negative_scores"


NEGATIVE_RANKS = "negative_ranks"


NEGATIVE_SOURCE = "negative_source"


POSITIVE_SCORES = "positive_scores"


def score_column(by: str, of: str = "negative") -> str:
    """Return the score column for `by`: `"score"` means the retriever's scores, anything else is a teacher's name.

    Example:
        >>> score_column("score"), score_column("teacher"), score_column("teacher", of="positive")
        ('negative_scores', 'negative_teacher_scores', 'positive_teacher_scores')
    """
    return f"{of}_scores" if by == "score" else f"{of}_{by}_scores"


def score_name(by: str | None, names: Collection[str]) -> str:
    """Return the name of the scores that a step reads: `by`, else the teacher's if the rows have them, else `"score"`.

    Args:
        by: `"score"` for the retriever's scores, a teacher's name, or None.
        names: The columns of the rows.

    Example:
        >>> score_name(None, ["negative_ids", "negative_scores"])
        'score'
        >>> score_name(None, ["negative_ids", "negative_scores", "negative_teacher_scores"])
        'teacher'
    """
    if by is not None:
        return by
    return "teacher" if score_column("teacher") in names else "score"
