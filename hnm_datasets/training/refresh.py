"""Dynamic negatives: mined again with the model as it is now, while it is trained (Xiong et al. 2021, ANCE)."""

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

#: Which callback writes to a folder of generations in this process.
_CLAIMED: weakref.WeakValueDictionary[Path, RefreshNegatives] = weakref.WeakValueDictionary()


class RefreshNegatives(TrainerCallback):
    """Mines the training queries again at intervals with the current model, and trains on the new negatives.

    At each refresh the corpus is encoded with the current weights, the steps run over the queries, and the rows of
    `live_negatives` draw from the candidates that are left: a *generation*. The optimizer, the schedule and the order
    of the rows do not change; the model's modes and all random states are restored.

    The trainer holds one batch ready (and each of its dataloader's workers some), so a switch is seen from the batch
    after that on. A training that is resumed from a checkpoint continues with the generations that it had.

    Generations are below `output_dir`. The results of models are in the cache directory: the vectors of the model in
    training are deleted after each refresh, and a teacher's scores stay for the next refresh and the next training.

    Under `accelerate launch` the processes share the encoding, one mines, and all switch at the same step; they need a
    common file system. Numbers on each generation are logged, and reach the trainer's reporters with each entry of the
    loss; see `history`.

    Args:
        live: The rows that are trained on.
        steps: The steps that mine. A step that uses the model in training is passed as a function from the model to
            the step, as in `[partial(DenseNegatives, corpus, k=50), RelativeMargin(0.05)]`.
        every: Optimizer steps between refreshes; a float: epochs, such as 0.5.
        background: Mine in a thread with a copy of the model while the training continues, then switch. The copy needs
            memory; the negatives are some steps old, which the log says; when the switch comes depends on the machine.
        fraction: Mine only this share of the queries at each refresh, another one each time.
        start: Optimizer steps before the first refresh; a float: epochs. Until then the rows train on the negatives
            that they came with.
        start_mrr: From `start` on, wait until the model ranks a sample of the queries so well: the mean reciprocal rank
            of the best positive among the candidates that a query has, 0 to 1, looked at every `every` steps.
        stale: At each interval, refresh only if the candidates of a sample of the queries have become easy: their mean
            share in a softmax with the best positive (`weight`) has fallen to this share of what it was after the last
            refresh, such as 0.5. Where it was below 0.01 even then, the model ranks its training queries right, and no
            refresh follows. The first comes in any case. A look at the sample does not encode the corpus.
        probe: How many queries such a sample has, spread over the rows.
        corpus_every: Encode the corpus at one of so many refreshes; at the others encode the queries alone, and search
            the vectors that there are (Zhan et al. 2021, *ADORE*, https://arxiv.org/abs/2104.08051), at a part of the
            cost. The vectors stay in the cache directory as long as the training or a checkpoint needs them.
        memory: The share of each query's candidates that come from earlier generations, drawn anew at each refresh, as
            far as there are so many. Models forget what they are no longer shown (Sun et al. 2022, *ANCE-Tele*,
            https://arxiv.org/abs/2210.17167).
        keep: The number of generations to keep, in addition to those that a checkpoint needs.

    Attributes:
        history: One dict per generation: `generation`, `step`, `model_step`, `seconds_encode`, `seconds_index`,
            `seconds_mine`; `mrr`, `recall`: of the positives under the current model, among the candidates; `above`:
            the share of the negatives that it ranks above the positive, which carry the gradient; `replaced`: the share
            of new negatives; `short`: the share of rows with fewer negatives than wanted.
        probes: One dict for each look at a sample: `step`, `mrr`, `above`, `weight`, `seconds`.

    Raises:
        TypeError: `live` or a step is something else, or a function cannot make a step of the model alone.
        ValueError: An option is out of range, a step needs a column that no step before it writes, or a step mines with
            a fixed model. While training: the steps leave no candidate of any query.

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
                f"{name}: start and start_mrr put the first refresh off, and the rows have no negatives until then. "
                f"Mine them before live_negatives, such as with BM25Negatives, or leave the two out."
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
        # The generation whose vectors of the corpus are searched, and what holds those of each in this process.
        self._base = 0
        self._left: dict[int, list[Holder]] = {}

    # ---- what the trainer calls ----------------------------------------------------------------------------------

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Continue with a checkpoint's generation, or mine if there are no negatives yet."""
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
        """Draw the next epoch's negatives."""
        self._source.progress.epoch = math.floor(state.epoch or 0)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let go of the generation that the first batch after a resume was from."""
        self._source.hold(None, 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Refresh, if it is time."""
        with self._interruptible(args, state):
            if self._job is not None and _agreed(self._job.done(), args):
                job, self._job = self._job, None
                self._switch(args, state, model, job)
            if self._is_time(state) and self._gate.is_due(partial(self._look, args, state, model)):
                self._refresh(args, state, model)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note the generation beside the checkpoint."""
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
        """Let go of a refresh that came too late, and of the numbers that were logged."""
        publish(model, state, {})
        _CLAIMED.pop(self._folder.root, None)
        self._training = None
        if self._job is not None:
            self._job.wait()
            self._job = None
        if args.process_index == 0:
            # What no checkpoint needs.
            self._base = 0
            self._prune()

    def _claim(self, state: TrainerState) -> None:
        """Become the one that writes to the folder, in place of a training that was interrupted."""
        other = _CLAIMED.get(self._folder.root)
        if other is not None and other is not self and other._training is state:
            raise ValueError(
                "RefreshNegatives: two sets of the same queries with the same options share their generations. Make "
                "one of them with another seed: live_negatives(..., seed=1)."
            )
        # An interrupted training may have left a refresh behind: of this callback, or into this folder.
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
        """Look at a sample of the negatives, in one process for all."""
        found: dict[str, float] = {}
        if args.process_index == 0:
            with untouched(model):
                found = self._probe.look(model, model_fingerprint(model))
        found = _shared(found, args)
        self.probes.append(found | {"step": state.global_step})
        numbers = {f"probe_{name}": value for name, value in found.items()}
        state.log_history.append(numbers | {"step": state.global_step, "epoch": state.epoch})
        if args.process_index == 0:
            logger.info("RefreshNegatives: a probe says %s", json.dumps(self.probes[-1]))
        return found

    @staticmethod
    def _steps_in(epochs: float, args: TrainingArguments, train_dataloader: Any) -> int:
        steps = round(epochs * len(train_dataloader) / args.gradient_accumulation_steps)
        return max(1, steps) if epochs else 0

    # ---- a refresh -----------------------------------------------------------------------------------------------

    def _refresh(self, args: TrainingArguments, state: TrainerState, model: Any) -> None:
        name = model_fingerprint(model)
        if name == self._model_name and self.fraction == 1:
            logger.info("RefreshNegatives: the model has not changed; the negatives stay.")
            return
        if self._job is not None:
            logger.info("RefreshNegatives: step %d: the last refresh is still under way.", state.global_step)
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
        """Name the vectors that the refresh of a number searches again; none if it is to encode the corpus."""
        if (number - 1) % self.corpus_every == 0:
            return []
        names = self._folder.vectors_left(self._base)
        if not names:
            logger.info("RefreshNegatives: no vectors of an earlier refresh are there; the corpus is encoded again.")
        return names

    @staticmethod
    def _interruptible(args: TrainingArguments, state: TrainerState) -> AbstractContextManager[None]:
        """Say, if Ctrl-C interrupts this block, what the training resumes from."""

        def explain() -> str:
            steps = [path.name.rpartition("-")[2] for path in Path(str(args.output_dir)).glob("checkpoint-*")]
            last = max((int(step) for step in steps if step.isdigit()), default=None)
            way_out = (
                "There is no checkpoint, so trainer.train() starts again; with save_steps= it can resume"
                if last is None
                else f"trainer.train(resume_from_checkpoint=True) resumes from checkpoint-{last}"
            )
            return f"RefreshNegatives was interrupted at step {state.global_step}. {way_out}."

        return interruptible(explain, replace=True)

    def _switch(self, args: TrainingArguments, state: TrainerState, model: Any, job: RefreshJob) -> None:
        """Let the rows draw from a generation that is written."""
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
        # Checkpoints of earlier versions note neither.
        self.probes, self._base = noted.get("probes", []), noted.get("base", 0)
        self._gate.restart(noted.get("gate"))
        number = noted["generation"]
        if number and not is_complete(self._source.folder_of(number)):
            raise FileNotFoundError(f"RefreshNegatives: generation {number} is not in {self._folder.root}.")
        self._forget_after(number, args)
        self._source.progress.generation = number
        if self.history:
            publish(model, state, _numbers(self.history[-1]))
        if self._switched_at == state.global_step and not float(state.epoch or 0).is_integer():
            # The trainer held one batch ready when the checkpoint was written, from the generation before.
            self._source.hold(number - 1, args.per_device_train_batch_size)

    def _forget_after(self, number: int, args: TrainingArguments) -> None:
        if args.process_index == 0:
            self._folder.forget_after(number)
        if args.world_size > 1:
            torch.distributed.barrier()

    def _prune(self) -> None:
        self._folder.prune(self._source.progress.generation, self.keep, self._base)


def _numbers(about: dict[str, Any]) -> dict[str, float]:
    """Return what is logged of a generation."""
    return {f"refresh_{name}": value for name, value in about.items() if name != "step"}


def _shared(found: dict[str, float], args: TrainingArguments) -> dict[str, float]:
    """Return what the first process found, so that all decide alike."""
    if args.world_size == 1:
        return found
    answer = [found]
    torch.distributed.broadcast_object_list(answer, src=0)
    return answer[0]


def _agreed(done: bool, args: TrainingArguments) -> bool:
    """Return what the first process says, so that all switch at the same step."""
    if args.world_size == 1:
        return done
    answer = torch.tensor([int(done)], device=args.device)
    torch.distributed.broadcast(answer, src=0)
    return bool(answer.item())
