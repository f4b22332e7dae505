"""The defects that an audit looks for. Each is an object with a name, a remedy and the function that finds it.

To add a defect, write its function and add the object to `DEFECTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.audit.audited_batch import AuditedBatch, Marked
from hnm_datasets.audit.counting import Counter, Found
from hnm_datasets.audit.false_negatives import FalseNegatives
from hnm_datasets.audit.tables import percent
from hnm_datasets.corpus.text import is_blank
from hnm_datasets.formats.base import QueryRows

#: The share of false negatives above which they are a defect.
FALSE_NEGATIVES = 0.05
#: A passage is a hub if it is a negative of at least this many queries, and of this many times the average.
_HUB_QUERIES, _HUB_TIMES = 20, 20
#: With at least this many queries, also if it is a negative of this share of them, and of this many times the average.
_HUB_OF, _HUB_SHARE, _HUB_SHARE_TIMES = 10, 0.5, 2


class SampledBatch(NamedTuple):
    """A batch of sampled rows, whose texts are compared.

    Attributes:
        rows: The rows.
        near_positives: Marks the negatives whose text is nearly the same as a positive of their row. Shape (P,).
        known: Marks the negatives that are a known positive of their query, or have the text of one. Shape (P,).
    """

    rows: QueryRows
    near_positives: NDArray[np.bool_]
    known: NDArray[np.bool_]


class Counted(Protocol):
    """The counts of a whole dataset; `Tally` implements this protocol."""

    @property
    def negatives(self) -> Counter:
        """The number of queries of which each passage is a negative."""

    @property
    def negatives_per_query(self) -> NDArray[np.int32]:
        """The number of negatives of each query. Shape (Q,)."""

    @property
    def row_keys(self) -> NDArray[np.uint64]:
        """64 bits per row, equal for rows with the same content. Shape (B,)."""

    def name_of(self, keys: NDArray[np.uint64]) -> list[str]:
        """Describe negatives by their keys."""


@dataclass(frozen=True)
class Defect:
    """A defect of a dataset, found by exactly one of three functions.

    Attributes:
        name: A short name, such as `"known-positives"`.
        what: A description of the counted rows or passages.
        remedy: How to fix it.
        in_batch: Marks the defect in a batch of rows; all rows are read.
        in_sample: Marks the defect in a batch of sampled rows, whose texts are compared.
        in_all: Finds the defect in the counts of the whole dataset.
    """

    name: str
    what: str
    remedy: str
    in_batch: Callable[[AuditedBatch], Iterable[Marked]] | None = None
    in_sample: Callable[[SampledBatch], Iterable[Marked]] | None = None
    in_all: Callable[[Counted], Found] | None = None


@dataclass(frozen=True)
class FoundDefect:
    """A defect found in a dataset.

    Attributes:
        name: A short name, such as `"known-positives"`.
        count: The number of occurrences.
        what: A description of the counted rows or passages.
        remedy: How to fix it.
        examples: Descriptions of the first occurrences.
        of_rows: The number of rows searched: all rows, or those of the sample.
    """

    name: str
    count: int
    what: str
    remedy: str
    examples: tuple[str, ...]
    of_rows: int


def found_defects(counted: Counted, found: Mapping[str, Found], sampled_rows: int) -> tuple[FoundDefect, ...]:
    """List the defects of a dataset, in the order of `DEFECTS`.

    Args:
        counted: The counts of the whole dataset.
        found: The occurrences in batches and in the sample, by defect.
        sampled_rows: The number of rows in the sample.
    """
    rows, listed = len(counted.row_keys), []
    for defect in DEFECTS:
        one = found.get(defect.name, Found()) if defect.in_all is None else defect.in_all(counted)
        if one.count:
            of_rows = rows if defect.in_sample is None else sampled_rows
            examples = tuple(one.examples)
            listed.append(FoundDefect(defect.name, one.count, defect.what, defect.remedy, examples, of_rows))
    return tuple(listed)


def false_negative_defect(
    estimate: FalseNegatives | None, examples: Sequence[str], of_rows: int
) -> tuple[FoundDefect, ...]:
    """Return a defect if the share of relevant negatives exceeds `FALSE_NEGATIVES`; otherwise nothing.

    Args:
        estimate: The share of false negatives; None if unknown.
        examples: Descriptions of some of them.
        of_rows: The number of rows searched.
    """
    if estimate is None or estimate.rate <= FALSE_NEGATIVES:
        return ()
    what = (
        f"relevant negatives, by {estimate.by}: {percent(estimate.rate)} of {estimate.negatives:,}, more than "
        f"{percent(FALSE_NEGATIVES)}"
    )
    remedy = (
        "drop likely false negatives with RelativeMargin or TeacherThreshold; choose the limit with calibrate_margin "
        "or calibrate_threshold"
    )
    return (FoundDefect("false-negatives", estimate.false, what, remedy, tuple(examples), of_rows),)


# ---- in a batch --------------------------------------------------------------------------------------------------


def _swapped_columns(batch: AuditedBatch) -> Iterator[Marked]:
    rows, corpus = batch.rows, batch.corpus
    swapped = np.zeros(len(batch.queries), dtype=bool)
    if corpus is not None and rows.positives.texts is not None:
        swapped |= batch.rows_with("positive", ~batch.positives.known) & batch.as_passages.known
    elif rows.positives.texts is not None:
        # In other rows, the query is more often a positive, and the positive more often a query. This does not hold
        # for pairs that occur in both directions, such as paraphrases.
        texts, queries = batch.positives.text, batch.as_passages.text
        are_queries = batch.texts_as_queries.of(texts) > batch.texts_as_positives.of(texts)
        are_positives = batch.texts_as_queries.of(queries) < batch.texts_as_positives.of(queries)
        swapped |= batch.rows_with("positive", are_queries) & are_positives
    if batch.judgments is not None:
        relevant = batch.judged_relevant
        has_positives = rows.positives.lengths > 0
        has_right = batch.rows_with("positive", relevant["positive"])
        swapped |= batch.judged & has_positives & ~has_right & batch.rows_with("negative", relevant["negative"])
    yield Marked("row", swapped)


def _known_positives(batch: AuditedBatch) -> Iterator[Marked]:
    yield Marked("negative", batch.known_positives)


def _copies_of_positives(batch: AuditedBatch) -> Iterator[Marked]:
    yield Marked("negative", batch.copies_of_positives)


def _queries_as_negatives(batch: AuditedBatch) -> Iterator[Marked]:
    owners, queries = batch.rows.negatives.owners, batch.as_passages
    is_query = (batch.negatives.text == queries.text[owners]) | (batch.negatives.copy == queries.copy[owners])
    known = batch.known_positives | batch.copies_of_positives | batch.positives_of_question
    yield Marked("negative", is_query & ~known)


def _positives_of_question(batch: AuditedBatch) -> Iterator[Marked]:
    yield Marked("negative", batch.positives_of_question)


def _repeated_negatives(batch: AuditedBatch) -> Iterator[Marked]:
    yield Marked("negative", ~batch.first_of_text)


def _no_negatives(batch: AuditedBatch) -> Iterator[Marked]:
    if not batch.layout.format.one_passage:
        yield Marked("row", batch.rows.negatives.lengths == 0)


def _no_positives(batch: AuditedBatch) -> Iterator[Marked]:
    if not batch.layout.format.one_passage:
        yield Marked("row", batch.rows.positives.lengths == 0)


def _unknown_passages(batch: AuditedBatch) -> Iterator[Marked]:
    for kind, (_, passages) in batch.sides.items():
        yield Marked(kind, ~passages.known)


def _empty_passages(batch: AuditedBatch) -> Iterator[Marked]:
    for kind, (side, _) in batch.sides.items():
        if side.texts is not None:
            yield Marked(kind, is_blank(side.full_texts).to_numpy(zero_copy_only=False))


def _unjudged_positives(batch: AuditedBatch) -> Iterator[Marked]:
    relevant = batch.judged_relevant["positive"]
    yield Marked("positive", batch.judged[batch.rows.positives.owners] & ~relevant)


def _bad_scores(batch: AuditedBatch) -> Iterator[Marked]:
    positives, negatives = batch.rows.positives.scores, batch.rows.negatives.scores
    for name, scores in positives.items():
        if name in negatives:
            yield Marked("positive", ~np.isfinite(scores))
    for scores in negatives.values():
        yield Marked("negative", ~np.isfinite(scores))


def _bad_ranks(batch: AuditedBatch) -> Iterator[Marked]:
    ranks = batch.rows.negatives.ranks
    if ranks is not None:
        yield Marked("negative", ranks < 1)


# ---- in the sample, and in all rows ------------------------------------------------------------------------------


def _near_positives(batch: SampledBatch) -> Iterator[Marked]:
    # A negative can be an exact copy of one positive and a near duplicate of another; it counts as an exact copy.
    yield Marked("negative", batch.near_positives & ~batch.known)


def _repeated_rows(counted: Counted) -> Found:
    repeated = np.ones(len(counted.row_keys), dtype=bool)
    repeated[np.unique(counted.row_keys, return_index=True)[1]] = False
    found = Found()
    found.add(repeated, lambda row: f"row {row}")
    return found


def find_hubs(counted: Counted) -> Found:
    """Find the passages that are a negative far more often than others.

    A passage counts as a hub (Radovanović et al. 2010, *Hubs in space*) if it is a negative of at least 20 queries and
    of at least twenty times the average over all negatives; or, with ten queries or more, of at least half of the
    queries and of at least twice the average.
    """
    counts, queries = counted.negatives.counts, len(counted.negatives_per_query)
    if not len(counts):
        return Found()
    mean = float(counts.mean())
    hub = counts >= max(_HUB_QUERIES, _HUB_TIMES * mean)
    if queries >= _HUB_OF:
        hub |= counts >= max(_HUB_SHARE * queries, _HUB_SHARE_TIMES * mean)
    hubs = np.flatnonzero(hub)
    hubs = hubs[np.argsort(-counts[hubs], kind="stable")]
    names = counted.name_of(counted.negatives.keys[hubs[:3]])
    shares = [f"{counts[hub]:,} of {queries:,} queries" for hub in hubs[:3]]
    return Found(len(hubs), [f"{name}: {share}" for name, share in zip(names, shares, strict=True)])


#: All defects, in the order in which an audit lists them.
DEFECTS = (
    Defect(
        "swapped-columns",
        "rows whose columns look swapped: the query is a passage, or a negative is relevant and the positive is not",
        "check the order of the columns",
        in_batch=_swapped_columns,
    ),
    Defect(
        "known-positives",
        "negatives that are a known positive of the same query",
        "add all positives of the question to each row with pool_positives, and mine again",
        in_batch=_known_positives,
    ),
    Defect(
        "positives-of-the-question",
        "negatives that are a known positive of another query with the same text, ignoring case and white space",
        "add all positives of the question to each row with pool_positives, and mine again",
        in_batch=_positives_of_question,
    ),
    Defect(
        "duplicates-of-positives",
        "negatives with the same text as a positive of the same query, ignoring case, white space and title",
        "mine from a Corpus, which excludes equal texts, or drop them",
        in_batch=_copies_of_positives,
    ),
    Defect(
        "near-duplicates-of-positives",
        "negatives whose text is nearly the same as a positive",
        "read the examples: drop copies with DropNearDuplicates; texts that share only a template can stay",
        in_sample=_near_positives,
    ),
    Defect(
        "queries-as-negatives",
        "negatives that are the query itself",
        "drop them: a query is trivially relevant to itself",
        in_batch=_queries_as_negatives,
    ),
    Defect(
        "repeated-negatives",
        "negatives whose text occurs earlier in the row",
        "drop the repetitions",
        in_batch=_repeated_negatives,
    ),
    Defect(
        "repeated-rows",
        "rows that repeat an earlier one",
        "drop them, unless you want to train on them twice",
        in_all=_repeated_rows,
    ),
    Defect(
        "hubs",
        "passages that are a negative of very many queries",
        "check them: they are often titles, boilerplate or uninformative text; draw negatives with SampleNegatives",
        in_all=find_hubs,
    ),
    Defect(
        "no-negatives",
        "rows without a negative",
        "use a weaker filter or a larger k, or drop them",
        in_batch=_no_negatives,
    ),
    Defect("no-positives", "rows without a positive", "drop them, or annotate positives", in_batch=_no_positives),
    Defect(
        "unknown-passages",
        "passages that are not in the corpus",
        "pass the corpus that they were mined from, with the same titles",
        in_batch=_unknown_passages,
    ),
    Defect(
        "empty-passages",
        "passages without text",
        "remove them from the corpus and mine again",
        in_batch=_empty_passages,
    ),
    Defect(
        "unjudged-positives",
        "positives that are not relevant according to the judgments",
        "pass the judgments from which the positives were made",
        in_batch=_unjudged_positives,
    ),
    Defect(
        "bad-scores",
        "scores that are NaN, null or infinite",
        "score again: margins and labels from such scores are meaningless",
        in_batch=_bad_scores,
    ),
    Defect(
        "bad-ranks",
        "ranks below 1",
        "mine again: ranks are positions in the retriever's list, starting at 1",
        in_batch=_bad_ranks,
    ),
)
