"""Margins for the usual strategies, calibrated on a user's own rows."""

from __future__ import annotations

import logging
from typing import Any

from hnm_datasets.audit.calibration import calibrate_margin
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.piloting.measured import mine_sample
from hnm_datasets.piloting.split import Split
from hnm_datasets.piloting.strategies import NEGATIVES, deepest
from hnm_datasets.transforms.base import Transform

logger = logging.getLogger(__name__)


def margins_of(
    split: Split, corpus: Corpus, model: Any, teacher: Transform | None, num_proc: int | None
) -> dict[str, float]:
    """Calibrate margins for 5% false negatives on rows with hidden positives.

    Args:
        split: The rows of a pilot.
        corpus: The passages.
        model: The mining model; None: BM25 mines.
        teacher: A scorer, if there is one.
        num_proc: Processes that mine.

    Returns:
        A relative margin for `"score"` and one for the teacher's name. Margins that cannot be calibrated are missing.
    """
    if split.hidden is None or split.judgments is None or (model is None and teacher is None):
        return {}
    steps = [deepest(corpus, model), *([] if teacher is None else [teacher])]
    mined, _ = mine_sample(split.hidden, steps, num_proc)
    found = {}
    for name in ["score"] if teacher is None else ["score", str(getattr(teacher, "name", "teacher"))]:
        try:
            # Rounded, because the code of a strategy shows the margin and must mine the same negatives as the pilot.
            found[name] = round(calibrate_margin(mined, split.judgments, n=NEGATIVES, by=name).value, 4)
        except ValueError as error:
            logger.info("pilot: the margin by %r could not be calibrated on the rows: %s", name, error)
    return found
