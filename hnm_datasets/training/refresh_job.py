"""One refresh: encode, index and mine with the model in training, and write the next generation."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.batch import Batch
from hnm_datasets.columns import KNOWN_POSITIVE_IDS, NEGATIVE_IDS, NEGATIVE_SOURCE, POSITIVE_IDS, score_column
from hnm_datasets.models.embeddings import embeddings_folder
from hnm_datasets.runtime.bars import ProgressBar
from hnm_datasets.runtime.notices import one_call
from hnm_datasets.runtime.timing import clock
from hnm_datasets.storage.writing import written_aside
from hnm_datasets.training.generations import Generation, warn_of_dropped, warn_of_missing
from hnm_datasets.training.live_texts import LiveTexts
from hnm_datasets.training.memory import with_earlier
from hnm_datasets.training.refresh_tally import RefreshTally
from hnm_datasets.training.refresh_vectors import (
    Holder,
    close_vectors,
    discard_vectors,
    folders_before,
    leave_vectors,
    left_vectors,
    search_again,
)
from hnm_datasets.transforms.base import Transform
from hnm_datasets.transforms.miners.base import UNPOOLED

logger = logging.getLogger(__name__)

#: A step, or a function that creates one from the current model.
Step = Transform | Callable[[Any], Transform]
#: The suffix of the file that lists the vectors in the cache directory before a refresh.
KEPT = ".kept"
#: The suffix of the file that lists the vectors that a refresh keeps for later ones.
LEFT = ".vectors"
_NAME = "RefreshNegatives"
_BATCH = 1000
#: The refresh in the background that writes to each folder of generations.
_RUNNING: dict[Path, RefreshJob] = {}


class RefreshJob:
    """One refresh.

    Args:
        source: The transform of the training rows.
        steps: The mining steps.
        fraction: The share of the queries to mine.
        memory: The share of candidates to take from the earlier generation.
        searched: The names of existing corpus vectors to search, made by an earlier model; empty: encode the corpus.
        leaves: Keep the corpus vectors for later refreshes.
        parent: The folder of the generations.
        number: The number of the generation to write.
        step: The training step of the model.
        model_name: The fingerprint of the model.
        leads: Whether this process mines; the others help with the encoding and wait.
        together: Whether other processes take part, with the same steps.
    """

    def __init__(
        self,
        source: LiveTexts,
        steps: Sequence[Step],
        fraction: float,
        memory: float,
        parent: Path,
        number: int,
        step: int,
        model_name: str,
        *,
        searched: Sequence[str] = (),
        leaves: bool = False,
        leads: bool,
        together: bool,
    ) -> None:
        self.source, self.steps, self.fraction, self.memory = source, steps, fraction, memory
        self.parent, self.number, self.step, self.model_name = parent, number, step, model_name
        self.searched, self.leaves = searched, leaves
        self.leads, self.together = leads, together
        #: The objects that have the kept vectors open.
        self.left: list[Holder] = []
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._stopped = threading.Event()
        # The file that gives the result to other processes.
        self._note = self.parent / f"{number:06d}.json"

    def start(self, model: Any) -> None:
        """Run in a thread."""
        self._thread = threading.Thread(target=self._run_noting, args=(model,), name="RefreshNegatives", daemon=True)
        _RUNNING[self.parent] = self
        self._thread.start()

    def _run_noting(self, model: Any) -> None:
        try:
            self.run(model)
        except BaseException as error:
            self._error = error
        finally:
            _RUNNING.pop(self.parent, None)

    def stop(self) -> None:
        """Stop a refresh whose result is no longer needed, and wait for it to end."""
        self._stopped.set()
        if self._thread is not None and self._thread.is_alive():
            logger.info("RefreshNegatives: waiting for the refresh of an interrupted training to stop.")
            self._thread.join()

    def run(self, model: Any) -> None:
        """Encode, index and mine; processes that do not lead only help with the encoding."""
        start = time.perf_counter()
        kept = folders_before(self._note.with_suffix(KEPT)) if self.leads else set()
        if self.together:
            # Wait before any process writes vectors.
            torch.distributed.barrier()
        try:
            with clock() as spent:
                steps = [step if isinstance(step, Transform) else step(model) for step in self.steps]
                # A function that creates a step may already have encoded the corpus.
                unused = search_again(steps, self.model_name, self.searched) if self.searched else []
                for step in steps:
                    self._check_stopped()
                    if isinstance(step, Transform):
                        step.prepare()
                if self.together:
                    # The vectors are deleted at the end; by then, no process may still need them.
                    torch.distributed.barrier()
                if not self.leads:
                    close_vectors(steps)
                    return
                tally = RefreshTally(self.source)
                # A generation drops the positives of all rows of a question.
                with one_call(UNPOOLED):
                    self.source.write(self.number, self._tables(steps, tally), self.parent)
                # Only this process writes here, so no other process waits for the lock.
                (self.parent / f"{self.number:06d}.lock").unlink(missing_ok=True)
            now = Generation.open(self.parent / f"{self.number:06d}")
            warn_of_dropped(_NAME, now)
            warn_of_missing(_NAME, now, self.source.sources)
            if not len(now.negatives.values):
                raise ValueError(
                    f"{_NAME}: the steps leave no candidates for any query, so all negatives would be padding. Widen "
                    f"the filters among the steps, or mine with a larger k. A limit chosen for the scores of another "
                    f"model may drop all candidates of the model in training."
                )
            numbers = tally.numbers(now)
            whole = time.perf_counter() - start
            seconds = {f"seconds_{name}": spent.get(name, 0.0) for name in ("encode", "index")}
            seconds["seconds_mine"] = whole - sum(seconds.values())
            about = {"generation": self.number, "model_step": self.step} | seconds | numbers
            if self.leaves and not self.searched:
                note = self._note.with_suffix(LEFT)
                self.left = leave_vectors(steps, self.model_name, kept, note)
                kept |= {embeddings_folder(name) for name in left_vectors(note)}
            discard_vectors([*steps, *unused], self.model_name, kept)
            self._write_note(about)
            self._note.with_suffix(KEPT).unlink(missing_ok=True)
        except BaseException as error:
            if self.leads:
                self.parent.mkdir(parents=True, exist_ok=True)
                self._write_note({"error": repr(error)})
            raise

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise RuntimeError("RefreshNegatives: the training of this refresh was interrupted.")

    def _write_note(self, content: dict[str, Any]) -> None:
        # Write a temporary file and rename it, because other processes read the file as soon as it exists.
        with written_aside(self._note) as aside:
            aside.write_text(json.dumps(content))

    def done(self) -> bool:
        """Return whether the refresh has ended."""
        return self._note.exists() and (self._thread is None or not self._thread.is_alive())

    def wait(self) -> None:
        """Wait for the end of the refresh, and raise its error if it failed."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise RuntimeError("RefreshNegatives: the refresh in the background failed.") from self._error
        while not self._note.exists():
            time.sleep(0.05)
        if "error" in (noted := json.loads(self._note.read_text())):
            raise RuntimeError(f"RefreshNegatives: the refresh failed in the first process: {noted['error']}.")

    def about(self) -> dict[str, Any]:
        """Return the numbers of the new generation."""
        found: dict[str, Any] = json.loads(self._note.read_text())
        return found

    def _tables(self, steps: list[Transform], tally: RefreshTally) -> Iterator[pa.Table]:
        """Yield the queries with their new negatives, in batches."""
        source = self.source
        before = Generation.open(source.folder_of(source.progress.generation))
        # If no query has been mined yet, mine all of them.
        fraction = self.fraction if len(before.negatives.values) else 1.0
        plain = [name for name in source.rows.column_names if not name.startswith("negative_")]
        # Take the positives of the last generation, because a step may have promoted some candidates.
        plain = [name for name in plain if not name.startswith("positive_") and name != KNOWN_POSITIVE_IDS]
        rows = source.rows.select_columns(plain).with_format("arrow")
        start = 0
        bar = ProgressBar(len(rows), "Mining negatives", "queries")
        for table in _shown(rows.iter(_BATCH), bar):
            self._check_stopped()
            numbers = np.arange(start, start + len(table))
            start += len(table)
            table = table.append_column(POSITIVE_IDS, source.ids_of(before.positives, numbers))
            if source.questions is not None:
                known = source.known_codes(before, numbers)
                table = table.append_column(
                    KNOWN_POSITIVE_IDS, list_array(known.offsets, source.corpus.ids(known.values))
                )
            # Choose queries evenly over the rows, shifted by the fraction at each refresh.
            reached = np.floor(np.arange(numbers[0], numbers[0] + len(numbers) + 1) * fraction + self.number * fraction)
            chosen = np.diff(reached) > 0
            mined = table.filter(pa.array(chosen))
            for position, step in enumerate(steps):
                mined = step(mined)
                if len(mined) != chosen.sum():
                    raise ValueError(
                        f"RefreshNegatives: the step {type(step).__name__} changed the number of rows. Remove shape "
                        f"steps; live_negatives shapes the rows."
                    )
                if position == 0:
                    tally.of_miner(Batch(mined, step=_NAME))
            tally.of_rows(numbers[chosen], Batch(mined, step=_NAME))
            columns = [POSITIVE_IDS, NEGATIVE_IDS]
            if source.teacher:
                columns += [score_column(source.teacher, of=part) for part in ("positive", "negative")]
            columns += [NEGATIVE_SOURCE] if source.quota else []
            for name in columns:
                Batch(mined, step=_NAME).require(name)
            mined = mined.select(columns)
            if self.memory:
                earlier, keys = source.table_of(before, numbers[chosen]), source.keys[numbers[chosen]]
                mined = with_earlier(mined, earlier, self.memory, source.n, source.corpus, keys, self.number)
            if not chosen.all():
                old = source.table_of(before, numbers[~chosen])
                mined = pa.concat_tables([mined, old.select(columns).cast(mined.schema)])
                order = np.argsort(np.concatenate([numbers[chosen], numbers[~chosen]]))
                mined = mined.take(pa.array(order)).combine_chunks()
            yield mined


def _shown(tables: Iterator[pa.Table], bar: Any) -> Iterator[pa.Table]:
    """Yield the tables, and advance a progress bar by the rows of each finished one."""
    with bar:
        for table in tables:
            yield table
            bar.update(len(table))


def stop_in(folder: Path) -> None:
    """Stop the background refresh that writes to a folder of generations, if there is one."""
    if (job := _RUNNING.get(folder)) is not None:
        job.stop()


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Restore the modes of the model and all random states."""
    modes = [(module, module.training) for module in model.modules()]
    # Also the legacy NumPy state: data loaders and users may draw from it.
    states: Any = (random.getstate(), np.random.get_state(), torch.get_rng_state())  # noqa: NPY002
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
