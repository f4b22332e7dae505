"""The margin that keeps false negatives rare, read off judged data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from datasets import Dataset

from hnm_datasets import checks
from hnm_datasets.columns import NEGATIVE_IDS, QUERY_ID, Batch, score_column
from hnm_datasets.transforms.margin import AGAINST, limits_of


class Calibration(NamedTuple):
    """A margin and what it does to the judged candidates.

    Attributes:
        margin: For `RelativeMargin` or `AbsoluteMargin`.
        false_negative_rate: Which share of the candidates that it keeps is relevant.
        kept: Which share of the candidates it keeps.
        candidates: How many candidates this was read off.
    """

    margin: float
    false_negative_rate: float
    kept: float
    candidates: int


def calibrate_margin(
    rows: Dataset,
    judgements: Dataset,
    target_false_negative_rate: float = 0.05,
    *,
    relative: bool = True,
    by: str = "score",
    against: str = "min",
    unjudged: str = "irrelevant",
) -> Calibration:
    """Find the smallest margin that keeps the share of relevant passages among the negatives below a target.

    The useful margin differs widely between models: 0.05 is far too little for one whose scores lie close together.
    Mine for a sample of judged queries whose positives are hidden but for one or some, and read the margin off it.

    Args:
        rows: Mined rows with `query_id` and scores of positives and candidates.
        judgements: The columns `query_id`, `corpus_id` and `score`, which is greater than 0 for relevant passages.
        target_false_negative_rate: From 0 to 1.
        relative: Calibrate `RelativeMargin`; else `AbsoluteMargin`.
        by: `"score"` for the retriever's scores, or a teacher's name.
        against: What the margin will be taken against, see `RelativeMargin`.
        unjudged: A candidate without a judgement counts as `"irrelevant"`, which is right if the relevant passages were
            all judged and makes the rate too low otherwise; or `"skip"` leaves it out.

    Returns:
        The margin, with the rate and the share of candidates that it leaves.

    Raises:
        KeyError: A column is missing.
        ValueError: No candidate is judged, or no margin reaches the target; the message says what can be reached.

    Example:
        >>> rows = {"query_id": ["q"], "negative_ids": [["a", "b", "c"]], "negative_scores": [[0.9, 0.7, 0.4]]}
        >>> rows = Dataset.from_dict(rows | {"positive_scores": [[0.8]]})
        >>> judged = Dataset.from_dict({"query_id": ["q"], "corpus_id": ["b"], "score": [1]})
        >>> calibrate_margin(rows, judged, 0.1)
        Calibration(margin=0.5, false_negative_rate=0.0, kept=0.3333333333333333, candidates=3)
    """
    name = "calibrate_margin"
    target = checks.real_number(name, "target_false_negative_rate", target_false_negative_rate)
    checks.one_of(name, "against", against, AGAINST)
    checks.one_of(name, "unjudged", unjudged, ("irrelevant", "skip"))
    batch = Batch(rows.with_format("arrow")[:], step=name)
    candidates = batch.string_lists(NEGATIVE_IDS)
    scores = batch.number_lists(score_column(by)).values.astype(np.float64)
    # What a margin of 0 leaves as the limit is the positive score that margins are taken against.
    positives = limits_of(batch.number_lists(score_column(by, of="positive")), against, 0.0, relative=False)
    against_scores = np.repeat(positives.astype(np.float64), candidates.lengths)
    gaps = against_scores - scores
    margins = gaps / np.abs(against_scores) if relative else gaps
    pairs = pd.DataFrame(
        {
            "query_id": np.repeat(np.array(batch.strings(QUERY_ID).to_pylist(), dtype=object), candidates.lengths),
            "corpus_id": candidates.values.to_pylist(),
            "margin": margins,
        }
    )
    judged = judgements.select_columns(["query_id", "corpus_id", "score"]).to_pandas()
    pairs = pairs.merge(judged, on=["query_id", "corpus_id"], how="left")
    pairs = pairs[np.isfinite(pairs["margin"])]
    pairs = pairs.dropna(subset="score") if unjudged == "skip" else pairs.fillna({"score": 0})
    if not len(pairs):
        raise ValueError(f"{name}: none of the candidates is judged. Mine for judged queries, of the same ids.")
    pairs = pairs.sort_values("margin", ascending=False, kind="stable")
    margin = pairs["margin"].to_numpy()
    rates = np.cumsum(pairs["score"].to_numpy() > 0) / np.arange(1, len(pairs) + 1)
    # A margin keeps all candidates that have it, so only the last of equal ones tells its rate.
    ends = np.append(margin[1:] != margin[:-1], True)
    reached = np.flatnonzero(ends & (rates <= target))
    if not len(reached):
        raise ValueError(
            f"{name}: no margin brings the share of relevant candidates to {target:g}; the lowest is "
            f"{rates[ends].min():.3f}. Score with a teacher and calibrate by=its name, or drop more by rank first."
        )
    last = int(reached[-1])
    return Calibration(float(margin[last]), float(rates[last]), (last + 1) / len(pairs), len(pairs))
