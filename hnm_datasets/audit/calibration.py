"""Calibrate the limits of filters on judged data, so that false negatives stay rare."""

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
    """A calibrated limit of a filter, and its effect on the judged candidates.

    Attributes:
        value: The margin, for `RelativeMargin` or `AbsoluteMargin`; or the threshold, for `TeacherThreshold`.
        false_negative_rate: The share of the remaining negatives that is relevant.
        found: The share of the wanted negatives that remains: of n per row, or of all candidates.
        candidates: The number of candidates used.
        low: Lower end of the 95% interval of the rate on the same number of other queries of the same kind. The
            interval treats each query as one draw, because its candidates are similar, and includes the sampling error
            of both sets of queries.
        high: Upper end of this interval.
        queries: The number of queries used.
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
    """Find the smallest margin that keeps the share of relevant passages among the negatives at or below a target.

    Useful margins differ widely between models, because their scores are spread differently. Hide some positives of
    judged queries with `hide_positives`, mine with these rows, and calibrate the margin on the result.
    Rows whose relevant passages are all known positives cannot contain a false negative; if all rows are like this,
    the function raises an error.

    Args:
        rows: Mined rows with `query_id` (or `query`) and scores of positives and candidates. `rows` and `judgments` may
            each be a `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists.
        judgments: The relevant passages: the second value of `hide_positives`, rows with `positive_ids`, or the columns
            `query_id`, `corpus_id` (or BEIR's names) and `score`, above 0 for relevant passages. Rows without a judged
            query are skipped.
        target_false_negative_rate: The maximum rate on these rows, from 0 to 1. On other queries, the rate may be
            higher: lower the target, or judge more queries, until `high` in the result is acceptable.
        n: Compute the rate over the first n remaining candidates of each row, those that `TopNegatives(n)` keeps. None:
            over all remaining candidates. Most of these rank low and are not relevant, so the rate among the first
            candidates is much higher.
        relative: Calibrate `RelativeMargin`; False: `AbsoluteMargin`.
        by: `"score"` for the retriever's scores, or the name of a teacher. None: the teacher's scores if the rows have
            `negative_teacher_scores`, else the retriever's. Pass the same value to the margin.
        against: The `against` of the margin, see `RelativeMargin`.
        unjudged: `"irrelevant"`: candidates without a judgment count as not relevant. This is right if all relevant
            passages are judged; otherwise the rate is too low. `"skip"`: ignore these candidates.

    Returns:
        The margin, the rate with its interval on other queries, and the share of negatives that remains.

    Raises:
        KeyError: A column is missing.
        ValueError: The margin cannot be calibrated: there are no candidates, no query is judged, or all relevant
            passages are known positives. Or no margin reaches the target; the message has the lowest possible rate.

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
    # The limit for a margin of 0 is the positive score to which margins refer.
    positives = limits_of(batch.number_lists(score_column(by, of="positive")), against, 0.0, relative=False)
    limits = np.repeat(positives.astype(np.float64), scores.lengths)
    gaps = limits - scores.values.astype(np.float64)
    # A relative margin cannot lower a limit of 0, and rows without positives have no limit.
    with np.errstate(divide="ignore", invalid="ignore"):
        margins = gaps / np.abs(limits) if relative else gaps
    found = _calibrated(name, "margin", batch, margins, judgments, target_false_negative_rate, n, unjudged)
    if found.value <= 0:
        logger.warning(
            "calibrate_margin: a margin of %g reaches the target, which drops few or no candidates%s.",
            found.value,
            "; to calibrate on the first negatives of each row, pass n=" if n is None else "",
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
    """Find the highest threshold of `TeacherThreshold` that keeps the share of relevant passages at or below a target.

    A threshold for the sigmoid scores of one teacher does not fit the cosine scores of an embedding model, and may not
    fit a teacher from another domain.

    Args:
        rows: Rows with `query_id` (or `query`) and the teacher's scores of the candidates, mined after `hide_positives`
            hid some positives.
        judgments: The relevant passages, see `calibrate_margin`.
        target_false_negative_rate: The maximum rate on these rows, see `calibrate_margin`.
        n: Compute the rate over the first n remaining candidates of each row; None: over all. See `calibrate_margin`.
        by: The teacher's name, or `"score"` for the retriever's scores.
        unjudged: `"irrelevant"` or `"skip"`, see `calibrate_margin`.

    Returns:
        The threshold, the rate with its interval on other queries, and the share of negatives that remains.

    Raises:
        KeyError: A column is missing.
        ValueError: The threshold cannot be calibrated: there are no candidates, no query is judged, or all relevant
            passages are known positives. Or no threshold reaches the target; the message has the lowest possible rate.

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
    # The filter drops scores equal to the threshold, but the score found here must stay.
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
    """Find the smallest limit at which the candidates with at least this `safety` reach the target rate.

    Args:
        name: The name of the function, for errors.
        what: The calibrated quantity, for errors.
        batch: The mined rows.
        safety: The higher, the less likely the candidate is relevant. Shape (C,).
        judgments: The relevant passages.
        target_false_negative_rate: From 0 to 1.
        n: The number of first candidates of each row to count; None: all.
        unjudged: How to count candidates without a judgment.
    """
    target = checks.real_number(name, "target_false_negative_rate", target_false_negative_rate)
    checks.one_of(name, "unjudged", unjudged, ("irrelevant", "skip"))
    if n is not None:
        n = checks.whole_number(name, "n", n, low=1)
    candidates, queries = batch.id_lists(NEGATIVE_IDS), _queries(batch)
    has_judgments, judged, relevance = _judged(name, batch, judgments)
    counted = np.isfinite(safety) & has_judgments[candidates.owners]
    if not counted.any():
        raise ValueError(
            f"{name}: no candidate has a finite {what}. Check that the rows have positives with finite scores."
        )
    if unjudged == "skip":
        counted &= judged
    if not counted.any():
        raise ValueError(f"{name}: none of the candidates is judged. Mine for judged queries with the same ids.")
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
    # A limit keeps all candidates equal to it, so only the last of equal ones has the right rate.
    ends = np.append(limits[1:] != limits[:-1], True) & np.isfinite(limits) & (taken > 0)
    rates = false / np.maximum(taken, 1)
    reached = np.flatnonzero(ends & (rates <= target))
    if not len(reached):
        raise ValueError(
            f"{name}: no {what} lowers the share of relevant candidates to {target:g}; the lowest possible share is "
            f"{rates[ends].min():.3f}. Score with a teacher and pass its name as by=, or drop more candidates by rank "
            f"first."
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
    # The same number of other queries has the same sampling error; half the size accounts for both samples.
    low, high = wilson(clusters.rate, clusters.size / 2)
    wanted = candidates_read if n is None else n * int(has_judgments.sum())
    found = clusters.negatives / wanted
    return Calibration(limit, clusters.rate, found, candidates_read, low, high, clusters.queries)


def _queries(batch: Batch) -> NDArray[np.uint64]:
    """Return 64 bits per row that identify its query, by id or by text. Shape (B,)."""
    return digest_strings((batch.ids(QUERY_ID) if batch.has(QUERY_ID) else batch.strings(QUERY)).to_pylist())[:, 0]


def _judged(name: str, batch: Batch, judgments: Rows) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Look the candidates up in the judgments.

    Args:
        name: The name of the function, for errors.
        batch: B rows with C candidates.
        judgments: Judgments in a form that `read_judgments` accepts.

    Returns:
        Masks of the rows with a judged query, shape (B,); of the judged candidates, shape (C,); and of the relevant
        candidates, shape (C,).

    Raises:
        ValueError: The rows cannot contain a false negative.
    """
    candidates = batch.id_lists(NEGATIVE_IDS)
    if not len(candidates.values):
        raise ValueError(f"{name}: the rows have no candidates. Mine first, or check which filter dropped them all.")
    known = read_judgments(judgments, batch.has(QUERY_ID), name)
    queries = _queries(batch)
    has_judgments = np.isin(queries, digest_strings(known.judged_queries.to_pylist())[:, 0])
    if not has_judgments.any():
        raise ValueError(
            f"{name}: none of the candidates is judged: no query of the rows is among the {len(known.judged_queries)} "
            f"judgments, such as {known.judged_queries[:1].to_pylist()}; the first is {batch.describe(0)}. Check that "
            f"both use the same ids."
        )
    if not has_judgments.all():
        logger.warning(
            "%s: skipped %d of %d rows, because their queries are not judged.",
            name,
            (~has_judgments).sum(),
            len(has_judgments),
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
    seen = bool(relevant[has_judgments[candidates.owners]].any())
    why = "the rows have no column 'positive_ids', which would show whether relevant passages are hidden"
    if batch.has(POSITIVE_IDS):
        columns = [column for column in (POSITIVE_IDS, KNOWN_POSITIVE_IDS) if batch.has(column)]
        shown = np.unique(np.concatenate([pairs_of(column) for column in columns]))
        hidden = judged_queries[known.relevant & ~is_among(own, shown)]
        able, rows = int((has_judgments & np.isin(queries, hidden)).sum()), int(has_judgments.sum())
        if 0 < able < rows / 2:
            logger.warning(
                "%s: %d of %d rows have no hidden relevant passage, so they cannot contain a false negative; the rate "
                "is over all rows. Remove them to get the rate of the others.",
                name,
                rows - able,
                rows,
            )
        seen = seen or able > 0
        why = "all passages judged relevant are known positives of the rows, which miners exclude"
    if seen:
        return has_judgments, judged, relevant
    raise ValueError(
        f"{name}: the rows cannot contain false negatives: {why}. The rate would be 0 for every "
        f"{name.removeprefix('calibrate_')}. Hide some positives before mining: rows, judgments = "
        f"hide_positives(queries), and mine with these rows."
    )
