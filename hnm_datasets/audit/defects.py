"""The defects that an audit looks for: each is one object with its name, its remedy and the function that finds it.

To add one, write its function and put the object into `DEFECTS`.
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
#: A passage is a hub from so many queries on, if they are so many times what a negative has on average.
_HUB_QUERIES, _HUB_TIMES = 20, 20
#: Of so many queries or more, a negative of this share of them is a hub too, if it is so many times the average.
_HUB_OF, _HUB_SHARE, _HUB_SHARE_TIMES = 10, 0.5, 2


class SampledBatch(NamedTuple):
    """Some sampled rows, whose texts were compared.

    Attributes:
        rows: The rows.
        near_positives: Negatives whose text is nearly that of a positive of their row. Shape (P,).
        known: Negatives that are a known positive of their query, or have the text of one. Shape (P,).
    """

    rows: QueryRows
    near_positives: NDArray[np.bool_]
    known: NDArray[np.bool_]


class Counted(Protocol):
    """The counts of a whole dataset: `Tally` is one."""

    @property
    def negatives(self) -> Counter:
        """Of how many queries each passage is a negative."""

    @property
    def negatives_per_query(self) -> NDArray[np.int32]:
        """How many negatives each query has. Shape (Q,)."""

    @property
    def row_keys(self) -> NDArray[np.uint64]:
        """64 bits that two rows share if they hold the same. Shape (B,)."""

    def name_of(self, keys: NDArray[np.uint64]) -> list[str]:
        """Name negatives by their numbers."""


@dataclass(frozen=True)
class Defect:
    """Something that can be wrong with a dataset. Exactly one of the three functions finds it.

    Attributes:
        name: A short name, such as `"known-positives"`.
        what: What is counted.
        remedy: What to do about it.
        in_batch: Marks it in a batch of rows; all rows are read.
        in_sample: Marks it in a batch of sampled rows, whose texts were compared.
        in_all: Finds it in the counts of the whole dataset.
    """

    name: str
    what: str
    remedy: str
    in_batch: Callable[[AuditedBatch], Iterable[Marked]] | None = None
    in_sample: Callable[[SampledBatch], Iterable[Marked]] | None = None
    in_all: Callable[[Counted], Found] | None = None


@dataclass(frozen=True)
class FoundDefect:
    """A defect that a dataset has.

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


def found_defects(counted: Counted, found: Mapping[str, Found], sampled_rows: int) -> tuple[FoundDefect, ...]:
    """List the defects of a dataset, in the order of `DEFECTS`.

    Args:
        counted: The counts of the whole dataset.
        found: What was found in batches and in the sample, by name.
        sampled_rows: The size of the sample.
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
    """Return the defect of rows of which more negatives than `FALSE_NEGATIVES` are relevant; none of others.

    Args:
        estimate: The share of false negatives; None if nothing tells.
        examples: Some of them, described.
        of_rows: In how many rows they were looked for.
    """
    if estimate is None or estimate.rate <= FALSE_NEGATIVES:
        return ()
    what = (
        f"negatives that are relevant, by {estimate.by}: {percent(estimate.rate)} of {estimate.negatives:,}, more than "
        f"{percent(FALSE_NEGATIVES)}"
    )
    remedy = (
        "drop likely ones with RelativeMargin or TeacherThreshold, at a limit from calibrate_margin or "
        "calibrate_threshold"
    )
    return (FoundDefect("false-negatives", estimate.false, what, remedy, tuple(examples), of_rows),)


# ---- in a batch --------------------------------------------------------------------------------------------------


def _swapped_columns(batch: AuditedBatch) -> Iterator[Marked]:
    rows, corpus = batch.rows, batch.corpus
    swapped = np.zeros(len(batch.queries), dtype=bool)
    if corpus is not None and rows.positives.texts is not None:
        swapped |= batch.rows_with("positive", ~batch.positives.known) & batch.as_passages.known
    elif rows.positives.texts is not None:
        # The query is mostly a positive elsewhere, and the positive mostly a query. In pairs that are there in both
        # directions, such as paraphrases, neither is mostly one or the other.
        texts, queries = batch.positives.text, batch.as_passages.text
        asked = batch.texts_as_queries.of(texts) > batch.texts_as_positives.of(texts)
        answers = batch.texts_as_queries.of(queries) < batch.texts_as_positives.of(queries)
        swapped |= batch.rows_with("positive", asked) & answers
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
    # The same text as one positive, and nearly that of another: it counts among the exact ones.
    yield Marked("negative", batch.near_positives & ~batch.known)


def _repeated_rows(counted: Counted) -> Found:
    repeated = np.ones(len(counted.row_keys), dtype=bool)
    repeated[np.unique(counted.row_keys, return_index=True)[1]] = False
    found = Found()
    found.add(repeated, lambda row: f"row {row}")
    return found


def find_hubs(counted: Counted) -> Found:
    """Find the passages that are a negative far more often than others.

    A hub (Radovanović et al. 2010, *Hubs in space*) is here a passage that is a negative of at least 20 queries and of
    twenty times as many as passages that are negatives at all are on average; or, of ten queries or more, a negative of
    half of them and of twice the average.
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
        "rows whose columns look swapped: a query that is a passage, or a positive that is not relevant beside a "
        "negative that is",
        "check the order of the columns",
        in_batch=_swapped_columns,
    ),
    Defect(
        "known-positives",
        "negatives that are a known positive of the same query",
        "tell each row all positives of its question with pool_positives, and mine again",
        in_batch=_known_positives,
    ),
    Defect(
        "positives-of-the-question",
        "negatives that are a known positive of another query with the same text, but for case and white space",
        "tell each row all positives of its question with pool_positives, and mine again",
        in_batch=_positives_of_question,
    ),
    Defect(
        "duplicates-of-positives",
        "negatives with the same text as a positive of the same query, but for case, white space and title",
        "mine from a Corpus, which knows equal texts, or drop them",
        in_batch=_copies_of_positives,
    ),
    Defect(
        "near-duplicates-of-positives",
        "negatives whose text is nearly that of a positive",
        "drop them with DropNearDuplicates",
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
        "negatives whose text is in their row already",
        "drop the repetitions",
        in_batch=_repeated_negatives,
    ),
    Defect(
        "repeated-rows",
        "rows that repeat an earlier one",
        "drop them, or train on each twice knowingly",
        in_all=_repeated_rows,
    ),
    Defect(
        "hubs",
        "passages that are a negative of very many queries",
        "look at them: they are often titles, boilerplate or uninformative text; draw negatives with SampleNegatives",
        in_all=find_hubs,
    ),
    Defect("no-negatives", "rows without a negative", "mine with a larger k, or drop them", in_batch=_no_negatives),
    Defect("no-positives", "rows without a positive", "drop them, or annotate", in_batch=_no_positives),
    Defect(
        "unknown-passages",
        "passages that are not in the corpus",
        "pass the corpus that they were mined from, with the same titles",
        in_batch=_unknown_passages,
    ),
    Defect(
        "empty-passages",
        "passages without text",
        "filter them out of the corpus and mine again",
        in_batch=_empty_passages,
    ),
    Defect(
        "unjudged-positives",
        "positives that the judgments do not call relevant",
        "pass the judgments that the positives came from",
        in_batch=_unjudged_positives,
    ),
    Defect(
        "bad-scores",
        "scores that are NaN, null or infinite",
        "score again: a margin or a label of them means nothing",
        in_batch=_bad_scores,
    ),
    Defect(
        "bad-ranks",
        "ranks below 1",
        "mine again: ranks are positions in the retriever's list, from 1 on",
        in_batch=_bad_ranks,
    ),
)
