"""Advice about a missing column: the step that writes it, or other scores that the rows have."""

from __future__ import annotations

from collections.abc import Sequence

from hnm_datasets.columns import (
    JUDGED_NEGATIVE_IDS,
    NEGATIVE_IDS,
    NEGATIVE_RANKS,
    NEGATIVE_SCORES,
    POSITIVE_IDS,
    POSITIVE_SCORES,
    QUERY,
    QUERY_ID,
    score_column,
)

_MINE = "mine first, for example with .map(BM25Negatives(corpus), batched=True)"
_MADE_BY = {
    QUERY_ID: "rename the column with the query ids to 'query_id', or load the rows with load_beir",
    QUERY: "rename your column to 'query', or load the rows with load_beir or from_pairs",
    POSITIVE_IDS: "add it with attach_positives (from qrels) or load the rows with load_beir or from_pairs",
    JUDGED_NEGATIVE_IDS: "load judgments with load_beir, or add them with attach_positives; both write this column",
    **dict.fromkeys((NEGATIVE_IDS, NEGATIVE_SCORES, NEGATIVE_RANKS, POSITIVE_SCORES), _MINE),
}


def check_column(owner: str, name: str, names: Sequence[str], option: str = "by", texts: Sequence[str] = ()) -> None:
    """Raise a KeyError that names a missing column, the existing columns, and how to get the missing one.

    Args:
        owner: The function or step that needs the column.
        name: The column.
        names: The existing columns.
        option: The option of the owner that selects the scores.
        texts: The columns of texts, to recognize rows that are still pairs.
    """
    if name not in names:
        remedy = _remedy_of_pairs(name, names, texts) or remedy_of(name, names, option)
        raise KeyError(f"{owner} needs the column {name!r}, but there are only {list(names)}. To get it: {remedy}.")


def _remedy_of_pairs(name: str, names: Sequence[str], texts: Sequence[str]) -> str | None:
    """Name the call that converts pairs of texts, if the rows have two columns of texts and no ids of positives."""
    pair = [column for column in texts if column != QUERY_ID]
    if name not in (QUERY, POSITIVE_IDS) or POSITIVE_IDS in names or len(pair) != 2:
        return None
    query, positive = pair
    return (
        f"convert the pairs: corpus, rows = from_pairs(dataset, {query!r}, {positive!r}). If the rows are no pairs, "
        f"{_MADE_BY[name]}"
    )


def remedy_of(name: str, names: Sequence[str], option: str) -> str:
    """Describe how to get a missing column, or which scores to use instead.

    Args:
        name: The missing column.
        names: The existing columns.
        option: The option that selects the scores, such as `"by"`.

    Example:
        >>> remedy_of("positive_scores", ["negative_scores", "negative_dense_scores", "positive_dense_scores"], "by")
        "use scores that the rows have ('dense'): by='dense'"
    """
    part, _, kind = name.partition("_")
    scorer = "score" if kind == "scores" else kind.removesuffix("_scores")
    if part not in ("positive", "negative") or name != score_column(scorer, of=part):
        return _MADE_BY.get(name) or _source_of_ranks(name) or "add it in an earlier step"
    create = None
    if scorer != "score":
        create = f"score first, for example with .map(CrossEncoderScores(corpus, model, name={scorer!r}), batched=True)"
    there = _scorers(names, both=part == "positive")
    if not there:
        return create or _MADE_BY[name]
    listed = ", ".join(map(repr, there))
    # The last retriever is usually the dense one.
    choose = f"use scores that the rows have ({listed}): {option}={there[-1]!r}"
    return choose if create is None else f"{create}; or {choose}"


def _scorers(names: Sequence[str], *, both: bool) -> list[str]:
    """Return the names of the scores of the candidates; with `both`, only those that the positives have too."""
    found = []
    for name in names:
        if not name.startswith("negative_") or not name.endswith("_scores"):
            continue
        scorer = "score" if name == NEGATIVE_SCORES else name.removeprefix("negative_").removesuffix("_scores")
        if not both or score_column(scorer, of="positive") in names:
            found.append(scorer)
    return found


def _source_of_ranks(name: str) -> str | None:
    if not name.startswith("negative_") or not name.endswith("_ranks"):
        return None
    source = name.removesuffix("_ranks").removeprefix("negative_")
    return f"fuse a source with this name, for example with FuseNegatives({{{source!r}: ..., ...}})"
