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
from hnm_datasets.audit.calibration import calibrate_margin
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.mining.counting import list_lengths
from hnm_datasets.models.handles import load_model
from hnm_datasets.piloting.code import chain_code
from hnm_datasets.piloting.measured import (
    Spent,
    costs_of,
    false_negatives_of,
    funnel_of,
    hardness_of,
    mine_sample,
    overlap_of,
)
from hnm_datasets.piloting.ranking import MEASURES
from hnm_datasets.piloting.recommendation import Recommendation, by_mining, by_training
from hnm_datasets.piloting.report import Pilot, Trial
from hnm_datasets.piloting.split import Split, split_rows
from hnm_datasets.piloting.strategies import Strategy, checked, deepest, usual
from hnm_datasets.piloting.student import is_static, make_student
from hnm_datasets.piloting.trainings import REFRESHES, Course
from hnm_datasets.piloting.work import work_of
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.runtime.interrupts import interruptible
from hnm_datasets.transforms.base import Transform
from hnm_datasets.transforms.scorers.bi_encoder import BiEncoderScores

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_NAME = "pilot"
#: Rows of a step, and negatives of a row.
_BATCH, _NEGATIVES = 32, 4
#: Passages that a student is measured in, at most, besides the positives.
_SEARCHED = 20_000
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
    held_out: int = 1000,
    train: bool = True,
    student: SentenceTransformer | None = None,
    steps: int = 100,
    seeds: int = 3,
    measure: str = "nDCG@10",
    num_proc: int | None = None,
    seed: int = 0,
) -> Pilot:
    """Find out on a sample which negatives pay on these rows: mine with each strategy, measure, and train on each.

    Every strategy mines for the same sample of the rows. Its negatives are counted and weighed, and a cheap student is
    trained on them some hundred steps and measured with other queries, several times. The recommendation is the
    cheapest strategy whose measure is within the 95% interval of the best: of the paired differences over queries and
    seeds. Cheap is what makes models compute little: the texts or pairs that they read, times their parameters; of two
    that need the same, the better one.

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
        sample: Rows to mine and train on, at most; half of the rows where there are fewer than that and `held_out`.
        held_out: Queries to measure with, at most.
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
        >>> pilot(queries, corpus, strategies, sample=100, held_out=200, steps=20, seeds=2).recommended
        'BM25'
    """
    rows = dataset_of(rows, _NAME)
    check_corpus(_NAME, corpus)
    sample, held_out, steps, seeds = (
        checks.whole_number(_NAME, name, value, low=1)
        for name, value in (("sample", sample), ("held_out", held_out), ("steps", steps), ("seeds", seeds))
    )
    seed, train = checks.whole_number(_NAME, "seed", seed, low=0), checks.yes_or_no(_NAME, "train", train)
    measure = checks.one_of(_NAME, "measure", measure, MEASURES)
    model = _checked_model(model)
    _check_student(student)
    if teacher is not None and not isinstance(teacher, Transform):
        raise TypeError(
            f"{_NAME}: teacher must be a step that scores, such as CrossEncoderScores(corpus, model), got "
            f"{type(teacher).__name__}."
        )
    given = None if strategies is None else checked(strategies)
    split = split_rows(rows, corpus, sample, held_out, seed, train=train)
    learner, what = make_student(corpus, _trained(student, model), seed)
    scorer = BiEncoderScores(corpus, learner if model is None else model, name=_SCORES)
    if given is None:
        given = usual(corpus, model, teacher, _margins(split, corpus, model, teacher, num_proc), train=train)
    run = _Run(
        split=split,
        corpus=corpus,
        strategies=given,
        student=learner,
        scorer=scorer,
        teacher=teacher,
        judgments=judgments,
        num_proc=num_proc,
    )
    course = Course(
        corpus, learner, split.held_out, _searched(split, corpus, seed), steps, _BATCH, _NEGATIVES,
        2e-2 if is_static(learner) else 2e-5,
    )  # fmt: skip
    with interruptible(
        lambda: "pilot was interrupted. What was mined, scored and trained is kept; repeat the call to go on."
    ):
        found = run.all(course, seeds if train else 0, measure, seed)
    recommended = next((one for one in given if one.name == found.recommended), None)
    chain = () if recommended is None else recommended.steps
    return replace(
        found, rows=len(split.rows), student=what if train else None, chain=chain,
        scored_by="the student before training" if model is None else "the model",
    )  # fmt: skip


@dataclass
class _Run:
    """A pilot on its way.

    Attributes:
        split: The rows.
        corpus: The passages.
        strategies: What is compared.
        student: The model that is trained.
        scorer: Tells how hard negatives are.
        teacher: A step that tells false negatives, if there is one.
        judgments: What tells them better.
        num_proc: Processes that mine.
    """

    split: Split
    corpus: Corpus
    strategies: list[Strategy]
    student: SentenceTransformer
    scorer: Transform
    teacher: Transform | None
    judgments: Rows | None
    num_proc: int | None

    def all(self, course: Course, seeds: int, measure: str, seed: int) -> Pilot:
        """Mine, measure and train, with a bar over all of it."""
        mined: dict[str, Dataset] = {}
        spent: dict[str, Spent] = {}
        trials = {one.name: Trial(one.name, self._code(one), one.dynamic) for one in self.strategies}
        total = len(self.strategies) * (_MINING + seeds * course.steps)
        with tqdm(total=total, desc="pilot", unit="step") as bar:
            for strategy in self.strategies:
                bar.set_postfix_str(f"mining: {strategy.name}")
                try:
                    rows, trial, taken = self._mine(strategy, trials[strategy.name])
                    mined[strategy.name], trials[strategy.name], spent[strategy.name] = rows, trial, taken
                except Exception as error:
                    trials[strategy.name] = _failed(trials[strategy.name], error)
                bar.update(_MINING)
            for name, cost in costs_of(spent).items():
                # The corpus is encoded again at each refresh.
                often = REFRESHES + 1 if trials[name].dynamic else 1
                whole = often * (cost.preparing + cost.mining * len(self.split.rows) / len(self.split.sample))
                trials[name] = replace(trials[name], cost=cost, whole_seconds=whole)
            values, trials = self._train(course, trials, mined, seeds, seed, bar)
        good = [name for name, trial in trials.items() if trial.error is None]
        if not good:
            errors = "; ".join(f"{trial.name}: {trial.error}" for trial in trials.values())
            raise ValueError(f"{_NAME}: all strategies failed. {errors}")
        untrained = None
        if seeds:
            decisive = {name: found[:, :, MEASURES.index(measure)] for name, found in values.items()}
            found = by_training(decisive, {name: trials[name].work or 0.0 for name in values}, measure)
            untrained = _means(course.untrained()[None])
        else:
            found = by_mining(
                {name: _rate(trials[name]) for name in good},
                {name: one.above if (one := trials[name].hardness) else None for name in good},
                {name: trials[name].work or 0.0 for name in good},
            )
        return Pilot(
            trials=tuple(_told(trial, found) for trial in trials.values()),
            recommended=found.name,
            sentence=found.sentence,
            rows=0,
            sample=len(self.split.sample),
            held_out=len(self.split.held_out),
            passages=len(self.corpus),
            searched=len(course.passages),
            negatives=course.negatives,
            steps=course.steps,
            seeds=seeds,
            student=None,
            untrained=untrained,
            measure=measure,
            scored_by="",
            false_by=self._false_by(),
            overlap=self._overlap({name: mined[name] for name in good}),
        )

    def _code(self, strategy: Strategy) -> str:
        return chain_code(strategy, _NEGATIVES, self.teacher)

    def _mine(self, strategy: Strategy, trial: Trial) -> tuple[Dataset, Trial, Spent]:
        """Mine with a strategy and measure its negatives."""
        split, steps = self.split, strategy.made(self.student)
        mined, spent = mine_sample(split.sample, steps, self.num_proc)
        if not steps:
            return mined, replace(trial, work=0.0), spent
        lengths = list_lengths(mined, NEGATIVE_IDS)
        if not lengths.any():
            raise ValueError("the steps leave no negative of any row. Widen the filters, or mine with a larger k.")
        hidden = mined
        if self.judgments is None and split.hidden is not None:
            hidden, _ = mine_sample(split.hidden, steps, self.num_proc)
        trial = replace(
            trial,
            candidates=float(lengths.mean()),
            short=int((lengths < _NEGATIVES).sum()),
            funnel=funnel_of(split.sample, steps, self.num_proc),
            hardness=hardness_of(mined, self.corpus, self.scorer),
            false_negatives=false_negatives_of(hidden, self.corpus, self._judgments(), self.teacher),
            work=work_of(strategy, steps, self.corpus, len(split.rows), self.student, REFRESHES + 1),
        )
        return mined, trial, spent

    def _judgments(self) -> Rows | None:
        return self.judgments if self.judgments is not None else self.split.judgments

    def _false_by(self) -> str:
        if self.judgments is not None:
            return "by the judgments"
        if self.split.hidden is not None:
            rows = len(self.split.hidden)
            return f"of {rows:,} rows with several positives, if one were known and the others hidden"
        return "" if self.teacher is None else f"by the scores of {getattr(self.teacher, 'name', 'the teacher')!r}"

    def _train(
        self, course: Course, trials: dict[str, Trial], mined: dict[str, Dataset], seeds: int, seed: int, bar: tqdm
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Trial]]:
        """Train on each strategy; return the measures that decide by strategy, seed and query, and what was found."""
        values: dict[str, list[NDArray[np.float32]]] = {}
        seconds: dict[str, list[float]] = {}
        common = course.name() if seeds else ""
        for number in range(seeds):
            for strategy in self.strategies:
                if trials[strategy.name].error is None:
                    bar.set_postfix_str(f"training {number + 1} of {seeds}: {strategy.name}")
                    rows = self.split.sample if strategy.dynamic else mined[strategy.name]
                    refresh = list(strategy.steps) if strategy.dynamic else []
                    try:
                        found = course.train(common, rows, refresh, Hasher.hash(refresh), seed + number)
                        values.setdefault(strategy.name, []).append(found.values)
                        seconds.setdefault(strategy.name, []).append(found.seconds)
                    except Exception as error:
                        trials[strategy.name] = _failed(trials[strategy.name], error)
                bar.update(course.steps)
        whole = {name: np.stack(parts) for name, parts in values.items() if trials[name].error is None}
        for name, parts in whole.items():
            trials[name] = replace(
                trials[name], measures=_means(parts), training_seconds=float(np.median(seconds[name]))
            )
        return whole, trials

    def _overlap(self, mined: dict[str, Dataset]) -> dict[str, dict[str, float | None]]:
        pairs = {}
        for name, rows in mined.items():
            if NEGATIVE_IDS in rows.column_names:
                lists = Batch(rows.with_format("arrow")[:], step=_NAME).rows_in(NEGATIVE_IDS, self.corpus)
                pairs[name] = np.unique((lists.owners.astype(np.int64) << 32) + lists.values)
        size = len(self.split.sample)
        return {
            one: {other: overlap_of(first, second, size) for other, second in pairs.items()}
            for one, first in pairs.items()
        }


def _told(trial: Trial, found: Recommendation) -> Trial:
    return replace(trial, difference=found.differences.get(trial.name), needed=found.needed.get(trial.name))


def _failed(trial: Trial, error: Exception) -> Trial:
    # The text of a KeyError is its first argument; as a string it would stand in quotes.
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error) or type(error).__name__
    logger.warning("pilot: the strategy %r failed and is left out: %s", trial.name, text)
    return Trial(trial.name, trial.code, trial.dynamic, error=text)


def _means(values: NDArray[np.float32]) -> dict[str, float]:
    """Return the mean of each measure. Shape (S, Q, M)."""
    return dict(zip(MEASURES, values.mean(axis=(0, 1), dtype=np.float64).tolist(), strict=True))


def _rate(trial: Trial) -> tuple[float, float] | None:
    found = trial.false_negatives
    return None if found is None else (found.rate, found.low)


def _checked_model(model: Any) -> Any:
    """Return a model that mines as an object, loaded if it is a path."""
    if model is None:
        return None
    if not isinstance(model, str) and type(model).__name__ == "function":
        raise TypeError(
            f"{_NAME}: model must be a SentenceTransformer, or its path or Hub id. Mine with a function by a strategy: "
            f"strategies={{'dense': [DenseNegatives(corpus, function, fingerprint='...')]}}."
        )
    return load_model(model, None).model


def _check_student(student: Any) -> None:
    if student is None:
        return
    from sentence_transformers import SentenceTransformer

    if not isinstance(student, SentenceTransformer):
        raise TypeError(
            f"{_NAME}: student must be a SentenceTransformer, which can be trained, got {type(student).__name__}. "
            f"Leave it out to train static embeddings made of the words of the corpus."
        )


def _trained(student: Any, model: Any) -> Any:
    """Return the model to train, None for one that is made of the corpus."""
    if student is not None:
        return student
    return model if is_static(model) else None


def _margins(
    split: Split, corpus: Corpus, model: Any, teacher: Transform | None, num_proc: int | None
) -> dict[str, float]:
    """Read margins off rows some of whose positives are hidden, for 5% false negatives; none where that fails."""
    if split.hidden is None or split.judgments is None or (model is None and teacher is None):
        return {}
    steps = [deepest(corpus, model), *([] if teacher is None else [teacher])]
    mined, _ = mine_sample(split.hidden, steps, num_proc)
    found = {}
    for name in ["score"] if teacher is None else ["score", str(getattr(teacher, "name", "teacher"))]:
        try:
            found[name] = calibrate_margin(mined, split.judgments, n=_NEGATIVES, by=name).value
        except ValueError as error:
            logger.info("pilot: no margin by %r could be read off the rows: %s", name, error)
    return found


def _searched(split: Split, corpus: Corpus, seed: int) -> NDArray[np.int64]:
    """Return the rows of the passages that a student is measured in: all, or the positives and random others."""
    if len(corpus) <= _SEARCHED or not len(split.held_out):
        return np.arange(len(corpus))
    wanted = Batch(split.held_out.with_format("arrow")[:], step=_NAME).rows_in(POSITIVE_IDS, corpus).values
    others = np.random.default_rng(seed).choice(len(corpus), _SEARCHED, replace=False)
    return np.union1d(wanted, others)
