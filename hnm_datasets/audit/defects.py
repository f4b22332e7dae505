"""What is wrong with a mined dataset, by name, with its count and the way out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hnm_datasets.audit.tally import Found, Tally

#: What each defect is, and what to do about it.
_KINDS = {
    "swapped-columns": (
        "rows whose columns look swapped: a query that is a passage, or a positive that is not relevant beside a "
        "negative that is",
        "check the order of the columns",
    ),
    "known-positives": (
        "negatives that are a known positive of the same query",
        "mine with all positives of a query in positive_ids, not with one per row",
    ),
    "duplicates-of-positives": (
        "negatives with the same text as a positive of the same query, but for case and white space",
        "mine from a Corpus, which knows equal texts, or drop them",
    ),
    "near-duplicates-of-positives": (
        "negatives whose text is nearly that of a positive",
        "drop them with DropNearDuplicates",
    ),
    "queries-as-negatives": ("negatives that are the query itself", "drop them: they are as relevant as can be"),
    "repeated-negatives": ("negatives whose text is in their row already", "drop the repetitions"),
    "repeated-rows": ("rows that repeat an earlier one", "drop them, or train on each twice knowingly"),
    "hubs": (
        "passages that are a negative of very many queries",
        "look at them: they are often titles, boilerplate or empty talk; draw negatives with SampleNegatives",
    ),
    "no-negatives": ("rows without a negative", "mine with a larger k, or drop them"),
    "no-positives": ("rows without a positive", "drop them, or annotate"),
    "unknown-passages": (
        "passages that are not in the corpus",
        "pass the corpus that they were mined from, with the same titles",
    ),
    "empty-passages": ("passages without text", "filter them out of the corpus and mine again"),
    "unjudged-positives": (
        "positives that the judgements do not call relevant",
        "pass the judgements that the positives came from",
    ),
    "bad-scores": ("scores that are NaN, null or infinite", "score again: a margin or a label of them means nothing"),
    "bad-ranks": ("ranks below 1", "mine again: ranks are places in the retriever's list, from 1 on"),
}


@dataclass(frozen=True)
class Defect:
    """Something that is wrong with a dataset.

    Attributes:
        name: A short name, such as `"known-positives"`.
        count: How many were found.
        what: What was counted.
        remedy: What to do about it.
        examples: The first few, described.
        of_rows: In how many rows it was looked for: all, or a sample of them.
    """

    name: str
    count: int
    what: str
    remedy: str
    examples: tuple[str, ...]
    of_rows: int


def defects_of(tally: Tally, near: Found, sampled_rows: int) -> tuple[Defect, ...]:
    """List what was found, in the order of the table above."""
    found = {**tally.found, "near-duplicates-of-positives": near, "hubs": find_hubs(tally)}
    rows = {"near-duplicates-of-positives": sampled_rows}
    return tuple(
        Defect(name, found[name].count, what, remedy, tuple(found[name].examples), rows.get(name, len(tally.queries)))
        for name, (what, remedy) in _KINDS.items()
        if name in found and found[name].count
    )


def find_hubs(tally: Tally) -> Found:
    """Find the passages that are a negative far more often than others.

    A hub (Radovanović et al. 2010, *Hubs in space*) is here a passage that is a negative of at least 20 queries and of
    twenty times as many as passages that are negatives at all are on average.
    """
    counts = tally.negatives.counts
    if not len(counts):
        return Found()
    hubs = np.flatnonzero(counts >= max(20.0, 20.0 * float(counts.mean())))
    hubs = hubs[np.argsort(-counts[hubs], kind="stable")]
    names = tally.name_of(tally.negatives.keys[hubs[:3]])
    return Found(len(hubs), [f"{name}: {counts[hub]:,} queries" for name, hub in zip(names, hubs[:3], strict=True)])
