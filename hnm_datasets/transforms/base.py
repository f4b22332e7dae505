"""What every step is: a frozen dataclass that `Dataset.map(..., batched=True)` calls.

A step's fields are its whole configuration. It pickles to them, to the version of its code, and to the content
fingerprints of what it uses, so that the key under which `Dataset.map` caches is what the step means. A new step says
which columns it reads and writes and fills in one hook: `CandidateFilter._keep` for whatever keeps some candidates and
drops others, `Transform._apply` for all else.
"""

from __future__ import annotations

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.answers import NewRows
from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.arrays.ragged import Ragged, kept_offsets
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS
from hnm_datasets.runtime.interrupts import interruptible_batch
from hnm_datasets.runtime.map_calls import calling_map, lazy_call, rows_of_empty_call
from hnm_datasets.runtime.notices import tell_once
from hnm_datasets.runtime.ray_batches import keep_name_of_step
from hnm_datasets.runtime.workers import prepare_before_workers

logger = logging.getLogger(__name__)

#: Raise it when the code that all steps share changes what they answer.
_SHARED_VERSION = 2


@dataclass(frozen=True)
class Transform(ABC):
    """A step of mining: reads some columns of a batch of rows, writes some columns.

    Subclasses are frozen dataclasses. They fill in `_apply`, and raise `version` when a change to their code changes
    their answers, because `datasets` does not notice changed code.

    Attributes:
        version: The version of the step's code.
        input_columns: The columns that the step reads and cannot do without.
        output_columns: The columns that the step writes; `"negative_*"` stands for all aligned candidate columns.
    """

    version: ClassVar[int] = 1
    input_columns: ClassVar[tuple[str, ...]] = ()
    output_columns: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        keep_name_of_step(cls)
        prepare_before_workers(cls)

    def __call__(self, rows: Any) -> Any:
        """Answer one batch of rows.

        Args:
            rows: What `.map(..., batched=True)` hands over: a lazy batch, a mapping of columns, a `pyarrow.Table`, or a
                data frame of pandas or polars.

        Returns:
            The columns that the step writes, in the form that the rows came in; a table or data frame comes back
            whole. `Dataset.map` gets Arrow arrays, or for formatted rows the whole table without the columns that it
            was asked to remove.

        Raises:
            KeyError: A column that the step needs is missing, or an id is unknown.
            TypeError: A column holds something else than the contract says.
            ValueError: A value is null or NaN, aligned columns are not aligned, or `Dataset.map` in one process would
                be left without a row.
        """
        frame = sys._getframe(1)
        call = calling_map(frame, rows)
        batch = Batch(rows if call is None else call.rows, step=type(self).__name__)
        for name in self._required(batch.names):
            batch.require(name, self._option_of(name))
        with interruptible_batch(self._explain_interrupt):
            self.prepare()
            columns = self._apply(batch)
        if isinstance(columns, NewRows) and not len(columns.owners):
            if (total := rows_of_empty_call(frame)) is not None:
                raise ValueError(
                    f"{batch.step} makes nothing of the {total:,} rows, and no row would be left. Widen the steps "
                    f"before it, or leave out the one that drops all candidates: mine(rows, steps) says which."
                )
            if (lazy := lazy_call(frame, rows)) is not None:
                call, batch = lazy, Batch(lazy.rows, step=batch.step)
        answer = batch.answer(columns)
        written = columns.columns if isinstance(columns, NewRows) else columns
        return answer if call is None else call.without_removed(answer, written)

    def _required(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the columns that the step needs of rows that have the columns `names`."""
        return self.input_columns

    def _option_of(self, name: str) -> str:
        """Return the option that chooses a column of scores, for the error that says it is missing."""
        return "by"

    def prepare(self) -> None:  # noqa: B027 (most steps need nothing)
        """Make what the step needs and keep it on disk: indexes, embeddings. Does nothing where it is there.

        The first batch does it, and `Dataset.map(num_proc=...)` once before its workers begin. Call it yourself before
        the workers of another framework start, such as Ray's.
        """

    def _explain_interrupt(self) -> str:
        return (
            f"{type(self).__name__} was interrupted. Finished indexes, vectors and scores of models are in the cache "
            f"directory, the rows of an unfinished map are not. Repeat the call to resume."
        )

    @abstractmethod
    def _apply(self, batch: Batch) -> Mapping[str, pa.Array] | NewRows:
        """Return the columns that the step writes, or new rows where it changes their number."""

    def __getstate__(self) -> dict[str, Any]:
        configuration = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"version": (_SHARED_VERSION, self.version), "configuration": configuration}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state["configuration"].items():
            object.__setattr__(self, name, value)

    def _set(self, **values: object) -> None:
        """Replace fields by their checked, plain values; for `__post_init__` only."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


class Ordered(dict[Any, Any]):
    """A dict whose order counts when it is compared or hashed: for options that are served in order."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and list(self.items()) == list(other.items())

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


class _WhenShown:
    """A text that is made only where a message is shown."""

    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make

    def __str__(self) -> str:
        return self._make()


@dataclass(frozen=True)
class CandidateFilter(Transform):
    """A step that keeps some candidates of each row and drops the others, in all aligned columns alike.

    Subclasses fill in `_keep`, `_limits_met` for the warning about emptied rows, and `_why_dropped` for `explain`.
    Order, ranks and scores of what is kept stay as they were, and no row is dropped: a row may be left with fewer
    candidates, or none.
    """

    input_columns: ClassVar[tuple[str, ...]] = (NEGATIVE_IDS,)
    output_columns: ClassVar[tuple[str, ...]] = ("negative_*",)

    @abstractmethod
    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        """Tell which candidates stay.

        Args:
            batch: The rows, for other columns.
            candidates: The ids of B rows' candidates, C in all.

        Returns:
            Shape (C,), True for the candidates to keep.
        """

    def _limits_met(self, batch: Batch, candidates: Ragged[pa.Array], emptied: NDArray[np.bool_]) -> str:
        """Set the step's limits beside the values of a batch that they emptied, and say the way out.

        A subclass that knows its limits overrides this; it is asked where most rows are left without a candidate.

        Args:
            batch: The rows, before the step.
            candidates: The ids of B rows' candidates, C in all.
            emptied: The rows that had candidates and are left with none. Shape (B,).

        Returns:
            Two sentences: the limits and the values that they met; what to change.
        """
        return f"{self!r} drops all of them. Loosen its options, or mine more candidates with a larger k=."

    def _why_dropped(self, batch: Batch, candidates: Ragged[pa.Array], dropped: NDArray[np.int64]) -> list[str]:
        """Say in a few words why candidates are dropped, for `explain`: each one's value and the limit.

        A subclass that knows its limits overrides this.

        Args:
            batch: The rows, before the step.
            candidates: The ids of B rows' candidates, C in all.
            dropped: The flat positions of the dropped ones. Shape (D,).

        Returns:
            D texts, empty where there is nothing to say.
        """
        return [""] * len(dropped)

    def _tell_left(self, batch: Batch, candidates: Ragged[pa.Array], left: NDArray[np.int64]) -> None:
        """Tell once per call of `map` that most rows that had candidates are left with none.

        Args:
            batch: The rows, before the step.
            candidates: The ids of B rows' candidates, C in all.
            left: How many candidates each row is left with. Shape (B,).
        """
        had = candidates.lengths > 0
        emptied = had & (left == 0)
        if 2 * emptied.sum() > had.sum():
            why = partial(self._limits_met, batch, candidates, emptied)
            self._tell("emptied", "no candidate is left in", emptied, had, why)

    def _tell(
        self, kind: str, what: str, rows: NDArray[np.bool_], of: NDArray[np.bool_], why: Callable[[], str]
    ) -> None:
        """Tell once per call of `map` what is true of some rows of a batch.

        Args:
            kind: Of one kind, the first message is told.
            what: What is true of the rows.
            rows: The rows. Shape (B,).
            of: The rows that had candidates. Shape (B,).
            why: Returns why, and the way out; called only if it is told.
        """
        numbers = int(rows.sum()), int(of.sum())
        message = "%s: %s %d of the %d rows of a batch that had some: %s"
        tell_once(logger, f"{self!r}: {kind}", message, type(self).__name__, what, *numbers, _WhenShown(why))

    def _apply(self, batch: Batch) -> Mapping[str, pa.Array]:
        lists = batch.candidates()
        ids = lists[NEGATIVE_IDS]
        keep = self._keep(batch, ids)
        offsets = kept_offsets(ids.offsets, keep)
        self._tell_left(batch, ids, np.diff(offsets))
        mask = pa.array(keep)
        return {name: list_array(offsets, values.values.filter(mask)) for name, values in lists.items()}
