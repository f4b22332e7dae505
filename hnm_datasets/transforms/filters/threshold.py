"""Denoising: a teacher decides which candidates are false negatives and which are unannotated positives."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.arrow import is_string, list_array
from hnm_datasets.arrays.ragged import Ragged, interleave_lists, kept_offsets
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS, score_column
from hnm_datasets.transforms.base import CandidateFilter
from hnm_datasets.transforms.filters.limits import span
from hnm_datasets.transforms.filters.reasons import compared

logger = logging.getLogger(__name__)

#: The column of promoted positives, so that they can be counted and reverted.
PROMOTED_IDS = "promoted_ids"


@dataclass(frozen=True)
class TeacherThreshold(CandidateFilter):
    """Keep a candidate only if a teacher is confident that it is not relevant.

    Retrieved passages are often relevant but unannotated. RocketQA (Qu et al. 2021, https://arxiv.org/abs/2010.08191)
    keeps the candidates that a cross-encoder scores below 0.1. With `promote`, candidates above `positive_above` become
    positives of their row, as in RLHN (Thakur et al. 2025, https://arxiv.org/abs/2505.16967), and no later step mines
    them again. Candidates between the two thresholds are dropped.

    Args:
        negative_below: Keep a candidate if its score is lower. In the units of the teacher: RocketQA's 0.1 is a sigmoid
            output.
        positive_above: With `promote`: a candidate with a higher score becomes a positive.
        by: The teacher's name; `"teacher"` reads `negative_teacher_scores`.
        promote: Move confident false negatives to the positives.

    Columns read:
        `negative_ids` and the score column; with `promote` also `positive_ids`.

    Columns written:
        All aligned `negative_*` columns; with `promote` also `positive_ids`, `promoted_ids` and the `positive_*_scores`
        columns, which gain the scores of the promoted candidates.

    Raises:
        ValueError: The thresholds contradict each other, only one of `promote` and `positive_above` is given, or a
            `positive_*` list has no `negative_*` counterpart with the promoted candidates' values.

    Example:
        >>> batch = {"negative_ids": [["a", "b", "c"]], "negative_teacher_scores": [[0.95, 0.5, 0.01]]}
        >>> TeacherThreshold(0.1)(batch)
        {'negative_ids': [['c']], 'negative_teacher_scores': [[0.01]]}
        >>> batch |= {"positive_ids": [["p"]], "positive_teacher_scores": [[0.99]]}
        >>> kept = TeacherThreshold(0.1, 0.9, promote=True)(batch)
        >>> kept["positive_ids"], kept["positive_teacher_scores"], kept["promoted_ids"]
        ([['p', 'a']], [[0.99, 0.95]], [['a']])
    """

    negative_below: float = 0.1
    positive_above: float | None = None
    by: str = "teacher"
    promote: bool = False
    version: ClassVar[int] = 2

    @property
    def input_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step reads."""
        own = (NEGATIVE_IDS, score_column(self.by))
        return (*own, POSITIVE_IDS) if self.promote else own

    @property
    def output_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step writes."""
        return ("negative_*", POSITIVE_IDS, "positive_*", PROMOTED_IDS) if self.promote else ("negative_*",)

    def __post_init__(self) -> None:
        name = "TeacherThreshold"
        self._set(
            negative_below=checks.real_number(name, "negative_below", self.negative_below),
            promote=checks.yes_or_no(name, "promote", self.promote),
        )
        if not isinstance(self.by, str):
            raise TypeError(f"{name}: by must be a teacher's name, got {self.by!r}.")
        if self.promote != (self.positive_above is not None):
            raise ValueError(
                f"{name}: positive_above is the score above which promote=True moves candidates to the positives; pass "
                f"both or neither."
            )
        if self.positive_above is not None:
            self._set(positive_above=checks.real_number(name, "positive_above", self.positive_above))
            if self.positive_above < self.negative_below:
                raise ValueError(
                    f"{name}: a candidate between positive_above={self.positive_above:g} and negative_below="
                    f"{self.negative_below:g} would be both; positive_above must not be lower than negative_below."
                )

    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        return np.asarray(batch.scores(score_column(self.by)).values.astype(np.float64) < self.negative_below)

    def _why_dropped(self, batch: Batch, candidates: Ragged[pa.Array], dropped: NDArray[np.int64]) -> list[str]:
        def why(score: float) -> str:
            if self.positive_above is not None and score > self.positive_above:
                return compared(score, ">", "positive_above", self.positive_above)
            return compared(score, ">=", "negative_below", self.negative_below)

        return list(map(why, batch.scores(score_column(self.by)).values[dropped].astype(np.float64).tolist()))

    def _limits_met(self, batch: Batch, candidates: Ragged[pa.Array], emptied: NDArray[np.bool_]) -> str:
        name = score_column(self.by)
        scores = batch.scores(name).values[emptied[candidates.owners]]
        return (
            f"their {name!r} range {span(scores)}, but the step keeps only scores below "
            f"negative_below={self.negative_below:g}. Set it in the units of the teacher (0.1 is for sigmoid outputs), "
            f"or fit it to judged rows with calibrate_threshold."
        )

    def _apply(self, batch: Batch) -> Mapping[str, pa.Array]:
        columns = super()._apply(batch)
        if self.positive_above is None:
            return columns
        scores = batch.scores(score_column(self.by))
        rise = scores.values.astype(np.float64) > self.positive_above
        logger.info("%s: %d candidates of %d rows became positives.", batch.step, int(rise.sum()), len(scores))
        return {**columns, **self._promoted(batch, batch.candidates(), rise)}

    def _promoted(
        self, batch: Batch, lists: Mapping[str, Ragged[pa.Array]], rise: NDArray[np.bool_]
    ) -> dict[str, pa.Array]:
        """Return the lists of positives with the promoted candidates appended."""
        positives = batch.id_lists(POSITIVE_IDS)
        mask = pa.array(rise)
        ids = lists[NEGATIVE_IDS]
        promoted = Ragged(kept_offsets(ids.offsets, rise), ids.values.filter(mask).cast(pa.string()))
        offsets, order = interleave_lists(positives, promoted)
        columns = {}
        for name, own in batch.positives().items():
            batch.check_aligned(POSITIVE_IDS, positives, name, own)
            source = "negative_" + name.removeprefix("positive_")
            if source not in lists:
                raise ValueError(
                    f"{batch.step}: {name!r} has no counterpart {source!r} with the values of the promoted candidates. "
                    f"Add {source!r}, or remove the column {name!r}."
                )
            risen = lists[source].values.filter(mask)
            typed = _common_type(own.values.type, risen.type)
            if typed is None:
                raise TypeError(
                    f"{batch.step}: {source!r} has lists of {risen.type} but {name!r} has lists of {own.values.type}, "
                    f"so a promoted candidate's value does not fit. Cast one of them, or remove the column {name!r}."
                )
            both = pa.concat_arrays([own.values.cast(typed), risen.cast(typed)])
            columns[name] = list_array(offsets, both.take(pa.array(order)))
        return columns | {PROMOTED_IDS: list_array(promoted.offsets, promoted.values)}


def _common_type(own: pa.DataType, risen: pa.DataType) -> pa.DataType | None:
    """Return a type for the values of both, or None if there is none."""
    # If all lists of a batch are empty, its type is null.
    if pa.types.is_null(own) or pa.types.is_null(risen):
        return risen if pa.types.is_null(own) else own
    if all(pa.types.is_integer(one) or pa.types.is_floating(one) for one in (own, risen)):
        return pa.from_numpy_dtype(np.result_type(own.to_pandas_dtype(), risen.to_pandas_dtype()))
    return own if own == risen or (is_string(own) and is_string(risen)) else None
