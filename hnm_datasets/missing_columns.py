"""What to do about a column that is missing: who writes it, or which other scores the rows have."""

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
    QUERY_ID: "rename the column of the queries' ids to 'query_id', or load the rows with load_beir",
    QUERY: "rename your column to 'query', or load the rows with load_beir or from_pairs",
    POSITIVE_IDS: "add it with attach_positives (from qrels) or load the rows with load_beir or from_pairs",
    JUDGED_NEGATIVE_IDS: "load judgments with load_beir, or add them with attach_positives; both write this column",
    **dict.fromkeys((NEGATIVE_IDS, NEGATIVE_SCORES, NEGATIVE_RANKS, POSITIVE_SCORES), _MINE),
}


def check_column(owner: str, name: str, names: Sequence[str], option: str = "by") -> None:
    """Raise a KeyError that names a missing column, what there is, and what to do about it.

    Args:
        owner: Who needs it.
        name: The column.
        names: The columns that there are.
        option: The option of the owner that chooses between scores.
    """
    if name not in names:
        raise KeyError(
            f"{owner} needs the column {name!r}, and there are only {list(names)}. To get it: "
            f"{remedy_of(name, names, option)}."
        )


def remedy_of(name: str, names: Sequence[str], option: str) -> str:
    """Say how to get a column that is missing, or what to read in its place.

    Args:
        name: The missing column.
        names: The columns that there are.
        option: The option that chooses between scores, such as `"by"`.

    Example:
        >>> remedy_of("positive_scores", ["negative_scores", "negative_dense_scores", "positive_dense_scores"], "by")
        "choose scores that the rows have, which are those by 'dense': by='dense'"
    """
    part, _, kind = name.partition("_")
    scorer = "score" if kind == "scores" else kind.removesuffix("_scores")
    if part not in ("positive", "negative") or name != score_column(scorer, of=part):
        return _MADE_BY.get(name) or _source_of_ranks(name) or "add it in an earlier step"
    make = None
    if scorer != "score":
        make = f"score first, for example with .map(CrossEncoderScores(corpus, model, name={scorer!r}), batched=True)"
    there = _scorers(names, both=part == "positive")
    if not there:
        return make or _MADE_BY[name]
    listed = ", ".join(map(repr, there))
    # The retriever that is named last is mostly the dense one.
    choose = f"choose scores that the rows have, which are those by {listed}: {option}={there[-1]!r}"
    return choose if make is None else f"{make}; or {choose}"


def _scorers(names: Sequence[str], *, both: bool) -> list[str]:
    """Return who has scored the candidates, and `both` them and the positives."""
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
    return f"fuse a source of this name, for example with FuseNegatives({{{source!r}: ..., ...}})"
