"""`pilot`: find the best mining strategy for a user's own data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from datasets.fingerprint import Hasher
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.columns import NEGATIVE_IDS
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.markdown import one_line
from hnm_datasets.mining.counting import list_lengths
from hnm_datasets.piloting.code import chain_code
from hnm_datasets.piloting.given import check_teacher, checked_judgments, checked_model, model_to_train
from hnm_datasets.piloting.margins import margins_of
from hnm_datasets.piloting.measured import (
    Spent,
    costs_of,
    false_negatives_of,
    funnel_of,
    hardness_of,
    mine_quietly,
    mine_sample,
    overlaps_of,
)
from hnm_datasets.piloting.ranking import MEASURES, means_of
from hnm_datasets.piloting.recommendation import Recommendation, by_mining, by_training
from hnm_datasets.piloting.report import Pilot, Trial
from hnm_datasets.piloting.split import FEWEST, Split, searched_passages, split_rows
from hnm_datasets.piloting.strategies import NEGATIVES, Strategy, checked, usual
from hnm_datasets.piloting.student import is_static, make_student
from hnm_datasets.piloting.trainings import REFRESHES, Course
from hnm_datasets.piloting.work import work_of
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.runtime.bars import ProgressBar, without_bars
from hnm_datasets.runtime.interrupts import interruptible
from hnm_datasets.runtime.notices import one_call
from hnm_datasets.transforms.base import Transform
from hnm_datasets.transforms.scorers.bi_encoder import BiEncoderScores

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_NAME = "pilot"
#: Rows per training step.
_BATCH = 32
#: How far mining with a strategy advances the progress bar, in training steps.
_MINING = 30
#: The name of the score columns for hardness.
_SCORES = "pilot"


def pilot(
    rows: Rows,
    corpus: Corpus,
    strategies: Mapping[str, Sequence[Callable[[Any], Any]]] | None = None,
    *,
    model: SentenceTransformer | str | None = None,
    teacher: Transform | None = None,
    judgments: Rows | None = None,
    sample: int = 500,
    held_out: int = 2000,
    train: bool = True,
    student: SentenceTransformer | None = None,
    steps: int = 100,
    seeds: int = 3,
    measure: str = "nDCG@10",
    num_proc: int | None = None,
    seed: int = 0,
) -> Pilot:
    """Recommend a mining strategy for these rows: mine a sample with each strategy, measure, and train on each.

    All strategies mine the same sample of the rows, and the pilot counts and scores their negatives. It then trains a
    cheap student on each strategy, with several seeds, and measures the student with held-out queries. Each training
    step uses new rows as long as there are any: a student that repeats few queries memorizes them, and then learns
    nothing from refreshed negatives.

    The recommendation is the cheapest strategy whose measure is at most one standard error below the best. The error is
    that of paired differences over queries and seeds. Cost is the computation of models: the number of texts or pairs
    that they read, times their parameters. Among strategies of equal cost, the better one is recommended.

    The rate of false negatives comes from `judgments`. Without them, the pilot hides all but one positive of rows with
    several, and counts how many of the hidden positives are mined. Without such rows, it comes from the teacher.

    The student is `model` itself if that has static embeddings. Otherwise it is static embeddings made from the words
    of the corpus. A transformer may gain more or less from a strategy; pass it as `student=` to train it instead.

    The cache directory keeps all mined rows, scores and results, so an interrupted pilot resumes when you repeat the
    call. The results depend on `seed`, not on `num_proc`; only the seconds differ between runs.

    Args:
        rows: Queries with positives: a `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists.
        corpus: The passages.
        strategies: A dict from names to lists of steps. An empty list means in-batch negatives only. A step that takes
            the model in training makes a strategy dynamic, as in `[partial(DenseNegatives, corpus, k=20)]`;
            `RefreshNegatives` takes the same lists. None: in-batch, random, BM25, BM25 below rank 10, and dynamic; with
            `model` also dense, dense fused with BM25, and dense with a margin; with `teacher` also denoised. Margins
            are calibrated for 5% false negatives on rows with several positives; 0.05 without such rows.
        model: The mining model: a `SentenceTransformer`, or its path or Hub id.
        teacher: A scorer, such as `CrossEncoderScores(corpus, cross_encoder)`.
        judgments: Relevant passages, including those that are not positives of the rows, in a format that
            `audit_negatives` accepts.
        sample: Maximum number of rows to mine and count; 20 or more. The student is trained on up to 32 times `steps`
            rows, with at most half of the questions.
        held_out: Maximum number of queries to measure with; 20 or more.
        train: Whether to train the student. If False, the recommendation is the hardest strategy with at most 5% false
            negatives.
        student: The `SentenceTransformer` to train; None: see above.
        steps: Optimizer steps of a training, each with 32 rows and 4 negatives per row.
        seeds: Trainings of each strategy.
        measure: The measure that decides: `"nDCG@10"`, `"recall@10"` or `"recall@100"`.
        num_proc: The number of processes that mine, see `Dataset.map`.
        seed: Seed of the sample, the student and the trainings.

    Columns read:
        `query`, `positive_ids`; `query_id` and `known_positive_ids`, if present; the columns that the steps read.

    Returns:
        A `Pilot`, which prints as tables and has `.recommended`, `.sentence`, `.chain`, `.code`, `.to_dict()` and
        `.to_markdown()`. A strategy that fails is listed with its error, and the others continue.

    Raises:
        KeyError: A column is missing, or a positive is not in the corpus.
        TypeError: An argument has the wrong type, such as a student that cannot be trained.
        ValueError: Too few questions have a positive, an option is out of range, or all strategies fail.

    Example:
        >>> from hnm_datasets import BM25Negatives, RandomNegatives, load_sample
        >>> corpus, queries = load_sample()
        >>> strategies = {"random": [RandomNegatives(corpus, k=4)], "BM25": [BM25Negatives(corpus, k=4)]}
        >>> pilot(queries, corpus, strategies, sample=100, held_out=200, steps=8, seeds=1).recommended
        'BM25'
    """
    rows = dataset_of(rows, _NAME)
    check_corpus(_NAME, corpus)
    sample, held_out, steps, seeds = (
        checks.whole_number(_NAME, name, value, low=low)
        for name, value, low in (
            ("sample", sample, FEWEST), ("held_out", held_out, FEWEST), ("steps", steps, 1), ("seeds", seeds, 1),
        )
    )  # fmt: skip
    seed, train = checks.whole_number(_NAME, "seed", seed, low=0), checks.yes_or_no(_NAME, "train", train)
    measure = checks.one_of(_NAME, "measure", measure, MEASURES)
    check_teacher(teacher)
    given = None if strategies is None else checked(strategies)
    model = checked_model(model)
    trained = model_to_train(student, model)
    run: _Run | None = None

    def explain() -> str:
        doing = "preparing" if run is None else run.doing
        return (
            f"pilot was interrupted while {doing}. Everything mined, scored and trained so far is kept; repeat the "
            f"call to resume."
        )

    # Log each warning once, although the same steps are mapped many times.
    with interruptible(explain, replace=True), one_call():
        with without_bars():
            split = split_rows(rows, corpus, sample, steps * _BATCH if train else 0, held_out, seed)
            judged = checked_judgments(judgments, split.sample)
            learner, what = make_student(corpus, trained, seed)
            if given is None:
                margins = margins_of(split, corpus, model, teacher, num_proc)
                given = usual(corpus, model, teacher, margins, train=train)
        passages = searched_passages(split, corpus, seed)
        rate = 2e-2 if is_static(learner) else 2e-5
        run = _Run(
            split=split,
            strategies=given,
            course=Course(corpus, learner, split.held_out, passages, steps, _BATCH, NEGATIVES, rate),
            scorer=BiEncoderScores(corpus, learner if model is None else model, name=_SCORES),
            scored_by="the student before training" if model is None else "the model",
            teacher=teacher,
            judgments=judged,
            measure=measure,
            student=what if train else None,
            seeds=[seed + number for number in range(seeds)] if train else [],
            num_proc=num_proc,
        )
        return run.all()


@dataclass
class _Run:
    """A running pilot.

    Attributes:
        split: The rows.
        strategies: The strategies to compare.
        course: The settings that all trainings share.
        scorer: The scorer that measures hardness.
        scored_by: A description of the scorer's model.
        teacher: A scorer that identifies false negatives, if there is one.
        judgments: Judgments that identify false negatives; preferred over the teacher.
        measure: The measure that decides.
        student: A description of the model to train; None without training.
        seeds: The seed of each training of a strategy; empty without training.
        num_proc: Processes that mine.
        doing: The current task, for the progress bar and the message after Ctrl-C.
    """

    split: Split
    strategies: list[Strategy]
    course: Course
    scorer: Transform
    scored_by: str
    teacher: Transform | None
    judgments: Dataset | None
    measure: str
    student: str | None
    seeds: list[int]
    num_proc: int | None
    doing: str = "preparing"

    def all(self) -> Pilot:
        """Mine, measure and train, with one progress bar."""
        trials = {
            one.name: Trial(one.name, chain_code(one, NEGATIVES, self.teacher), one.dynamic) for one in self.strategies
        }
        total = len(self.strategies) * (_MINING + len(self.seeds) * self.course.steps)
        with ProgressBar(total, "pilot", "steps") as bar, without_bars():
            mined = self._mine_all(trials, bar)
            values = self._train_all(trials, bar)
        good = [name for name, trial in trials.items() if trial.error is None]
        if not good:
            errors = "; ".join(f"{trial.name}: {trial.error}" for trial in trials.values())
            raise ValueError(f"{_NAME}: all strategies failed. {errors}")
        self.doing = "comparing the strategies"
        found = self._recommended({name: trials[name] for name in good}, values)
        course, split = self.course, self.split
        return Pilot(
            trials=tuple(
                replace(trial, difference=found.differences.get(name), needed=found.needed.get(name))
                for name, trial in trials.items()
            ),
            recommended=found.name,
            sentence=found.sentence,
            rows=len(split.rows),
            sample=len(split.sample),
            trained=len(split.trained),
            held_out=len(split.held_out),
            passages=len(course.corpus),
            searched=len(course.passages),
            negatives=course.negatives,
            steps=course.steps,
            seeds=len(self.seeds),
            student=self.student,
            untrained=means_of(course.untrained()[None]) if self.seeds else None,
            measure=self.measure,
            scored_by=self.scored_by,
            false_by=self._false_by(),
            overlap=overlaps_of({name: mined[name] for name in good}, course.corpus),
            chain=next((one.steps for one in self.strategies if one.name == found.name), ()),
        )

    def _mine_all(self, trials: dict[str, Trial], bar: ProgressBar) -> dict[str, Dataset]:
        """Mine with each strategy and measure; return the mined sample of each strategy that works."""
        mined: dict[str, Dataset] = {}
        spent: dict[str, Spent] = {}
        for strategy in self.strategies:
            name = strategy.name
            self._show(bar, f"mining: {name}")
            try:
                mined[name], trials[name], spent[name] = self._mine(strategy, trials[name])
            except Exception as error:
                trials[name] = _failed(trials[name], error)
            bar.update(_MINING)
        for name, cost in costs_of(spent).items():
            # Each refresh encodes the corpus again.
            rounds = REFRESHES + 1 if trials[name].dynamic else 1
            whole = rounds * (cost.preparing + cost.mining * len(self.split.rows) / len(self.split.sample))
            trials[name] = replace(trials[name], cost=cost, whole_seconds=whole)
        return mined

    def _show(self, bar: ProgressBar, doing: str) -> None:
        self.doing = one_line(doing)
        bar.set_postfix_str(self.doing)

    def _mine(self, strategy: Strategy, trial: Trial) -> tuple[Dataset, Trial, Spent]:
        """Mine with a strategy and measure its negatives."""
        split, steps = self.split, strategy.made(self.course.student)
        mined, spent = mine_sample(split.sample, steps, self.num_proc)
        if not steps:
            return mined, replace(trial, work=0.0), spent
        lengths = list_lengths(mined, NEGATIVE_IDS)
        if not lengths.any():
            raise ValueError("the steps leave no negatives for any row. Loosen the filters, or mine with a larger k.")
        judged, judgments, corpus = mined, self.judgments, self.course.corpus
        if judgments is None and split.hidden is not None:
            judged, _ = mine_sample(split.hidden, steps, self.num_proc)
            judgments = split.judgments
        trial = replace(
            trial,
            candidates=float(lengths.mean()),
            short=int((lengths < NEGATIVES).sum()),
            funnel=funnel_of(split.sample, steps, self.num_proc),
            hardness=hardness_of(mined, corpus, self.scorer),
            false_negatives=false_negatives_of(judged, corpus, judgments, self.teacher),
            work=work_of(strategy, steps, corpus, len(split.rows), REFRESHES + 1),
        )
        return mined, trial, spent

    def _false_by(self) -> str:
        if self.judgments is not None:
            return "by the judgments"
        if self.split.hidden is not None:
            rows = len(self.split.hidden)
            return f"by {rows:,} rows with several positives, with one known and the others hidden"
        return "" if self.teacher is None else f"by the scores of {getattr(self.teacher, 'name', 'the teacher')!r}"

    def _train_all(self, trials: dict[str, Trial], bar: ProgressBar) -> dict[str, NDArray[np.float32]]:
        """Train on each strategy; return the measures of each. Shape (S, Q, M) each."""
        rows: dict[str, Dataset] = {}
        values: dict[str, list[NDArray[np.float32]]] = {}
        seconds: dict[str, list[float]] = {}
        common = self.course.name() if self.seeds else ""
        for number, seed in enumerate(self.seeds, start=1):
            for strategy in self.strategies:
                name = strategy.name
                if trials[name].error is None:
                    self._show(bar, f"training {number} of {len(self.seeds)}: {name}")
                    refresh = list(strategy.steps) if strategy.dynamic else []
                    try:
                        # Mine once for all seeds: the cache of `map` never finds steps without a hash.
                        if name not in rows:
                            rows[name] = self._rows_to_train_on(strategy)
                        found = self.course.train(common, rows[name], refresh, Hasher.hash(refresh), seed)
                        values.setdefault(name, []).append(found.values)
                        seconds.setdefault(name, []).append(found.seconds)
                    except Exception as error:
                        trials[name] = _failed(trials[name], error)
                bar.update(self.course.steps)
        whole = {name: np.stack(parts) for name, parts in values.items() if trials[name].error is None}
        for name, parts in whole.items():
            trials[name] = replace(
                trials[name], measures=means_of(parts), training_seconds=float(np.median(seconds[name]))
            )
        return whole

    def _rows_to_train_on(self, strategy: Strategy) -> Dataset:
        """Mine the rows to train on, which may be more than the sample; a dynamic strategy mines during training."""
        if strategy.dynamic:
            return self.split.trained
        return mine_quietly(self.split.trained, strategy.steps, self.num_proc)

    def _recommended(self, trials: dict[str, Trial], values: dict[str, NDArray[np.float32]]) -> Recommendation:
        """Recommend one of the strategies that work."""
        work = {name: trial.work or 0.0 for name, trial in trials.items()}
        if values:
            decisive = MEASURES.index(self.measure)
            return by_training({name: found[:, :, decisive] for name, found in values.items()}, work, self.measure)
        return by_mining(
            {name: found.rate if (found := trial.false_negatives) else None for name, trial in trials.items()},
            {name: hard.above if (hard := trial.hardness) else None for name, trial in trials.items()},
            work,
        )


def _failed(trial: Trial, error: Exception) -> Trial:
    # str() of a KeyError puts its message in quotes.
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error) or type(error).__name__
    logger.warning("pilot: the strategy %r failed and is skipped: %s", trial.name, text)
    return Trial(trial.name, trial.code, trial.dynamic, error=text)
