"""The base of all shapes: convert mined rows to training rows, with texts instead of ids.

A shape changes the number of rows, and `Dataset.map` does not handle this well: it keeps the old columns as they are,
and if the total number of rows happens to match, they end up next to the wrong rows. Therefore a shape in `Dataset.map`
also repeats the other columns for each new row and removes the lists that it has consumed (`Batch.answer`).
`remove_columns=` works as usual.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.answers import NewRows
from hnm_datasets.arrays.ragged import Ragged, offsets_of, positions_within
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS, QUERY, QUERY_ID, score_column
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.runtime.notices import tell_of_batch
from hnm_datasets.transforms.base import Transform
from hnm_datasets.transforms.shapes.passages import ShapedPassages
from hnm_datasets.transforms.shapes.positives import Examples, choose_positives

logger = logging.getLogger(__name__)


#: The capacity of an Arrow string column, which has 32-bit offsets.
_MAX_BYTES = (1 << 31) - 1


_MISSING = ("drop", "keep", "pad", "error")


@dataclass(frozen=True)
class Shape(Transform):
    """A step that converts mined rows to training rows. Subclasses implement `_shape`.

    Known positives of the question and copies of them are removed from the negatives, wherever those come from.
    """

    version: ClassVar[int] = 2

    corpus: Corpus
    n: int | None = None
    positives: str = "each"
    missing: str = "drop"
    with_ids: bool = False
    with_scores: bool | str = False
    seed: int = 0
    labels: str | None = None
    by: str = "teacher"

    _positives: ClassVar[tuple[str, ...]] = ("each", "first", "random")
    _labels: ClassVar[tuple[str, ...]] = ("scores", "margins")
    #: Whether a new row can have null in place of a missing passage.
    _has_gaps: ClassVar[bool] = True
    #: Remove known positives from the negatives.
    _drops_known: ClassVar[bool] = True

    @property
    def _wanted(self) -> int:
        """The number of negatives below which a query is short."""
        return self.n or 1

    @property
    def _needed(self) -> int:
        """The number of negatives below which `missing="drop"` drops a query."""
        return 1

    @property
    def _is_pooled(self) -> bool:
        """Whether the negatives of a query are used only once, not once per positive."""
        return self.positives != "each"

    @property
    def input_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step reads, in addition to an optional `query_id`."""
        names = [self._scores_by, self.by if self.labels else None]
        scores = (score_column(name, of=part) for name in names if name for part in ("positive", "negative"))
        return tuple(dict.fromkeys((QUERY, POSITIVE_IDS, NEGATIVE_IDS, *scores)))

    def _option_of(self, name: str) -> str:
        # `by` selects the scores of labels, and `with_scores` those of the score columns.
        scorer = self._scores_by
        is_shown = scorer is not None and name in (score_column(scorer), score_column(scorer, of="positive"))
        return "with_scores" if is_shown else "by"

    @property
    def _scores_by(self) -> str | None:
        """The name of the scores for the score columns; None without score columns."""
        return "score" if self.with_scores is True else self.with_scores or None

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_corpus(name, self.corpus)
        if self.n is not None:
            self._set(n=checks.whole_number(name, "n", self.n, low=1))
        self._set(
            positives=checks.one_of(name, "positives", self.positives, self._positives),
            missing=checks.one_of(name, "missing", self.missing, _MISSING),
            with_ids=checks.yes_or_no(name, "with_ids", self.with_ids),
            with_scores=self._checked_scores(),
            seed=checks.whole_number(name, "seed", self.seed, low=0),
        )
        if self.labels is not None:
            self._set(labels=checks.one_of(name, "labels", self.labels, self._labels))
        if not isinstance(self.by, str) or not self.by:
            raise TypeError(f"{name}: by must be 'score' (the retriever's) or a teacher's name, got {self.by!r}.")

    def _checked_scores(self) -> bool | str:
        if isinstance(self.with_scores, (bool, str)) and self.with_scores != "":
            return self.with_scores
        raise TypeError(
            f"{type(self).__name__}: with_scores must be True (the retriever's), False, or a teacher's name, got "
            f"{self.with_scores!r}."
        )

    def _apply(self, batch: Batch) -> NewRows:
        return self._shape(Parts(self, batch))

    @abstractmethod
    def _shape(self, parts: Parts) -> NewRows:
        """Return the new rows, and for each the row of the batch that it comes from."""


class Tally(NamedTuple):
    """What happens to each of B rows in a shape.

    Attributes:
        stays: Whether the row is used. Shape (B,).
        short: Whether the row has fewer negatives than requested, or no positive. Shape (B,).
        used: The number of candidates that are used. Shape (B,).
        padding: The number of negatives that are repeated to pad the row. Shape (B,).
    """

    stays: NDArray[np.bool_]
    short: NDArray[np.bool_]
    used: NDArray[np.int64]
    padding: NDArray[np.int64]


class Parts:
    """The parts of a batch that shapes use.

    Attributes:
        negatives: The first candidates of each row, at most n and without known positives, as flat positions in
            `negative_ids`.
    """

    def __init__(self, step: Shape, batch: Batch) -> None:
        self.step, self.batch = step, batch
        self.queries = batch.queries()
        self.positive_ids = batch.id_lists(POSITIVE_IDS)
        self.negative_ids = batch.candidates()[NEGATIVE_IDS]
        self._looked_up = ShapedPassages(batch, step.corpus, self.positive_ids, self.negative_ids)
        self.negatives = self._looked_up.first_negatives(step.n, drop_known=step._drops_known)
        self.scores = self._scores(step._scores_by) if step._scores_by else {}
        self.label_scores = self._scores(step.by, finite=True) if step.labels else {}

    def _scores(self, by: str, *, finite: bool = False) -> dict[str, pa.Array]:
        """Return the scores of all positives and of all negatives, flat, as float32."""
        scores = {}
        for part in ("positive", "negative"):
            lists = self.batch.scores(score_column(by, of=part), finite=finite)
            scores[part] = pa.array(lists.values.astype(np.float32))
        return scores

    def examples(self) -> Examples:
        """Choose the positives according to the step's options."""
        keys = self.batch.row_keys() if self.step.positives == "random" else np.empty(0, dtype=np.uint64)
        return choose_positives(self.positive_ids.offsets, self.step.positives, keys, self.step.seed)

    def tally(self) -> Tally:
        """Count what happens to each row of the batch."""
        step, positives, negatives = self.step, self.positive_ids.lengths, self.negatives.lengths
        if step.missing in ("drop", "pad"):
            stays = (positives > 0) & (negatives >= (step._needed if step.missing == "drop" else 1))
        else:
            stays = np.full(len(positives), step._has_gaps) | (positives + negatives > 0)
        used = np.where(stays, negatives, 0)
        padding = np.zeros_like(used)
        if step.missing == "pad" and step.n is not None:
            times = 1 if step._is_pooled else positives
            padding = np.where(stays, (step.n - negatives) * times, 0)
        return Tally(stays, (positives == 0) | (negatives < step._wanted), used, padding)

    def check_missing(self) -> None:
        """Report short rows: raise an error for `missing="error"`, otherwise log a warning with their number."""
        tally = self.tally()
        short, wanted = tally.short, self.step._wanted
        if not short.any():
            return
        row = int(np.flatnonzero(short)[0])
        if self.step.missing == "error":
            raise ValueError(
                f"{self.batch.step}: {self.batch.describe(row)} has {_count(self.negatives.lengths[row], 'negative')} "
                f"and {_count(self.positive_ids.lengths[row], 'positive')}, too few for {_count(wanted, 'negative')} "
                f"and a positive. Mine with a larger k, loosen the filters, request fewer (n=), or choose how to "
                f"handle such rows: missing='drop', 'keep' or 'pad'."
            )
        lack = f"{'no negative' if wanted == 1 else f'fewer than {wanted} negatives'} or no positive"
        rows = f"{short.sum()} of the {len(short)} rows in this batch"
        dropped, padding = int((~tally.stays).sum()), int(tally.padding.sum())
        if dropped == short.sum():
            text = f"dropped {rows}, which have {lack}"
        else:
            effects = [f"dropped {dropped} of them"] if dropped else []
            effects += [f"repeated {_count(padding, 'negative')} as padding"] if padding else []
            text = f"{rows} have {lack}; {' and '.join(effects) or 'kept them'}"
        tell_of_batch(
            logger,
            f"{self.batch.step}: short rows",
            "%s: %s (missing=%r).",
            self.batch.step,
            text,
            self.step.missing,
        )

    def passages(self, columns: Mapping[str, tuple[str, NDArray[np.int64]]]) -> dict[str, pa.Array]:
        """Return the texts of passages, null for position -1.

        Args:
            columns: For each column `"positive"` or `"negative"`, and flat positions in the id column. Shape (M,).
        """
        return {name: self._texts(part, positions) for name, (part, positions) in columns.items()}

    def _texts(self, part: str, positions: NDArray[np.int64]) -> pa.Array:
        rows = self._looked_up.rows(part, positions[positions >= 0])
        self._check_size(f"{part}s", rows)
        texts = self.step.corpus.texts(rows).cast(pa.string())
        # Without gaps, `take` would only copy all texts.
        return texts if len(rows) == len(positions) else texts.take(_with_gaps(positions))

    def _check_size(self, what: str, rows: NDArray[np.int64]) -> None:
        size = int(self.step.corpus.text_sizes(rows).sum())
        if size <= _MAX_BYTES:
            return
        batch = len(self.batch)
        remedy = (
            f"Pass batch_size={max(1, batch * _MAX_BYTES // (2 * size))} to map"
            if batch > 1
            else "Reduce the passages first with n=, positives='first' or TopNegatives"
        )
        raise ValueError(
            f"{self.batch.step}: the texts of the {what} of {batch} rows take {size / 1e9:.1f} GB, but an Arrow column "
            f"of a batch is limited to 2.1 GB. {remedy}."
        )

    def named(self, part: str, kind: str, positions: NDArray[np.int64]) -> pa.Array:
        """Return the ids, scores or labels at flat positions, null for position -1."""
        ids = self.positive_ids if part == "positive" else self.negative_ids
        values = {"id": {part: ids.values}, "score": self.scores, "label": self.label_scores}[kind][part]
        return values.take(pa.array(positions, mask=positions < 0))

    def extras(
        self, columns: dict[str, tuple[str, NDArray[np.int64]]], owners: NDArray[np.int64]
    ) -> dict[str, pa.Array]:
        """Return the requested id and score columns, given the part and the flat positions of each column."""
        extra: dict[str, pa.Array] = {}
        if self.step.with_ids:
            if self.batch.has(QUERY_ID):
                extra["anchor_id"] = self.batch.ids(QUERY_ID).take(pa.array(owners))
            extra |= {f"{name}_id": self.named(part, "id", positions) for name, (part, positions) in columns.items()}
        if self.step.with_scores:
            extra |= {
                f"{name}_score": self.named(part, "score", positions) for name, (part, positions) in columns.items()
            }
        return extra


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _with_gaps(positions: NDArray[np.int64]) -> pa.Array:
    """Number the positions that are not -1, starting from 0; null for the others."""
    return pa.array(np.cumsum(positions >= 0) - 1, mask=positions < 0)


def cycled_positions(
    lists: Ragged[NDArray[np.int64]], owners: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the flat positions of each example's negatives, repeated cyclically to the requested number.

    The position is -1 if the row has no negatives.

    Args:
        lists: The flat positions of each row's negatives, `Parts.negatives`.
        owners: The row of each negative to return. Shape (M,).
        counts: The number of negatives of each example. Sums to M.
    """
    own = lists.lengths[owners]
    positions = lists.offsets[:-1][owners] + positions_within(offsets_of(counts)) % np.maximum(own, 1)
    return np.append(lists.values, -1)[np.where(own > 0, positions, -1)]
