"""Dynamic negatives: mine again with the current model during training (Xiong et al. 2021, ANCE)."""

from __future__ import annotations

import copy
import json
import logging
import math
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hnm_datasets import checks
from hnm_datasets.models.fingerprint import model_fingerprint
from hnm_datasets.runtime.interrupts import interruptible
from hnm_datasets.storage.manifest import is_complete
from hnm_datasets.training.follow_epochs import source_of
from hnm_datasets.training.gate import Gate
from hnm_datasets.training.live_rows import LiveNegatives
from hnm_datasets.training.metrics import publish
from hnm_datasets.training.probe import Probe
from hnm_datasets.training.refresh_columns import check_columns
from hnm_datasets.training.refresh_folder import GenerationFolder
from hnm_datasets.training.refresh_job import RefreshJob, Step, stop_in, untouched
from hnm_datasets.training.refresh_options import checked_memory, checked_share, checked_span
from hnm_datasets.training.refresh_steps import check_steps
from hnm_datasets.training.refresh_vectors import Holder

logger = logging.getLogger(__name__)

#: The callback that writes to each folder of generations in this process.
_CLAIMED: weakref.WeakValueDictionary[Path, RefreshNegatives] = weakref.WeakValueDictionary()


class RefreshNegatives(TrainerCallback):
    """Trainer callback that mines the training queries again at intervals, with the current model.

    Each refresh encodes the corpus with the current weights and runs the steps over the queries. The resulting
    candidates are a *generation*: the rows of `live_negatives` draw their negatives from it. The optimizer, the
    schedule and the order of the rows do not change. The model's modes and all random states are restored afterward.

    The trainer prefetches one batch, and each dataloader worker a few, so new negatives appear after these batches. A
    training resumed from a checkpoint continues with the checkpoint's generation.

    Generations are stored below `output_dir`. Embeddings and scores are stored in the cache directory. The embeddings
    of the model in training are deleted after each refresh. A teacher's scores stay for later refreshes and trainings.

    Under `accelerate launch`, all processes share the encoding, one process mines, and all switch at the same step. The
    processes need a shared file system. The numbers of each generation (see `history`) are logged, and sent to the
    trainer's reporters with each log entry of the loss.

    Args:
        live: The training rows, from `live_negatives`.
        steps: The mining steps. Pass a step that uses the model in training as a function from the model to the step,
            as in `[partial(DenseNegatives, corpus, k=50), RelativeMargin(0.05)]`.
        every: Optimizer steps between refreshes; a float: epochs, such as 0.5.
        background: Mine in a thread, with a copy of the model, while the training continues. The copy needs memory. The
            new negatives are some steps old (the log reports how many), and the step of the switch depends on the speed
            of the machine.
        fraction: The share of the queries to mine at each refresh; each refresh mines other queries.
        start: Optimizer steps before the first refresh; a float: epochs. Until then, training uses the negatives
            already in the rows.
        start_mrr: After `start`, delay the first refresh until the model ranks a sample of the queries this well: the
            mean reciprocal rank of the best positive among the query's candidates, from 0 to 1. Checked every `every`
            steps.
        stale: At each interval, refresh only if the negatives have become easy. The measure is `weight`: the mean share
            of a candidate in a softmax with the best positive, over a sample of the queries. Refresh when it falls to
            this fraction of its value after the last refresh, such as 0.5. If that value was below 0.01, the model
            already ranks its training queries correctly, and there are no more refreshes. The first refresh always
            happens. Checking does not encode the corpus.
        probe: The number of queries in this sample, spread evenly over the rows.
        corpus_every: Encode the corpus only at every n-th refresh. The others encode only the queries and search the
            existing embeddings of the corpus, which costs much less (Zhan et al. 2021, *ADORE*,
            https://arxiv.org/abs/2104.08051). These embeddings stay in the cache directory as long as the training or a
            checkpoint needs them.
        memory: The share of each query's candidates to take from earlier generations, if they have enough. They are
            drawn again at each refresh. This keeps models from forgetting earlier negatives (Sun et al. 2022,
            *ANCE-Tele*, https://arxiv.org/abs/2210.17167).
        keep: The number of generations to keep, in addition to those that a checkpoint needs.

    Attributes:
        history: One dict per generation. `generation`, `step`, `model_step`: its number, the step of the switch, and
            the step of the model. `seconds_encode`, `seconds_index`, `seconds_mine`: durations. `mrr`, `recall`: how
            the current model ranks the positives among the candidates. `above`: the share of negatives that it ranks
            above the positive; these carry most of the gradient. `replaced`: the share of new negatives. `short`: the
            share of rows with fewer than n candidates.
        probes: One dict per check of the sample: `step`, `mrr`, `above`, `weight`, `seconds`.

    Raises:
        TypeError: `live` does not come from `live_negatives`, an entry of `steps` is not a step or a function, or a
            function cannot create a step from the model alone.
        ValueError: An option is out of range, a step needs a column that no earlier step writes, or a step mines with
            a fixed model. During training: the steps leave no candidates for any query.

    Example:
        >>> from functools import partial
        >>> from hnm_datasets import DenseNegatives, RelativeMargin, live_negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> live = live_negatives(queries, corpus, n=2)
        >>> refresh = RefreshNegatives(live, [partial(DenseNegatives, corpus, k=4), RelativeMargin(0.05)], every=0.5)
    """

    def __init__(
        self,
        live: LiveNegatives,
        steps: Sequence[Step],
        every: int | float,
        *,
        background: bool = False,
        fraction: float = 1.0,
        start: int | float = 0,
        start_mrr: float | None = None,
        stale: float | None = None,
        probe: int = 100,
        corpus_every: int = 1,
        memory: float = 0.0,
        keep: int = 2,
    ) -> None:
        name = "RefreshNegatives"
        self._source = source_of(name, live)
        check_steps(steps)
        self.every, self.start = checked_span("every", every, low=1), checked_span("start", start, low=0)
        self.fraction, self.memory = checked_share("fraction", fraction), checked_memory(memory)
        self._gate = Gate(
            None if start_mrr is None else checked_share("start_mrr", start_mrr),
            None if stale is None else checked_share("stale", stale),
        )
        self.corpus_every = checks.whole_number(name, "corpus_every", corpus_every, low=1)
        self.probe = checks.whole_number(name, "probe", probe, low=1)
        if (self.start or start_mrr is not None) and not len(self._source.generation().negatives.values):
            raise ValueError(
                f"{name}: start and start_mrr delay the first refresh, but the rows have no negatives until then. Mine "
                f"them before live_negatives, for example with BM25Negatives, or remove start and start_mrr."
            )
        self.background = checks.yes_or_no(name, "background", background)
        self.keep = checks.whole_number(name, "keep", keep, low=1)
        self.steps = list(steps)
        check_columns(self.steps, self._source)
        self._probe = Probe(self._source, self.steps, self.probe)
        self.history: list[dict[str, Any]] = []
        self.probes: list[dict[str, Any]] = []
        self._job: RefreshJob | None = None
        self._training: TrainerState | None = None
        self._switched_at = 0
        self._model_name: str | None = None
        # The generation whose corpus vectors are searched, and the objects that have each generation's vectors open.
        self._base = 0
        self._left: dict[int, list[Holder]] = {}

    # ---- called by the trainer -----------------------------------------------------------------------------------

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Continue with the generation of a checkpoint, or mine if there are no negatives yet."""
        self._interval, self._start = (
            span if isinstance(span, int) else self._steps_in(span, args, train_dataloader)
            for span in (self.every, self.start)
        )
        self._folder = GenerationFolder(Path(str(args.output_dir)), self._source.name, self._left)
        self._claim(state)
        self._source.root = self._folder.root
        self.history, self.probes, self._switched_at, self._model_name, self._base = [], [], 0, None, 0
        self._gate.restart()
        if state.global_step:
            self._restore(args, state, model)
        else:
            self._source.progress.generation = 0
            self._forget_after(0, args)
            if not len(self._source.generation().negatives.values):
                with self._interruptible(args, state):
                    self._refresh(args, state, model)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Switch to the draw of the next epoch."""
        self._source.progress.epoch = math.floor(state.epoch or 0)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop using the previous generation, which only the first batch after a resume reads."""
        self._source.hold(None, 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Refresh if it is due, and switch to a generation mined in the background."""
        with self._interruptible(args, state):
            if self._job is not None and _agreed(self._job.done(), args):
                job, self._job = self._job, None
                self._switch(args, state, model, job)
            if self._is_time(state) and self._gate.is_due(partial(self._look, args, state, model)):
                self._refresh(args, state, model)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the state of the refreshes with the checkpoint."""
        if args.process_index:
            return
        noted = {
            "generation": self._source.progress.generation,
            "switched_at": self._switched_at,
            "model": self._model_name,
            "history": self.history,
            "probes": self.probes,
            "gate": self._gate.state,
            "base": self._base,
        }
        if self._folder.note(state.global_step, noted):
            self._prune()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Discard an unfinished refresh in the background, and the numbers for the logs."""
        publish(model, state, {})
        _CLAIMED.pop(self._folder.root, None)
        self._training = None
        if self._job is not None:
            self._job.wait()
            self._job = None
        if args.process_index == 0:
            # Delete everything that no checkpoint needs.
            self._base = 0
            self._prune()

    def _claim(self, state: TrainerState) -> None:
        """Take over the folder, for example from an interrupted training."""
        other = _CLAIMED.get(self._folder.root)
        if other is not None and other is not self and other._training is state:
            raise ValueError(
                "RefreshNegatives: two datasets with the same queries and options would write to the same folder of "
                "generations. Create one of them with another seed: live_negatives(..., seed=1)."
            )
        # An interrupted training may have left a running refresh, of this callback or into this folder.
        if self._job is not None:
            job, self._job = self._job, None
            job.stop()
        stop_in(self._folder.root)
        self._source.forget()
        _CLAIMED[self._folder.root], self._training = self, state

    def _is_time(self, state: TrainerState) -> bool:
        after = state.global_step - self._start
        return after >= 0 and after % self._interval == 0 and 0 < state.global_step < state.max_steps

    def _look(self, args: TrainingArguments, state: TrainerState, model: Any) -> dict[str, float]:
        """Probe a sample of the negatives in the first process, and share the result."""
        found: dict[str, float] = {}
        if args.process_index == 0:
            with untouched(model):
                found = self._probe.look(model, model_fingerprint(model))
        found = _shared(found, args)
        self.probes.append(found | {"step": state.global_step})
        numbers = {f"probe_{name}": value for name, value in found.items()}
        state.log_history.append(numbers | {"step": state.global_step, "epoch": state.epoch})
        if args.process_index == 0:
            logger.info("RefreshNegatives: probe: %s", json.dumps(self.probes[-1]))
        return found

    @staticmethod
    def _steps_in(epochs: float, args: TrainingArguments, train_dataloader: Any) -> int:
        steps = round(epochs * len(train_dataloader) / args.gradient_accumulation_steps)
        return max(1, steps) if epochs else 0

    # ---- a refresh -----------------------------------------------------------------------------------------------

    def _refresh(self, args: TrainingArguments, state: TrainerState, model: Any) -> None:
        name = model_fingerprint(model)
        if name == self._model_name and self.fraction == 1:
            logger.info("RefreshNegatives: the model has not changed since the last refresh; keeping the negatives.")
            return
        if self._job is not None:
            logger.info("RefreshNegatives: step %d: skipped, the last refresh is still running.", state.global_step)
            return
        number = self._source.progress.generation + 1
        beside = self.background and state.global_step > 0
        job = RefreshJob(
            self._source, self.steps, self.fraction, self.memory, self._folder.root, number, state.global_step, name,
            searched=self._searched(number), leaves=self.corpus_every > 1,
            leads=args.process_index == 0, together=args.world_size > 1 and not beside,
        )  # fmt: skip
        if beside:
            if args.process_index == 0:
                job.start(copy.deepcopy(model))
            self._job = job
            return
        with untouched(model):
            job.run(model)
        job.wait()
        self._switch(args, state, model, job)

    def _searched(self, number: int) -> list[str]:
        """Return the names of the corpus vectors that a refresh reuses; none if it encodes the corpus."""
        if (number - 1) % self.corpus_every == 0:
            return []
        names = self._folder.vectors_left(self._base)
        if not names:
            logger.info("RefreshNegatives: found no vectors of an earlier refresh; encoding the corpus again.")
        return names

    @staticmethod
    def _interruptible(args: TrainingArguments, state: TrainerState) -> AbstractContextManager[None]:
        """If Ctrl-C interrupts this block, report the checkpoint to resume from."""

        def explain() -> str:
            steps = [path.name.rpartition("-")[2] for path in Path(str(args.output_dir)).glob("checkpoint-*")]
            last = max((int(step) for step in steps if step.isdigit()), default=None)
            way_out = (
                "There is no checkpoint, so trainer.train() starts from the beginning; set save_steps= to be able to "
                "resume"
                if last is None
                else f"trainer.train(resume_from_checkpoint=True) resumes from checkpoint-{last}"
            )
            return f"RefreshNegatives was interrupted at step {state.global_step}. {way_out}."

        return interruptible(explain, replace=True)

    def _switch(self, args: TrainingArguments, state: TrainerState, model: Any, job: RefreshJob) -> None:
        """Let the rows draw from the new generation."""
        job.wait()
        about = job.about() | {"step": state.global_step}
        self._source.root = self._folder.root
        self._source.progress.generation = job.number
        self._switched_at, self._model_name = state.global_step, job.model_name
        if not job.searched:
            self._base, self._left[job.number] = job.number, job.left
        self.history.append(about)
        numbers = _numbers(about)
        publish(model, state, numbers)
        state.log_history.append(numbers | {"step": state.global_step, "epoch": state.epoch})
        if args.process_index == 0:
            logger.info("RefreshNegatives: %s", json.dumps(about))
            self._prune()
        self._gate.refreshed(partial(self._look, args, state, model))

    def _restore(self, args: TrainingArguments, state: TrainerState, model: Any) -> None:
        noted = self._folder.noted(state.global_step)
        self._switched_at, self._model_name, self.history = noted["switched_at"], noted["model"], noted["history"]
        # Checkpoints of earlier versions have neither.
        self.probes, self._base = noted.get("probes", []), noted.get("base", 0)
        self._gate.restart(noted.get("gate"))
        number = noted["generation"]
        if number and not is_complete(self._source.folder_of(number)):
            raise FileNotFoundError(
                f"RefreshNegatives: generation {number} is missing from {self._folder.root}. Restore the folder, or "
                f"resume from a checkpoint of another generation."
            )
        self._forget_after(number, args)
        self._source.progress.generation = number
        if self.history:
            publish(model, state, _numbers(self.history[-1]))
        if self._switched_at == state.global_step and not float(state.epoch or 0).is_integer():
            # When the checkpoint was written, the trainer had prefetched one batch of the previous generation.
            self._source.hold(number - 1, args.per_device_train_batch_size)

    def _forget_after(self, number: int, args: TrainingArguments) -> None:
        if args.process_index == 0:
            self._folder.forget_after(number)
        if args.world_size > 1:
            torch.distributed.barrier()

    def _prune(self) -> None:
        self._folder.prune(self._source.progress.generation, self.keep, self._base)


def _numbers(about: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a generation for the log."""
    return {f"refresh_{name}": value for name, value in about.items() if name != "step"}


def _shared(found: dict[str, float], args: TrainingArguments) -> dict[str, float]:
    """Return the result of the first process, so that all processes make the same decision."""
    if args.world_size == 1:
        return found
    answer = [found]
    torch.distributed.broadcast_object_list(answer, src=0)
    return answer[0]


def _agreed(done: bool, args: TrainingArguments) -> bool:
    """Return the answer of the first process, so that all processes switch at the same step."""
    if args.world_size == 1:
        return done
    answer = torch.tensor([int(done)], device=args.device)
    torch.distributed.broadcast(answer, src=0)
    return bool(answer.item())
