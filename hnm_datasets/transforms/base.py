"""The base of all steps: a frozen dataclass that `Dataset.map(..., batched=True)` calls.

A step's fields are its whole configuration. It pickles to its fields, the version of its code, and the content
fingerprints of the objects it uses. The cache key of `Dataset.map` therefore depends only on the step's behavior. A new
step declares the columns it reads and writes and implements one hook: `CandidateFilter._keep` to keep some candidates
and drop the others, or `Transform._apply` for anything else.
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
from hnm_datasets.runtime.datasets_internals import calling_map, lazy_call, maps_single_rows, rows_of_empty_call
from hnm_datasets.runtime.interrupts import explain_workers, interruptible
from hnm_datasets.runtime.notices import tell_of_batch, tell_once
from hnm_datasets.runtime.ray_batches import keep_name_of_step
from hnm_datasets.runtime.workers import prepare_before_workers

logger = logging.getLogger(__name__)

#: Increase it when a change to the shared code changes the output of all steps.
_SHARED_VERSION = 2


@dataclass(frozen=True)
class Transform(ABC):
    """A mining step: it reads some columns of a batch of rows and writes some columns.

    Subclasses are frozen dataclasses that implement `_apply`. Increase `version` when a change to the code changes the
    output, because `datasets` does not detect changed code.

    Attributes:
        version: The version of the step's code.
        input_columns: The columns that the step requires.
        output_columns: The columns that the step writes; `"negative_*"` means all aligned candidate columns.
    """

    version: ClassVar[int] = 1
    input_columns: ClassVar[tuple[str, ...]] = ()
    output_columns: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        keep_name_of_step(cls)
        prepare_before_workers(cls)

    def __call__(self, rows: Any) -> Any:
        """Process one batch of rows.

        Args:
            rows: A batch as `.map(..., batched=True)` passes it: a lazy batch, a mapping of columns, a `pyarrow.Table`,
                or a pandas or polars data frame.

        Returns:
            The columns that the step writes, in the format of the input. For a table or data frame, all columns are
            returned. `Dataset.map` receives Arrow arrays or, for formatted rows, the whole table without its
            `remove_columns`.

        Raises:
            KeyError: A required column is missing, or an id is unknown.
            TypeError: A column has the wrong type.
            ValueError: A value is null or NaN, aligned columns differ in length, or `Dataset.map` in one process would
                return no rows.
        """
        frame = sys._getframe(1)
        call = calling_map(frame, rows)
        if maps_single_rows(frame):
            message = "%s: map passes one row at a time, which is many times slower. Add batched=True."
            tell_once(logger, f"{type(self).__name__}: single rows", message, type(self).__name__)
        batch = Batch(rows if call is None else call.rows, step=type(self).__name__)
        for name in self._required(batch.names):
            batch.require(name, self._option_of(name))
        with interruptible(self._explain_interrupt):
            self.prepare()
            columns = self._apply(batch)
        if isinstance(columns, NewRows) and not len(columns.owners):
            if (total := rows_of_empty_call(frame)) is not None:
                raise ValueError(
                    f"{batch.step} produces no rows from the {total:,} input rows. Loosen the steps before it, or "
                    f"remove the one that drops all candidates: mine(rows, steps) shows which."
                )
            if (lazy := lazy_call(frame, rows)) is not None:
                call, batch = lazy, Batch(lazy.rows, step=batch.step)
        answer = batch.answer(columns)
        written = columns.columns if isinstance(columns, NewRows) else columns
        return answer if call is None else call.without_removed(answer, written)

    def _required(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the columns that the step requires, given the columns of the rows."""
        return self.input_columns

    def _option_of(self, name: str) -> str:
        """Return the option that selects a score column, for the error about a missing column."""
        return "by"

    def prepare(self) -> None:  # noqa: B027 (most steps need nothing)
        """Build the indexes and embeddings that the step needs, unless they are cached on disk.

        The first batch calls it, and `Dataset.map(num_proc=...)` calls it once before its workers start. Call it
        yourself before another framework, such as Ray, starts workers.
        """

    def prepare_for_workers(self) -> None:
        """Prepare in the process that starts the workers of `Dataset.map(num_proc=...)`, which calls this."""
        explain_workers(self._explain_interrupt())
        self.prepare()

    def _explain_interrupt(self) -> str:
        return (
            f"{type(self).__name__} was interrupted. Finished indexes, vectors and model scores are in the cache "
            f"directory; the rows of the unfinished map are not. Repeat the call to resume."
        )

    @abstractmethod
    def _apply(self, batch: Batch) -> Mapping[str, pa.Array] | NewRows:
        """Return the columns that the step writes, or new rows if it changes the number of rows."""

    def __getstate__(self) -> dict[str, Any]:
        configuration = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"version": (_SHARED_VERSION, self.version), "configuration": configuration}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state["configuration"].items():
            object.__setattr__(self, name, value)

    def _set(self, **values: object) -> None:
        """Replace fields with their validated values; for `__post_init__` only."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


class Ordered(dict[Any, Any]):
    """A dict that compares and hashes by order too, for options whose order matters."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and list(self.items()) == list(other.items())

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


class _WhenShown:
    """Text that is built only when a message is shown."""

    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make

    def __str__(self) -> str:
        return self._make()


@dataclass(frozen=True)
class CandidateFilter(Transform):
    """A step that keeps some candidates of each row and drops the others from all aligned columns.

    Subclasses implement `_keep`, `_limits_met` for the warning about emptied rows, and `_why_dropped` for `explain`.
    The kept candidates keep their order, ranks and scores. No row is dropped, but a row may end up with no candidates.
    """

    input_columns: ClassVar[tuple[str, ...]] = (NEGATIVE_IDS,)
    output_columns: ClassVar[tuple[str, ...]] = ("negative_*",)

    @abstractmethod
    def _keep(self, batch: Batch, candidates: Ragged[pa.Array]) -> NDArray[np.bool_]:
        """Return which candidates to keep.

        Args:
            batch: The rows, for other columns.
            candidates: The candidate ids of B rows, C in total.

        Returns:
            Shape (C,), True for the candidates to keep.
        """

    def _limits_met(self, batch: Batch, candidates: Ragged[pa.Array], emptied: NDArray[np.bool_]) -> str:
        """Compare the step's limits with the values in the emptied rows, and suggest a fix.

        Subclasses with limits override this. It is called when most rows of a batch lose all their candidates.

        Args:
            batch: The rows, before the step.
            candidates: The candidate ids of B rows, C in total.
            emptied: The rows that had candidates and have none left. Shape (B,).

        Returns:
            Two sentences: the limits beside the values of the candidates; what to change.
        """
        return f"{self!r} drops all of them. Loosen its options, or mine more candidates with a larger k=."

    def _why_dropped(self, batch: Batch, candidates: Ragged[pa.Array], dropped: NDArray[np.int64]) -> list[str]:
        """Return a short reason why each candidate is dropped, for `explain`: its value and the limit.

        Subclasses with limits override this.

        Args:
            batch: The rows, before the step.
            candidates: The candidate ids of B rows, C in total.
            dropped: The flat positions of the dropped candidates. Shape (D,).

        Returns:
            D texts, empty where no reason is known.
        """
        return [""] * len(dropped)

    def _warn_if_emptied(self, batch: Batch, candidates: Ragged[pa.Array], left: NDArray[np.int64]) -> None:
        """Warn once per `map` call if most rows with candidates lose all of them.

        Args:
            batch: The rows, before the step.
            candidates: The candidate ids of B rows, C in total.
            left: The number of candidates left in each row. Shape (B,).
        """
        had = candidates.lengths > 0
        emptied = had & (left == 0)
        if 2 * emptied.sum() > had.sum():
            why = partial(self._limits_met, batch, candidates, emptied)
            self._warn("emptied", "lost all of them", emptied, had, why)

    def _warn(
        self, kind: str, what: str, rows: NDArray[np.bool_], of: NDArray[np.bool_], why: Callable[[], str]
    ) -> None:
        """Warn about some rows of a batch, once per `map` call and kind.

        Args:
            kind: The kind of warning; only the first of a kind is logged.
            what: What happened to the rows: the predicate of the sentence.
            rows: The rows. Shape (B,).
            of: The rows that had candidates. Shape (B,).
            why: Returns the reason and the fix; called only if the warning is logged.
        """
        numbers = int(rows.sum()), int(of.sum())
        message = "%s: %d of the %d rows with candidates in this batch %s: %s"
        tell_of_batch(logger, f"{self!r}: {kind}", message, type(self).__name__, *numbers, what, _WhenShown(why))

    def _apply(self, batch: Batch) -> Mapping[str, pa.Array]:
        lists = batch.candidates()
        ids = lists[NEGATIVE_IDS]
        keep = self._keep(batch, ids)
        offsets = kept_offsets(ids.offsets, keep)
        self._warn_if_emptied(batch, ids, np.diff(offsets))
        mask = pa.array(keep)
        return {name: list_array(offsets, values.values.filter(mask)) for name, values in lists.items()}
