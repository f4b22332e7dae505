"""`pilot`: which negatives pay on a user's own data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from datasets.fingerprint import Hasher
from datasets.utils import tqdm
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
from hnm_datasets.runtime.bars import without_bars
from hnm_datasets.runtime.interrupts import interruptible
from hnm_datasets.runtime.notices import one_call
from hnm_datasets.transforms.base import Transform
from hnm_datasets.transforms.scorers.bi_encoder import BiEncoderScores

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_NAME = "pilot"
#: Rows of a step.
_BATCH = 32
#: What a strategy costs on the bar before it is trained, in steps of a training.
_MINING = 30
#: The columns that the model of a pilot writes its scores to.
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
    """Find out on a sample which negatives pay on these rows: mine with each strategy, measure, and train on each.

    Every strategy mines for the same sample of the rows, and its negatives are counted and scored. Then a cheap student
    is trained for a hundred steps on each strategy, several times, and measured with other queries. A step takes rows
    that no step before it had, as long as there are such rows: a student that knows few queries by heart learns nothing
    from negatives that are mined for them later.

    The recommendation is the cheapest strategy whose measure is at most one standard error below the best, in paired
    differences over queries and seeds. The cost is what models compute: the number of texts or pairs that they read,
    times their parameters. Of two strategies with the same cost the better one is chosen.

    False negatives are told by `judgments`; else by rows that have several positives, of which all but one are hidden,
    so that the rate is that of rows that know one; else by the teacher.

    The student is `model` itself where it is of static embeddings. Otherwise it is static embeddings made of the words
    of the corpus, whose gains are smaller or larger than those of a transformer; pass it as `student=` to train that.

    What was mined, scored and trained is kept in the cache directory, so that a pilot that was interrupted goes on when
    it is called again. One seed gives one answer, whatever `num_proc`; only the seconds differ.

    Args:
        rows: Queries with positives: a `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists.
        corpus: The passages.
        strategies: From a name to a list of steps; an empty list stands for in-batch negatives alone. A step that waits
            for the model in training makes the strategy dynamic, as in `[partial(DenseNegatives, corpus, k=20)]`; such
            a list is what `RefreshNegatives` takes. None: in-batch, random, BM25, BM25 below rank 10 and dynamic; with
            `model` also dense, fused with BM25, and dense with a margin; with `teacher` denoised by it. Margins are
            read off rows with several positives, for 5% false negatives, where there are such rows.
        model: A `SentenceTransformer`, or its path or Hub id, that mines.
        teacher: A step that scores, such as `CrossEncoderScores(corpus, cross_encoder)`.
        judgments: Which passages are relevant, also beyond the positives of the rows, in a form of `audit_negatives`.
        sample: Rows to mine and count, at most; 20 or more. The student is trained on 32 times `steps` rows, where
            there are so many, with at most half of the questions.
        held_out: Queries to measure with, at most; 20 or more.
        train: Train the student; False: only mine and measure. Then the hardest strategy with at most 5% false
            negatives is recommended.
        student: The model to train.
        steps: Steps of a training, each of 32 rows with 4 negatives.
        seeds: Trainings of each strategy.
        measure: What decides: `"nDCG@10"`, `"recall@10"` or `"recall@100"`.
        num_proc: The number of processes that mine, see `Dataset.map`.
        seed: For the sample, the student and the trainings.

    Columns read:
        `query`, `positive_ids`; `query_id` and `known_positive_ids`, if there; what the steps read.

    Returns:
        A `Pilot`: it prints itself, shows itself in a notebook, and has `.recommended`, `.sentence`, `.chain`, `.code`,
        `.to_dict()` and `.to_markdown()`. A strategy that fails is in it with its error, and the others go on.

    Raises:
        KeyError: A column is missing, or a positive is not in the corpus.
        TypeError: Something is of the wrong type, such as a student that cannot be trained.
        ValueError: Too few rows have a positive to tell anything, an option is out of range, or all strategies fail.

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
            f"pilot was interrupted while {doing}. What was mined, scored and trained before is kept; repeat the call "
            f"to go on."
        )

    # Each warning once: the strategies are mined and trained on again and again.
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
    """A pilot on its way.

    Attributes:
        split: The rows.
        strategies: What is compared.
        course: What all trainings have in common.
        scorer: Tells how hard negatives are.
        scored_by: Whose scores these are.
        teacher: A step that tells false negatives, if there is one.
        judgments: What tells them better.
        measure: The measure that decides.
        student: What is trained; None: nothing is.
        seeds: The seed of each training of a strategy; empty: there is none.
        num_proc: Processes that mine.
        doing: What is done at the moment.
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
        """Mine, measure and train, with a bar over all of it."""
        code = {one.name: chain_code(one, NEGATIVES, self.teacher) for one in self.strategies}
        trials = {one.name: Trial(one.name, code[one.name], one.dynamic) for one in self.strategies}
        total = len(self.strategies) * (_MINING + len(self.seeds) * self.course.steps)
        with tqdm(total=total, desc="pilot", unit="step") as bar, without_bars():
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

    def _mine_all(self, trials: dict[str, Trial], bar: tqdm) -> dict[str, Dataset]:
        """Mine with each strategy and measure; return the mined sample of each that works."""
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
            # The corpus is encoded again at each refresh.
            often = REFRESHES + 1 if trials[name].dynamic else 1
            whole = often * (cost.preparing + cost.mining * len(self.split.rows) / len(self.split.sample))
            trials[name] = replace(trials[name], cost=cost, whole_seconds=whole)
        return mined

    def _show(self, bar: tqdm, doing: str) -> None:
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
            raise ValueError("the steps leave no negative of any row. Widen the filters, or mine with a larger k.")
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
            return f"of {rows:,} rows with several positives, if one were known and the others hidden"
        return "" if self.teacher is None else f"by the scores of {getattr(self.teacher, 'name', 'the teacher')!r}"

    def _train_all(self, trials: dict[str, Trial], bar: tqdm) -> dict[str, NDArray[np.float32]]:
        """Train on each strategy; return all measures by strategy. Shape (S, Q, M) each."""
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
                        # Once for all seeds: steps that have no hash are never found in the cache of `map`.
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
        """Mine the rows to train on, which may be more than the sample; a dynamic strategy mines while training."""
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
    # The text of a KeyError is its first argument; as a string it would stand in quotes.
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error) or type(error).__name__
    logger.warning("pilot: the strategy %r failed and is left out: %s", trial.name, text)
    return Trial(trial.name, trial.code, trial.dynamic, error=text)
