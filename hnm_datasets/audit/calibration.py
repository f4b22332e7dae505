"""The settings of filters that keep false negatives rare, read off judged data."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.audit.calibration_kernels import nth_greatest_before
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, QUERY_ID, score_column, score_name
from hnm_datasets.transforms.filters.margins import AGAINST, limits_of

logger = logging.getLogger(__name__)


class Calibration(NamedTuple):
    """A setting of a filter and what it does to the judged candidates.

    Attributes:
        value: The margin, for `RelativeMargin` or `AbsoluteMargin`; or the threshold, for `TeacherThreshold`.
        false_negative_rate: Which share of the negatives that are taken is relevant.
        found: Which share of the wanted negatives is found: of n per row, or of all candidates.
        candidates: How many candidates this was read off.
    """

    value: float
    false_negative_rate: float
    found: float
    candidates: int


def calibrate_margin(
    rows: Dataset,
    judgments: Dataset,
    target_false_negative_rate: float = 0.05,
    *,
    n: int | None = None,
    relative: bool = True,
    by: str | None = None,
    against: str = "min",
    unjudged: str = "irrelevant",
) -> Calibration:
    """Find the smallest margin that keeps the share of relevant passages among the negatives below a target.

    The useful margin differs widely between models: 0.05 is far too little for one whose scores lie close together.
    Mine for a sample of judged queries whose positives are hidden but for one or some, and read the margin off it.

    Args:
        rows: Mined rows with `query_id` and scores of positives and candidates.
        judgments: The columns `query_id`, `corpus_id` and `score`, which is greater than 0 for relevant passages.
        target_false_negative_rate: From 0 to 1.
        n: The rate of the first n candidates that the margin leaves in each row: what `TopNegatives(n)` takes. None: of
            all that it leaves, most of which lie deep and are harmless, so that the rate of the first is far higher.
        relative: Calibrate `RelativeMargin`; else `AbsoluteMargin`.
        by: `"score"` for the retriever's scores, or a teacher's name; None: the teacher's where the rows have
            `negative_teacher_scores`, else the retriever's. Pass the same to the margin.
        against: What the margin will be taken against, see `RelativeMargin`.
        unjudged: A candidate without a judgment counts as `"irrelevant"`, which is right if the relevant passages were
            all judged and makes the rate too low otherwise; or `"skip"` leaves it out.

    Returns:
        The margin, with the rate and the share of negatives that it leaves.

    Raises:
        KeyError: A column is missing.
        ValueError: No candidate is judged, or no margin reaches the target; the message says what can be reached.

    Example:
        >>> rows = {"query_id": ["q"], "negative_ids": [["a", "b", "c"]], "negative_scores": [[0.9, 0.7, 0.4]]}
        >>> rows = Dataset.from_dict(rows | {"positive_scores": [[0.8]]})
        >>> judged = Dataset.from_dict({"query_id": ["q"], "corpus_id": ["b"], "score": [1]})
        >>> found = calibrate_margin(rows, judged, 0.1, n=2)
        >>> found.value, found.found
        (0.5, 0.5)
    """
    name = "calibrate_margin"
    checks.one_of(name, "against", against, AGAINST)
    batch = Batch(rows.with_format("arrow")[:], step=name)
    by = score_name(by, batch.names)
    scores = batch.number_lists(score_column(by))
    # What a margin of 0 leaves as the limit is the positive score that margins are taken against.
    positives = limits_of(batch.number_lists(score_column(by, of="positive")), against, 0.0, relative=False)
    limits = np.repeat(positives.astype(np.float64), scores.lengths)
    gaps = limits - scores.values.astype(np.float64)
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
    rows: Dataset,
    judgments: Dataset,
    target_false_negative_rate: float = 0.05,
    *,
    n: int | None = None,
    by: str = "teacher",
    unjudged: str = "irrelevant",
) -> Calibration:
    """Find the highest threshold of `TeacherThreshold` that keeps the share of relevant passages below a target.

    A sigmoid's 0.1 means nothing for the cosines of an embedding model, and little for a teacher from another domain.

    Args:
        rows: Mined rows with `query_id` and the teacher's scores of the candidates.
        judgments: The columns `query_id`, `corpus_id` and `score`, which is greater than 0 for relevant passages.
        target_false_negative_rate: From 0 to 1.
        n: The rate of the first n candidates that the threshold leaves in each row; None: of all that it leaves. See
            `calibrate_margin`.
        by: The teacher's name, or `"score"` for the retriever's scores.
        unjudged: `"irrelevant"` or `"skip"`, see `calibrate_margin`.

    Returns:
        The threshold, with the rate and the share of negatives that it leaves.

    Raises:
        KeyError: A column is missing.
        ValueError: No candidate is judged, or no threshold reaches the target; the message says what can be reached.

    Example:
        >>> rows = {"query_id": ["q"], "negative_ids": [["a", "b", "c"]], "negative_teacher_scores": [[0.9, 0.7, 0.4]]}
        >>> judged = Dataset.from_dict({"query_id": ["q"], "corpus_id": ["a"], "score": [1]})
        >>> found = calibrate_threshold(Dataset.from_dict(rows), judged, 0.1)
        >>> 0.7 < found.value < 0.9
        True
    """
    name = "calibrate_threshold"
    batch = Batch(rows.with_format("arrow")[:], step=name)
    scores = batch.number_lists(score_column(by)).values.astype(np.float64)
    found = _calibrated(name, "threshold", batch, -scores, judgments, target_false_negative_rate, n, unjudged)
    # The threshold itself is dropped, and the score that was found is to stay.
    return found._replace(value=float(np.nextafter(-found.value, np.inf)))


def _calibrated(
    name: str,
    what: str,
    batch: Batch,
    safety: NDArray[np.float64],
    judgments: Dataset,
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
    candidates = batch.string_lists(NEGATIVE_IDS)
    queries: NDArray[Any] = np.array(batch.strings(QUERY_ID).to_pylist(), dtype=object)
    pairs = pd.DataFrame({"query_id": queries[candidates.owners], "corpus_id": candidates.values.to_pylist()})
    columns = ["query_id", "corpus_id", "score"]
    missing = [column for column in columns if column not in judgments.column_names]
    if missing:
        raise KeyError(f"{name}: the judgments need the columns {missing}, and have {judgments.column_names}.")
    judged = judgments.select_columns(columns).to_pandas()
    relevance = pairs.merge(judged, on=["query_id", "corpus_id"], how="left")["score"].to_numpy()
    counted = np.isfinite(safety)
    if unjudged == "skip":
        counted &= ~np.isnan(relevance)
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
    relevant = np.tile(relevance[counted] > 0, 2)
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
    wanted = candidates_read if n is None else n * len(candidates)
    return Calibration(float(limits[last]), float(rates[last]), float(taken[last] / wanted), candidates_read)
