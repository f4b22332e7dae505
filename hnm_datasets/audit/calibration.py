"""The settings of filters that keep false negatives rare, read off judged data."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.audit.calibration_kernels import nth_greatest_before
from hnm_datasets.audit.false_negatives import count_clusters, wilson
from hnm_datasets.audit.judgments import read_judgments
from hnm_datasets.audit.reading import is_among, pair_keys
from hnm_datasets.batch import Batch
from hnm_datasets.columns import (
    KNOWN_POSITIVE_IDS,
    NEGATIVE_IDS,
    POSITIVE_IDS,
    QUERY,
    QUERY_ID,
    score_column,
    score_name,
)
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.transforms.filters.margins import AGAINST, DEFAULT_AGAINST, limits_of

logger = logging.getLogger(__name__)


class Calibration(NamedTuple):
    """A setting of a filter and what it does to the judged candidates.

    Attributes:
        value: The margin, for `RelativeMargin` or `AbsoluteMargin`; or the threshold, for `TeacherThreshold`.
        false_negative_rate: Which share of the negatives that are taken is relevant.
        found: Which share of the wanted negatives is found: of n per row, or of all candidates.
        candidates: How many candidates this was read off.
        low: The 95% interval of the rate on as many other queries of the same kind begins here. It counts a query as
            one draw, as its candidates are alike, and allows for the chance in both samples of queries.
        high: It ends here.
        queries: How many queries the rate was read off.
    """

    value: float
    false_negative_rate: float
    found: float
    candidates: int
    low: float
    high: float
    queries: int


def calibrate_margin(
    rows: Rows,
    judgments: Rows,
    target_false_negative_rate: float = 0.05,
    *,
    n: int | None = None,
    relative: bool = True,
    by: str | None = None,
    against: str = DEFAULT_AGAINST,
    unjudged: str = "irrelevant",
) -> Calibration:
    """Find the smallest margin that keeps the share of relevant passages among the negatives below a target.

    The useful margin differs widely between models: 0.05 is far too little for one whose scores are close together.
    Hide all but one or some positives of judged queries with `hide_positives`, mine, and read the margin off the rows.
    Rows whose positives are all known cannot show a false negative, and are refused.

    Args:
        rows: Mined rows with `query_id` (or `query`) and scores of positives and candidates.
        judgments: Which passages are relevant: the second value of `hide_positives`, rows with `positive_ids`, or the
            columns `query_id`, `corpus_id` (or BEIR's names) and `score`, which is greater than 0 for relevant
            passages. Rows of queries that they do not name are left out. These and the rows may be a `Dataset`, a data
            frame, an Arrow table, a list of dicts or a dict of lists.
        target_false_negative_rate: The highest rate on these rows, from 0 to 1. On other queries it is as often above
            as below: ask for less, or judge more queries, until `high` of the answer is acceptable.
        n: The rate of the first n candidates that the margin leaves in each row: what `TopNegatives(n)` takes. None: of
            all that it leaves, most of which lie deep and are harmless, so that the rate of the first is far higher.
        relative: Calibrate `RelativeMargin`; else `AbsoluteMargin`.
        by: `"score"` for the retriever's scores, or a teacher's name; None: the teacher's where the rows have
            `negative_teacher_scores`, else the retriever's. Pass the same to the margin.
        against: The `against` of the margin, see `RelativeMargin`.
        unjudged: A candidate without a judgment counts as `"irrelevant"`, which is right if the relevant passages were
            all judged and makes the rate too low otherwise; or `"skip"` leaves it out.

    Returns:
        The margin, with the rate, its interval on other queries, and the share of negatives that it leaves.

    Raises:
        KeyError: A column is missing.
        ValueError: The rows cannot tell: there is no candidate, no query is judged, or all relevant passages are known
            positives. Or no margin reaches the target; the message says what can be reached.

    Example:
        >>> rows = {"query_id": ["q"], "negative_ids": [["a", "b", "c"]], "negative_scores": [[0.9, 0.7, 0.4]]}
        >>> judged = [{"query_id": "q", "corpus_id": "b", "score": 1}]
        >>> found = calibrate_margin(rows | {"positive_scores": [[0.8]]}, judged, 0.1, n=2)
        >>> found.value, found.found
        (0.5, 0.5)
    """
    name = "calibrate_margin"
    checks.one_of(name, "against", against, AGAINST)
    batch = Batch(dataset_of(rows, name).with_format("arrow")[:], step=name)
    by = score_name(by, batch.names)
    scores = batch.number_lists(score_column(by))
    # What a margin of 0 leaves as the limit is the positive score that margins are taken against.
    positives = limits_of(batch.number_lists(score_column(by, of="positive")), against, 0.0, relative=False)
    limits = np.repeat(positives.astype(np.float64), scores.lengths)
    gaps = limits - scores.values.astype(np.float64)
    # No share of a score of 0 lowers a limit, and a row without positives has none.
    with np.errstate(divide="ignore", invalid="ignore"):
        margins = gaps / np.abs(limits) if relative else gaps
    found = _calibrated(name, "margin", batch, margins, judgments, target_false_negative_rate, n, unjudged)
    if found.value <= 0:
        logger.warning(
            "calibrate_margin: the target is reached with a margin of %g, which drops little or nothing%s.",
            found.value,
            "; for the first few negatives of each row pass n=" if n is None else "",
        )
    return found


def calibrate_threshold(
    rows: Rows,
    judgments: Rows,
    target_false_negative_rate: float = 0.05,
    *,
    n: int | None = None,
    by: str = "teacher",
    unjudged: str = "irrelevant",
) -> Calibration:
    """Find the highest threshold of `TeacherThreshold` that keeps the share of relevant passages below a target.

    A sigmoid's 0.1 means nothing for the cosines of an embedding model, and little for a teacher from another domain.

    Args:
        rows: Rows with `query_id` (or `query`) and the teacher's scores of the candidates, mined after `hide_positives`
            hid some positives.
        judgments: Which passages are relevant, see `calibrate_margin`.
        target_false_negative_rate: The highest rate on these rows, see `calibrate_margin`.
        n: The rate of the first n candidates that the threshold leaves in each row; None: of all that it leaves. See
            `calibrate_margin`.
        by: The teacher's name, or `"score"` for the retriever's scores.
        unjudged: `"irrelevant"` or `"skip"`, see `calibrate_margin`.

    Returns:
        The threshold, with the rate, its interval on other queries, and the share of negatives that it leaves.

    Raises:
        KeyError: A column is missing.
        ValueError: The rows cannot tell: there is no candidate, no query is judged, or all relevant passages are known
            positives. Or no threshold reaches the target; the message says what can be reached.

    Example:
        >>> rows = {"query_id": ["q"], "negative_ids": [["a", "b", "c"]], "negative_teacher_scores": [[0.9, 0.7, 0.4]]}
        >>> judged = [{"query_id": "q", "corpus_id": "a", "score": 1}]
        >>> found = calibrate_threshold(rows, judged, 0.1)
        >>> 0.7 < found.value < 0.9
        True
    """
    name = "calibrate_threshold"
    batch = Batch(dataset_of(rows, name).with_format("arrow")[:], step=name)
    scores = batch.number_lists(score_column(by)).values.astype(np.float64)
    found = _calibrated(name, "threshold", batch, -scores, judgments, target_false_negative_rate, n, unjudged)
    # The threshold itself is dropped, and the score that was found is to stay.
    return found._replace(value=float(np.nextafter(-found.value, np.inf)))


def _calibrated(
    name: str,
    what: str,
    batch: Batch,
    safety: NDArray[np.float64],
    judgments: Rows,
    target_false_negative_rate: float,
    n: int | None,
    unjudged: str,
) -> Calibration:
    """Find the smallest limit for which the candidates with at least that much safety are false rarely enough.

    Args:
        name: The function's name, for errors.
        what: What is calibrated, for errors.
        batch: The mined rows.
        safety: How far each candidate is from being taken for relevant. Shape (C,).
        judgments: Which passages are relevant.
        target_false_negative_rate: From 0 to 1.
        n: How many candidates of each row count; None: all.
        unjudged: What a candidate without a judgment counts as.
    """
    target = checks.real_number(name, "target_false_negative_rate", target_false_negative_rate)
    checks.one_of(name, "unjudged", unjudged, ("irrelevant", "skip"))
    if n is not None:
        n = checks.whole_number(name, "n", n, low=1)
    candidates, queries = batch.id_lists(NEGATIVE_IDS), _queries(batch)
    asked, judged, relevance = _judged(name, batch, judgments)
    counted = np.isfinite(safety) & asked[candidates.owners]
    if not counted.any():
        raise ValueError(
            f"{name}: no candidate has a finite {what}. Do the rows have positives, and finite scores of them?"
        )
    if unjudged == "skip":
        counted &= judged
    if not counted.any():
        raise ValueError(f"{name}: none of the candidates is judged. Mine for judged queries, of the same ids.")
    candidates_read = int(counted.sum())
    # A candidate is among the first n for limits up to its own safety and above the n-th greatest before it.
    crowded = np.full(len(safety), -np.inf)
    if n is not None:
        nth_greatest_before(candidates.offsets, np.where(counted, safety, -np.inf), n, crowded)
    counted &= safety > crowded
    limits = np.concatenate([safety[counted], crowded[counted]])
    steps = np.repeat([1, -1], counted.sum())
    relevant = np.tile(relevance[counted], 2)
    order = np.argsort(-limits, kind="stable")
    limits, steps, relevant = limits[order], steps[order], relevant[order]
    taken, false = np.cumsum(steps), np.cumsum(steps * relevant)
    # A limit keeps all candidates that have it, so only the last of equal ones tells its rate.
    ends = np.append(limits[1:] != limits[:-1], True) & np.isfinite(limits) & (taken > 0)
    rates = false / np.maximum(taken, 1)
    reached = np.flatnonzero(ends & (rates <= target))
    if not len(reached):
        raise ValueError(
            f"{name}: no {what} brings the share of relevant candidates to {target:g}; the lowest is "
            f"{rates[ends].min():.3f}. Score with a teacher and calibrate by=its name, or drop more by rank first."
        )
    last = int(reached[-1])
    limit = float(limits[last])
    # The chosen candidates, counted by query.
    chosen = (safety >= limit) & (crowded < limit) & counted
    owners = candidates.owners[chosen]
    size = len(candidates)
    clusters = count_clusters(
        queries, np.bincount(owners[relevance[chosen]], minlength=size), np.bincount(owners, minlength=size)
    )
    assert clusters is not None
    # As many other queries have as much chance in them as these.
    low, high = wilson(clusters.rate, clusters.size / 2)
    wanted = candidates_read if n is None else n * int(asked.sum())
    found = clusters.negatives / wanted
    return Calibration(limit, clusters.rate, found, candidates_read, low, high, clusters.queries)


def _queries(batch: Batch) -> NDArray[np.uint64]:
    """Return 64 bits per row that name its query by its id, or by its text. Shape (B,)."""
    return digest_strings((batch.ids(QUERY_ID) if batch.has(QUERY_ID) else batch.strings(QUERY)).to_pylist())[:, 0]


def _judged(name: str, batch: Batch, judgments: Rows) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Look the candidates up in the judgments.

    Args:
        name: The function's name, for errors.
        batch: B rows with C candidates.
        judgments: In a form of `read_judgments`.

    Returns:
        The rows whose query is judged, shape (B,); the candidates that are judged, shape (C,); and those that are
        relevant, shape (C,).

    Raises:
        ValueError: The rows cannot show a false negative.
    """
    candidates = batch.id_lists(NEGATIVE_IDS)
    if not len(candidates.values):
        raise ValueError(f"{name}: the rows have no candidates. Mine first, and see which filter left none.")
    known = read_judgments(judgments, batch.has(QUERY_ID), name)
    queries = _queries(batch)
    asked = np.isin(queries, digest_strings(known.asked.to_pylist())[:, 0])
    if not asked.any():
        raise ValueError(
            f"{name}: none of the candidates is judged: no query of the rows is among the {len(known.asked)} "
            f"judgments, such as {known.asked[:1].to_pylist()}; the first is {batch.describe(0)}. Are both named alike?"
        )
    if not asked.all():
        logger.warning(
            "%s: left out %d of %d rows, whose queries are not in the judgments.", name, (~asked).sum(), len(asked)
        )

    def pairs_of(column: str) -> NDArray[np.uint64]:
        lists = batch.id_lists(column)
        coded = lists.values.dictionary_encode()
        passages = digest_strings(coded.dictionary.to_pylist())[:, 0][coded.indices.to_numpy()]
        return pair_keys(queries[lists.owners], passages)

    judged_queries = digest_strings(known.queries.to_pylist())[:, 0]
    own = pair_keys(judged_queries, digest_strings(known.passages.to_pylist())[:, 0])
    pairs = pairs_of(NEGATIVE_IDS)
    judged, relevant = is_among(pairs, np.unique(own)), is_among(pairs, np.unique(own[known.relevant]))
    seen = bool(relevant[asked[candidates.owners]].any())
    why = "the rows have no column 'positive_ids', which would tell whether any relevant passage was hidden"
    if batch.has(POSITIVE_IDS):
        columns = [column for column in (POSITIVE_IDS, KNOWN_POSITIVE_IDS) if batch.has(column)]
        shown = np.unique(np.concatenate([pairs_of(column) for column in columns]))
        hidden = judged_queries[known.relevant & ~is_among(own, shown)]
        able, rows = int((asked & np.isin(queries, hidden)).sum()), int(asked.sum())
        if 0 < able < rows / 2:
            logger.warning(
                "%s: %d of %d rows have no hidden relevant passage and cannot show a false negative; the rate is that "
                "of all rows. Leave them out to get the rate of the others.",
                name,
                rows - able,
                rows,
            )
        seen = seen or able > 0
        why = "all passages that are judged relevant are known positives of the rows, which miners exclude"
    if seen:
        return asked, judged, relevant
    raise ValueError(
        f"{name}: no false negative can be seen: {why}. Whatever the {name.removeprefix('calibrate_')}, the rate would "
        f"be 0. Hide some before mining: rows, judgments = hide_positives(queries), and mine for these rows."
    )
