"""The results of a pilot, as numbers, text, Markdown and HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hnm_datasets.audit.false_negatives import FalseNegatives
from hnm_datasets.audit.tables import Report, Table, number, percent
from hnm_datasets.markdown import count, one_line
from hnm_datasets.mining.report import MiningReport
from hnm_datasets.piloting.intervals import Difference
from hnm_datasets.piloting.measured import Cost, Hardness
from hnm_datasets.piloting.recommendation import shown

#: Maximum number of characters of a strategy's name in a table.
_NAME_LENGTH = 30


@dataclass(frozen=True)
class Trial:
    """The results of one strategy.

    Args:
        name: The name of the strategy.
        code: Its chain as Python code to paste.
        dynamic: Whether the strategy mines again during training.
        error: The error, if the strategy failed; all later fields are then None.
        candidates: The mean number of negatives per row.
        short: The number of rows of the sample with fewer negatives than training uses.
        funnel: The counts of `mine` for each step on the sample, with examples of dropped candidates.
        hardness: How hard its negatives are.
        false_negatives: The share of its negatives that are relevant; None if unknown.
        cost: The cost of mining the sample.
        whole_seconds: The estimated seconds for mining all rows, including the refreshes of a dynamic strategy.
        work: The computation of models for all rows: the number of texts or pairs that they read, times their
            parameters. The recommendation compares costs by it.
        measures: The measures of the trained student, means over seeds and queries; None without training.
        training_seconds: The median seconds of a training.
        difference: The difference of its measure to the best one; None for the best strategy.
        needed: The number of held-out queries that would distinguish it from the best; None if no more are needed.
    """

    name: str
    code: str
    dynamic: bool
    error: str | None = None
    candidates: float | None = None
    short: int | None = None
    funnel: MiningReport | None = None
    hardness: Hardness | None = None
    false_negatives: FalseNegatives | None = None
    cost: Cost | None = None
    whole_seconds: float | None = None
    work: float | None = None
    measures: dict[str, float] | None = None
    training_seconds: float | None = None
    difference: Difference | None = None
    needed: int | None = None


@dataclass(frozen=True, repr=False)
class Pilot(Report):
    """The results of `pilot`. Prints as tables in a terminal and as HTML in a notebook; `plot_pilot` draws it.

    Args:
        trials: The results of each strategy, in the order of the strategies.
        recommended: The name of the recommended strategy; None if none can be recommended.
        sentence: The recommendation and its reason.
        rows: The number of rows to mine in all.
        sample: The number of rows that were mined and counted.
        trained: The number of rows that the student was trained on.
        held_out: The number of queries that the student was measured with.
        passages: The number of passages in the corpus.
        searched: The number of passages that the student was measured on.
        negatives: Negatives per row in training.
        steps: Optimizer steps of a training.
        seeds: Trainings of each strategy.
        student: A description of the trained model; None without training.
        untrained: The measures of the student before training; None without training.
        measure: The measure that decides.
        scored_by: The model with the scores of `Trial.hardness`.
        false_by: The source of the false-negative rates; empty if they are unknown.
        overlap: The share of common negatives (Jaccard) for each pair of strategies.
        chain: The steps of the recommended strategy, ready for `mine`, or for `RefreshNegatives` if it is dynamic.

    Example:
        >>> from hnm_datasets import BM25Negatives, RandomNegatives, load_sample, pilot
        >>> corpus, queries = load_sample()
        >>> strategies = {"random": [RandomNegatives(corpus, k=4)], "BM25": [BM25Negatives(corpus, k=4)]}
        >>> found = pilot(queries, corpus, strategies, sample=50, train=False)
        >>> [(trial.name, trial.candidates) for trial in found.trials]
        [('random', 4.0), ('BM25', 4.0)]
        >>> found.overlap["random"]["BM25"] < 0.05
        True
    """

    trials: tuple[Trial, ...]
    recommended: str | None
    sentence: str
    rows: int
    sample: int
    trained: int
    held_out: int
    passages: int
    searched: int
    negatives: int
    steps: int
    seeds: int
    student: str | None
    untrained: dict[str, float] | None
    measure: str
    scored_by: str
    false_by: str
    overlap: dict[str, dict[str, float | None]]
    chain: tuple[Any, ...] = field(default=(), compare=False)

    @property
    def code(self) -> str:
        """The recommended chain as Python code to paste; empty without a recommendation."""
        return next((trial.code for trial in self.trials if trial.name == self.recommended), "")

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the chain as plain values, ready for JSON."""
        found = super().to_dict()
        del found["chain"]
        for trial in found["trials"]:
            trial |= {name: value._asdict() for name, value in trial.items() if hasattr(value, "_asdict")}
        return found | {"code": self.code}

    def _heading(self) -> str:
        return self.sentence

    def _tables(self) -> list[Table]:
        tables = [Table("", block=self.code)] if self.code else []
        if self.student is not None:
            tables.append(self._trained())
        tables.append(self._mined())
        if len(self.overlap) > 1:
            tables.append(self._common())
        failed = [trial for trial in self.trials if trial.error]
        if failed:
            rows = tuple((_short(trial.name), trial.error or "") for trial in failed)
            tables.append(Table("Failed strategies", ("strategy", "error"), rows))
        return tables

    def _trained(self) -> Table:
        assert self.untrained is not None
        names = list(self.untrained)
        rows = [("untrained", *(_hundredfold(self.untrained[name]) for name in names), "-", "-", "-")]
        for trial in self.trials:
            if trial.measures is None:
                continue
            against = "best" if trial.difference is None else shown(trial.difference)
            verdict = ""
            if trial.difference is not None:
                verdict = "within the noise" if trial.difference.high >= 0 else "worse"
            cells = [_hundredfold(trial.measures[name]) for name in names]
            rows.append((_short(trial.name), *cells, against, verdict, _seconds(trial.whole_seconds)))
        columns = ("strategy", *names, f"{self.measure} against the best", "", "s, all rows")
        where = "" if self.searched == self.passages else f"{self.searched:,} of "
        notes = [
            f"Trained: {self.student}; {count(self.steps, 'step')} on {count(self.trained, 'query', 'queries')}, "
            f"{count(self.seeds, 'seed')}.",
            f"Measured with {count(self.held_out, 'other query', 'other queries')} in {where}{self.passages:,} "
            f"passages, in percent, with 95% intervals over queries and seeds.",
            *self._too_few(),
        ]
        return Table("Student trained on each strategy", columns, tuple(rows), note="\n".join(notes))

    def _too_few(self) -> list[str]:
        needed = [trial.needed for trial in self.trials if trial.needed is not None]
        if not needed:
            return []
        return [
            f"Distinguishing any strategy within the noise from the best would take about "
            f"{max(min(needed), self.held_out + 1):,} held-out queries or more."
        ]

    def _mined(self) -> Table:
        rows = []
        for trial in self.trials:
            if trial.error or trial.candidates is None:
                continue
            hardness, cost, rate = trial.hardness, trial.cost, trial.false_negatives
            rows.append(
                (
                    _short(trial.name),
                    number(round(trial.candidates, 1)),
                    number(trial.short),
                    percent(None if rate is None else rate.rate),
                    "-" if rate is None else f"{percent(rate.low)} to {percent(rate.high)}",
                    percent(None if hardness is None else hardness.above),
                    number(None if hardness is None else hardness.below),
                    percent(None if hardness is None else hardness.words),
                    _seconds(None if cost is None else cost.preparing + cost.mining),
                    number(None if cost is None else round(cost.bytes / 1e6, 1)),
                    _seconds(trial.whole_seconds),
                )
            )
        columns = (
            "strategy", "negatives", "short", "false", "95% interval", "above", "below", "words", "s", "MB",
            "s, all rows",
        )  # fmt: skip
        notes = [
            f"A sample of {self.sample:,} of {count(self.rows, 'row')}. Short: rows with fewer than {self.negatives} "
            f"negatives. False: share of relevant negatives.",
            "Above: share of negatives that score above their positive. Below: mean distance to the positive's score.",
            f"Both use the scores of {self.scored_by}. Words: share of the query's words that a negative contains.",
            f"False negatives: {self.false_by}."
            if self.false_by
            else "False negatives are unknown: pass judgments= or a teacher=, or rows with several positives.",
        ]
        return Table("Mined negatives", columns, tuple(rows), note="\n".join(notes))

    def _common(self) -> Table:
        names = list(self.overlap)
        rows = tuple(
            (
                f"{index}. {_short(name)}",
                *("" if name == other else percent(self.overlap[name][other]) for other in names),
            )
            for index, name in enumerate(names, start=1)
        )
        columns = ("", *(f"{index}." for index in range(1, len(names) + 1)))
        return Table("Overlap: share of negatives in common", columns, rows)


def _hundredfold(value: float) -> str:
    return f"{100 * value:.1f}"


def _seconds(value: float | None) -> str:
    return number(None if value is None else round(value, 2))


def _short(name: str) -> str:
    """Shorten the name of a strategy to keep tables narrow."""
    name = one_line(name)
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"
